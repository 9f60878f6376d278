//go:build linux

// Package existing finds the application's open TCP connections that should go through the pod's
// gateway and do not, and resets them on request. Most of them are older than the gateway.
//
// It asks the kernel for the sockets of its own network namespace, which is the pod's
// (sock_diag(7)). Every socket has the cgroup that made it: sockets of the gateway are ignored, and
// so are those outside of the pod's cgroup, where the capture does not reach either. Rules decide
// about the rest as the eBPF programs decide about a new connection.
//
// A connection whose handshake has not ended is visible at the connecting end only.
package existing
