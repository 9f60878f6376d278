//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// loopbackIndex is that of lo in every network namespace (LOOPBACK_IFINDEX, include/net/flow.h).
	loopbackIndex = 1
	// sourcesProtocol marks the routes of Sources4 and Sources6 as a gateway's (rtm_protocol of rtnetlink(7)).
	sourcesProtocol = 107
)

// Sources4 are the addresses from which the gateway dials applications over IPv4. They are loopback's anyway.
func Sources4() netip.Prefix { return netip.MustParsePrefix("127.107.0.0/16") }

// Sources6 are the addresses that [Programs.RouteSources] adds to loopback, as is_source6 of socket.h knows them: the
// dummy prefix of RFC 9780. No host has such an address, and no router forwards packets with one.
func Sources6() netip.Prefix { return netip.MustParsePrefix("100:0:0:1::/64") }

// RouteSources leads Sources6 to loopback, where IPv6 has no other address than ::1. The gateway dials
// applications from there, so that its connections to one application are not bounded by the number of ports. It
// must be called in the pod's network namespace. The route stays until [UnrouteSources].
func (p *Programs) RouteSources() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := routeSources(Sources6(), loopbackIndex); err != nil {
		return err
	}
	p.config.Sources6 = 1
	if err := p.putConfig(); err != nil {
		p.config.Sources6 = 0
		return fmt.Errorf("allowing connections from %v: %w", Sources6(), err)
	}
	return nil
}

// routeAll leads the sources to loopback for sockets that are bound to an interface, too: what such a listener answers
// has no other route than by that interface.
func (p *Programs) routeAll(interfaces []net.Interface) error {
	ranges := []netip.Prefix{Sources4()}
	if p.config.Sources6 != 0 {
		ranges = append(ranges, Sources6())
	}
	var errs []error
	for _, r := range ranges {
		errs = append(errs, routeSources(r, loopbackIndex))
		for _, i := range interfaces {
			errs = append(errs, routeSources(r, i.Index))
		}
	}
	// They go when an interface goes down, and there is another change when it comes up.
	for i, err := range errs {
		if errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.ENODEV) {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// routeSources leads sources to loopback for sockets that are bound to the interface with this index. For all others
// the route with the lowest metric holds, that of lo.
func routeSources(sources netip.Prefix, index int) error {
	route := &netlink.Route{
		LinkIndex: index, Priority: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: sourcesProtocol,
		Dst: &net.IPNet{IP: sources.Addr().AsSlice(), Mask: net.CIDRMask(sources.Bits(), sources.Addr().BitLen())},
	}
	if err := netlink.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("leading %v to loopback (interface %d): %w", sources, index, err)
	}
	return nil
}

// UnrouteSources removes the routes that gateways have added from the network namespace of the calling thread.
func UnrouteSources() error {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: sourcesProtocol}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("listing the routes of %v and %v: %w", Sources4(), Sources6(), err)
	}
	var errs []error
	for _, r := range routes {
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing the route of %v: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
