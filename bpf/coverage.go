//go:build linux

package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// content is what the maps of a coverage hold.
type content struct {
	ranges    map[objectsDestinations]uint32
	plaintext map[objectsRange]objectsPorts
	ports     map[uint32]uint64 // the words of kgw_ports that are not zero
}

// Cover changes what is captured and whose plaintext is accepted, for every connection
// from now on. Each destination and each source goes from what it was to what it will be,
// and is nothing else meanwhile. After an error everything is as before.
func (p *Programs) Cover(c api.Coverage) error {
	if err := p.cover(c); err != nil {
		return fmt.Errorf("filling the maps: %w", err)
	}
	return nil
}

func (p *Programs) cover(c api.Coverage) error {
	if err := c.Validate(); err != nil {
		return err
	}
	next := content{ranges: ranges(c, p.options.PodIPs), ports: portBits(c.ExcludePorts)}
	var err error
	if next.plaintext, err = plaintext(c.PlaintextFrom); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.config
	p.config.NodePorts, p.config.RefuseOutside = c.NodePorts, flag(c.Outside == api.OutsideRefuse)
	err = p.putConfig()
	if err == nil {
		err = p.exchange(p.content, next)
	}
	if err != nil {
		p.config = before
		return errors.Join(err, p.putConfig(), p.exchange(next, p.content))
	}
	p.content = next
	return nil
}

// exchange makes the maps hold next where they held now, or parts of both.
func (p *Programs) exchange(now, next content) error {
	return cmp.Or(
		exchange(p.objects.KgwRanges, now.ranges, next.ranges, func(k objectsDestinations) uint32 { return k.Bits }),
		exchange(p.objects.KgwPlaintext, now.plaintext, next.plaintext, func(k objectsRange) uint32 { return k.Bits }),
		exchange(p.objects.KgwPorts, now.ports, next.ports, func(uint32) uint32 { return 0 }))
}

// exchange puts everything, the longest prefixes first, before it removes anything, the
// shortest first. So the prefix that decides about an address is the old one or the new one
// at any time, and no other.
func exchange[K comparable, V any](m *ebpf.Map, now, next map[K]V, bits func(K) uint32) error {
	shorter := func(a, b K) int { return cmp.Compare(bits(a), bits(b)) }
	for _, key := range slices.Backward(slices.SortedFunc(maps.Keys(next), shorter)) {
		if err := m.Put(key, next[key]); err != nil {
			return fmt.Errorf("map %v: %w", m, err)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(now), shorter) {
		if _, stays := next[key]; stays {
			continue
		}
		if m.Type() == ebpf.Array {
			if err := m.Put(key, *new(V)); err != nil {
				return fmt.Errorf("map %v: %w", m, err)
			}
		} else if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("map %v: %w", m, err)
		}
	}
	return nil
}

// ranges returns the content of the map kgw_ranges. Later ones win.
func ranges(c api.Coverage, podIPs []netip.Addr) map[objectsDestinations]uint32 {
	all := map[objectsDestinations]uint32{}
	put := func(action uint32, prefixes ...netip.Prefix) {
		for _, r := range prefixes {
			if action == actionExclude || !within(r, local()) && !within(r, outside()[1:]) {
				all[destinations(r)] = action
			}
		}
	}
	excluded := func(ip netip.Addr) bool { return within(host(ip), c.Exclude) }
	for _, r := range outside() {
		all[destinations(r)] = actionOutside
	}
	for _, ip := range c.Nodes {
		if !excluded(ip) {
			put(actionNode, host(ip))
		}
	}
	put(actionService, c.Services...)
	put(actionPod, c.Capture...)
	put(actionExclude, c.Exclude...)
	for _, endpoint := range c.Endpoints {
		if !excluded(endpoint.Addr()) {
			all[destination(endpoint)] = actionService
		}
	}
	for _, endpoint := range c.Pass {
		all[destination(endpoint)] = actionExclude
	}
	for _, r := range local() {
		all[destinations(r)] = actionLocal
	}
	for _, ip := range podIPs {
		all[destinations(host(ip))] = actionLocal
	}
	return all
}

// local are the ranges that reach no other pod.
func local() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("0.0.0.0/32"),
		netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("::/128"),
		Sources6(),
	}
}

// outside are ranges that others do not speak for: those of IPv4, which ::/0 contains in
// their v4-mapped form, and those that mean nothing without the interface that the
// application names.
func outside() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("fe80::/10")}
}

// within reports whether all of r lies within one of ranges.
func within(r netip.Prefix, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(wider netip.Prefix) bool {
		return wider.Bits() <= r.Bits() && wider.Contains(r.Addr())
	})
}

func host(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()) }

// plaintext returns the content of the map kgw_plaintext. A source has the ports of every
// range that contains it.
func plaintext(sources []api.Source) (map[objectsRange]objectsPorts, error) {
	every := api.PortRange{First: 0, Last: 65535}
	// As in ranges, so that ::/0 does not contain IPv4.
	all := map[objectsRange]objectsPorts{rangeKey(netip.MustParsePrefix("0.0.0.0/0")): {}}
	for _, s := range sources {
		var found []api.PortRange
		for _, wider := range sources {
			switch {
			case wider.From.Bits() > s.From.Bits() || !wider.From.Contains(s.From.Addr()):
			case len(wider.Ports) == 0:
				found = append(found, every)
			default:
				found = append(found, wider.Ports...)
			}
		}
		set := api.NewPorts(found...)
		if len(set) > maxPorts {
			return nil, fmt.Errorf("plaintext from %v is allowed to more than %d ranges of ports", s.From, maxPorts)
		}
		var ports objectsPorts
		for i, r := range set {
			ports.List[i].First, ports.List[i].End = uint32(r.First), uint32(r.Last)+1
		}
		all[rangeKey(s.From)] = ports
	}
	return all, nil
}

// allows is what plaintext_allowed of steer.h does.
func (p *objectsPorts) allows(port uint16) bool {
	for _, r := range p.List {
		if r.First <= uint32(port) && uint32(port) < r.End {
			return true
		}
	}
	return false
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

// destinations is the key of r, destination that of one endpoint.
func destinations(r netip.Prefix) objectsDestinations {
	key := rangeKey(r)
	return objectsDestinations{Bits: key.Bits, To: objectsEndpoint{Ip: key.Ip}}
}

func destination(a netip.AddrPort) objectsDestinations {
	return objectsDestinations{Bits: endpointBits, To: endpoint(a)}
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

// Outside counts, by network, connections into private address space that no range names,
// those with most of them first. It knows 256 networks; the counters know all connections.
func (p *Programs) Outside() ([]api.OutsideNetwork, error) {
	var list []api.OutsideNetwork
	var key objectsRange
	var connections uint64
	entries := p.objects.KgwOutside.Iterate()
	for entries.Next(&key, &connections) {
		e := objectsEndpoint{Ip: key.Ip}
		ip := e.addrPort().Addr()
		bits := int(key.Bits)
		if ip.Is4() {
			bits -= 96
		}
		list = append(list, api.OutsideNetwork{Network: netip.PrefixFrom(ip, bits), Connections: connections})
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("reading the networks outside: %w", err)
	}
	slices.SortFunc(list, func(a, b api.OutsideNetwork) int {
		return cmp.Or(cmp.Compare(b.Connections, a.Connections), a.Network.Addr().Compare(b.Network.Addr()))
	})
	return list, nil
}
