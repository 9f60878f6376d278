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
	// sourcesProtocol marks the route of Sources6 as a gateway's (rtm_protocol of rtnetlink(7)).
	sourcesProtocol = 107
)

// Sources6 are the addresses that [Programs.RouteSources] adds to loopback, as is_source6 of socket.h knows them: the
// dummy prefix of RFC 9780. No host has such an address, and no router forwards packets with one.
func Sources6() netip.Prefix { return netip.MustParsePrefix("100:0:0:1::/64") }

// RouteSources leads Sources6 to loopback, where IPv6 has no other address than ::1. The gateway dials
// applications from there, so that its connections to one application are not bounded by the number of ports. It
// must be called in the pod's network namespace. The route stays until [UnrouteSources].
func (p *Programs) RouteSources() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := routeSources(); err != nil {
		return err
	}
	p.config.Sources6 = 1
	if err := p.putConfig(); err != nil {
		p.config.Sources6 = 0
		return fmt.Errorf("allowing connections from %v: %w", Sources6(), err)
	}
	return nil
}

func routeSources() error {
	if err := netlink.RouteAdd(sourcesRoute()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("leading %v to loopback: %w", Sources6(), err)
	}
	return nil
}

// UnrouteSources removes the route of [Programs.RouteSources] from the network namespace of the calling thread, if
// it is there.
func UnrouteSources() error {
	err := netlink.RouteDel(sourcesRoute())
	switch {
	case err == nil, errors.Is(err, unix.ESRCH), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return nil // the last two: a kernel without IPv6
	}
	return fmt.Errorf("removing the route of %v: %w", Sources6(), err)
}

func sourcesRoute() *netlink.Route {
	sources := Sources6()
	return &netlink.Route{
		LinkIndex: loopbackIndex, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: sourcesProtocol,
		Dst: &net.IPNet{IP: sources.Addr().AsSlice(), Mask: net.CIDRMask(sources.Bits(), 8*net.IPv6len)},
	}
}
