//go:build linux

// Package probe makes connections of a pod for 'kubectl gateway verify': as an
// application of the pod would, through its gateway, but out of the gateway's own
// container. What a gateway's container does itself is not captured, so the
// process that connects or listens is started in a cgroup of its own below the
// pod's, without any privilege.
package probe
