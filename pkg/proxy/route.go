//go:build linux

package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// route is how connections to a destination are carried.
type route struct {
	// wire is api.WirePort, api.WireInband, or api.WireNone if the configured wire does not
	// reach the destination.
	wire string
	// pod means that the destination is the address of a pod, which its certificate must
	// name. Behind other addresses the cluster chooses a pod.
	pod bool
}

// routes are the ranges of a configuration. A lookup costs one access to a map for each prefix
// length that occurs.
type routes struct {
	wire api.Wire
	// pods says of each range whether it is one of pods; bits4 and bits6 are the
	// prefix lengths in it, longest first.
	pods         map[netip.Prefix]bool
	bits4, bits6 []int
	nodes        map[netip.Addr]struct{}
	nodePorts    [2]uint16
}

func newRoutes(config *api.Config) (routes, error) {
	r := routes{
		wire:      config.Wire.OrDefault(),
		pods:      make(map[netip.Prefix]bool, len(config.Capture)+len(config.Services)),
		nodes:     make(map[netip.Addr]struct{}, len(config.Nodes)),
		nodePorts: config.NodePorts,
	}
	if r.wire != api.WireAuto && r.wire != api.WirePort && r.wire != api.WireInband {
		return routes{}, fmt.Errorf("wire %q is unknown", r.wire)
	}
	if r.nodePorts == [2]uint16{} {
		r.nodePorts = api.DefaultNodePorts()
	}
	// A range that is listed twice is one of pods, as in the eBPF programs.
	for _, p := range config.Services {
		r.pods[p.Masked()] = false
	}
	for _, p := range config.Capture {
		r.pods[p.Masked()] = true
	}
	lengths4, lengths6 := make(map[int]struct{}), make(map[int]struct{})
	for p := range r.pods {
		if p.Addr().Is4() {
			lengths4[p.Bits()] = struct{}{}
		} else {
			lengths6[p.Bits()] = struct{}{}
		}
	}
	longestFirst := func(a, b int) int { return b - a }
	r.bits4 = slices.SortedFunc(maps.Keys(lengths4), longestFirst)
	r.bits6 = slices.SortedFunc(maps.Keys(lengths6), longestFirst)
	for _, ip := range config.Nodes {
		r.nodes[ip] = struct{}{}
	}
	return r, nil
}

// route says how to reach destination.
func (r *routes) route(destination netip.AddrPort) route {
	pod := r.isPod(destination)
	switch {
	case r.wire == api.WireInband, r.wire == api.WireAuto && !pod:
		return route{wire: api.WireInband, pod: pod}
	case pod:
		return route{wire: api.WirePort, pod: true}
	}
	return route{wire: api.WireNone}
}

// isPod reports whether destination is a pod and not a Service or a node port. An address in no
// range counts as a pod's, which is checked more strictly.
func (r *routes) isPod(destination netip.AddrPort) bool {
	ip, port := destination.Addr(), destination.Port()
	if _, node := r.nodes[ip]; node && port >= r.nodePorts[0] && port <= r.nodePorts[1] {
		return false
	}
	lengths := r.bits6
	if ip.Is4() {
		lengths = r.bits4
	}
	for _, bits := range lengths {
		// The error is a length that the family does not have.
		if p, err := ip.Prefix(bits); err == nil {
			if pod, ok := r.pods[p]; ok {
				return pod
			}
		}
	}
	return true
}
