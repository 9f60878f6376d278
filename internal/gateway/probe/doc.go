//go:build linux

// Package probe makes connections of a pod for 'kubectl gateway verify' as an application of the
// pod does, through its gateway, but from the gateway's own container. Connections of that
// container are not captured, so the process that connects or listens runs in a cgroup of its own
// below the pod's, without any privilege.
package probe
