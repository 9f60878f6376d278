//go:build linux

// Package confine takes from a process without privilege what it does not need any more: a worker and
// an exporter confine themselves when they are set up, before they read a byte from the network.
// Whoever takes over such a process keeps its open files and its share of these rules, and nothing else.
//
//   - HideMemory keeps other processes of the same user from its memory and its files.
//   - A seccomp filter allows the system calls in table.go and refuses all others. It is in force for
//     all threads, for good.
//   - Landlock, where the kernel has it, refuses every path of the file system, and TCP sockets with a
//     port of their own.
//
// A refused call fails with EPERM, and the kernel's audit log has it. No call kills the process: one
// that a later Go runtime makes must not end the pod's connections. Calls that are newer than this build fail
// with ENOSYS, as on a kernel without them, so that a runtime that tries them goes on with older ones.
package confine
