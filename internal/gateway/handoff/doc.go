//go:build linux

// Package handoff has both ends of what a supervisor hands to the processes that it starts, and
// of what it hears from them, so that no end can change alone.
//
//   - A loader inherits a socket on which it hands over the eBPF programs (bpf.SendLoaded). See ForLoader and
//     InheritLoader.
//   - A worker inherits the counters (in memory that it shares with the supervisor), the listeners
//     and a Channel. See ForWorker and InheritWorker.
//   - Over the Channel the worker says that others cannot read its memory, gets the material
//     (Material, a sealed memory file) and says that it is ready. Then the supervisor sends new
//     material, and the worker replies.
//   - A worker writes its edges to clients of a Unix socket: ListenEdges, ServeEdges,
//     ReadEdges.
//   - An exporter inherits the listener for metrics and a socket for questions. See
//     ForExporter and InheritExporter.
//
// Input from the network reaches the children first. So their messages are bounded, are parsed
// strictly, and contain harmless text afterwards.
package handoff
