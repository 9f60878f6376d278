package api

// What a gateway takes of its pod's memory, in bytes. IdleMemory is that of a gateway without
// connections: 20 MiB were charged to a pod, with room for a collection. ConnectionMemory is that of a new
// connection, kernel memory included: 44 KiB were charged for each of 500 that were made at once. Once
// idle it takes about half.
const (
	IdleMemory       = 24 << 20
	ConnectionMemory = 48 << 10
)

// HeadRoom is how much memory should be left of a limit while a gateway runs, in bytes: 16 bulk streams at
// a time took 30 MiB of socket buffers, and as much is left for more connections.
const HeadRoom = 64 << 20
