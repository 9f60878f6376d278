//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// neverCaptured are the ranges that reach no other pod, or (link-local) mean nothing
// without the interface that the application named.
func neverCaptured() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("0.0.0.0/32"),
		netip.MustParsePrefix("::/128"),
		netip.MustParsePrefix("fe80::/10"),
	}
}

// ranges returns the content of the map kgw_ranges.
func (o *Options) ranges() (map[objectsRange]uint32, error) {
	ranges := map[objectsRange]uint32{
		// Otherwise a range like ::/0 contains every IPv4 address in its
		// v4-mapped form.
		rangeKey(netip.MustParsePrefix("0.0.0.0/0")): actionExclude,
	}
	if o.NodePorts[1] != 0 {
		for _, ip := range o.Nodes {
			ip = ip.Unmap()
			if !slices.ContainsFunc(o.Exclude, func(r netip.Prefix) bool { return r.Contains(ip) }) {
				ranges[rangeKey(netip.PrefixFrom(ip, ip.BitLen()))] = actionNode
			}
		}
	}
	// Later ones win.
	for _, group := range []struct {
		prefixes []netip.Prefix
		action   uint32
	}{{o.Services, actionService}, {o.Capture, actionPod}, {o.Exclude, actionExclude}} {
		for _, r := range group.prefixes {
			if !r.IsValid() || r.Addr().Is4In6() {
				return nil, fmt.Errorf("range %v cannot be used", r)
			}
			if group.action == actionExclude || !isNeverCaptured(r) {
				ranges[rangeKey(r)] = group.action
			}
		}
	}
	for _, r := range neverCaptured() {
		ranges[rangeKey(r)] = actionExclude
	}
	for _, ip := range o.PodIPs {
		ip = ip.Unmap()
		ranges[rangeKey(netip.PrefixFrom(ip, ip.BitLen()))] = actionExclude
	}
	return ranges, nil
}

// plaintext returns the content of the map kgw_plaintext.
func (o *Options) plaintext() (map[objectsRange]uint32, error) {
	// As in ranges, so that ::/0 does not contain IPv4.
	sources := map[objectsRange]uint32{rangeKey(netip.MustParsePrefix("0.0.0.0/0")): 0}
	for _, r := range o.PlaintextFrom {
		if !r.IsValid() || r.Addr().Is4In6() {
			return nil, fmt.Errorf("range %v cannot be used", r)
		}
		sources[rangeKey(r)] = 1
	}
	return sources, nil
}

// isNeverCaptured reports whether all of r lies within a range that is never captured.
func isNeverCaptured(r netip.Prefix) bool {
	return slices.ContainsFunc(neverCaptured(), func(never netip.Prefix) bool {
		return never.Bits() <= r.Bits() && never.Contains(r.Addr())
	})
}

// rangeKey is the key of r in the map: 128 bits for both families.
func rangeKey(r netip.Prefix) objectsRange {
	r = r.Masked()
	bits := r.Bits()
	if r.Addr().Is4() {
		bits += 96
	}
	return objectsRange{Bits: uint32(bits), Ip: words(r.Addr())}
}

// words returns ip in its 16-byte form, IPv4 as v4-mapped, in network order.
func words(ip netip.Addr) (w [4]uint32) {
	b := ip.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// endpoint returns a as the programs have it.
func endpoint(a netip.AddrPort) objectsEndpoint {
	return objectsEndpoint{Ip: words(a.Addr()), Port: networkOrder(a.Port())}
}

// addrPort is the reverse of endpoint: IPv4 for v4-mapped.
func (e *objectsEndpoint) addrPort() netip.AddrPort {
	var ip [16]byte
	for i, word := range e.Ip {
		binary.NativeEndian.PutUint32(ip[4*i:], word)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(ip).Unmap(), networkOrder(e.Port))
}

// networkOrder turns a port from the host's order into the network's, and back.
func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// portBits returns the words of the map kgw_ports that are not zero.
func portBits(ports []uint16) map[uint32]uint64 {
	bits := make(map[uint32]uint64)
	for _, p := range ports {
		bits[uint32(p)/64] |= 1 << (p % 64)
	}
	return bits
}
