//go:build linux

// Package existing finds the application's open TCP connections that should go
// through the pod's gateway and do not, most of which are older than the gateway, and
// resets them on request.
//
// It asks the kernel for the sockets of its own network namespace, which is the pod's
// (sock_diag(7)). Every socket comes with the cgroup that made it: what belongs to
// the gateway is left aside, and so is what lies outside of the pod's cgroup, where
// the capture does not reach either. Rules decide about the rest as the eBPF programs
// would decide about a new connection.
//
// A connection whose handshake has not ended is seen from the connecting end alone.
package existing
