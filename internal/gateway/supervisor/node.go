//go:build linux

package supervisor

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// nodeSide returns the addresses of the pod's default gateways that lie within capture, the
// ranges of pod addresses. On bridges, routed pairs (ptp) and with Cilium that is the node's
// own address on the pod's link. The kubelet probes from it, and no node object has it. It
// is read here and not derived from the node's range of pods, whose first address may be a
// pod with other network plug-ins. Gateways outside of capture are routers, or placeholders
// such as 169.254.1.1.
func nodeSide(capture []netip.Prefix) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("reading the pod's routes: %w", err)
		}
		for _, route := range routes {
			if bits := 0; route.Dst != nil {
				if bits, _ = route.Dst.Mask.Size(); bits != 0 {
					continue
				}
			}
			for _, hop := range append([]*netlink.NexthopInfo{{Gw: route.Gw}}, route.MultiPath...) {
				via, _ := netip.AddrFromSlice(hop.Gw)
				via = via.Unmap()
				inRange := func(r netip.Prefix) bool { return r.Contains(via) }
				prefix := netip.PrefixFrom(via, via.BitLen())
				if slices.ContainsFunc(capture, inRange) && !slices.Contains(found, prefix) {
					found = append(found, prefix)
				}
			}
		}
	}
	return found, nil
}
