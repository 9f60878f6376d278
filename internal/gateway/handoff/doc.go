//go:build linux

// Package handoff is what a supervisor hands to the processes that it starts, and what it
// hears from them: both ends of it, so that no side can change alone.
//
//   - A worker inherits the material (Material, a sealed memory file), the counters (in
//     memory that it shares with the supervisor), the listeners and a Channel. See
//     ForWorker and InheritWorker.
//   - Over the Channel the worker says that it is ready. Then the supervisor sends new
//     material, and the worker replies.
//   - A worker tells its edges to whoever connects to a Unix socket: ListenEdges,
//     ServeEdges, ReadEdges.
//   - An exporter inherits the listener for metrics and a socket for questions. See
//     ForExporter and InheritExporter.
//
// The children are what input from the network reaches first. So what they say is short
// or bounded, is parsed strictly, and comes out as harmless text.
package handoff
