//go:build linux

package knock

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes of headers in bytes.
const (
	ip4Header  = 20
	ip6Header  = 40
	icmpHeader = 8
	// maxPacket is that of the longest headers of IPv4 and TCP, which are longer than those of IPv6
	// and TCP.
	maxPacket = 60 + 60
)

// packet is a SYN: an IP header without extensions, and a TCP header.
type packet []byte

// cut returns a copy of the headers at the front of b, or nil if they are not those of a TCP packet. Data behind
// them is left out: the application's kernel sends it again (TCP Fast Open).
func cut(b []byte) packet {
	p := packet(b)
	if len(p) < ip4Header || p.ip() < ip4Header {
		return nil
	}
	size := p.ip() + 20
	if len(p) >= size {
		size = p.ip() + int(p.tcp()[12]>>4)*4
	}
	if size < p.ip()+20 || len(p) < size {
		return nil
	}
	return append(packet(nil), p[:size]...)
}

func (p packet) six() bool { return p[0]>>4 == 6 }

// ip returns the size of the IP header.
func (p packet) ip() int {
	if p.six() {
		return ip6Header
	}
	return int(p[0]&15) * 4
}

func (p packet) tcp() []byte { return p[p.ip():] }

// sequence returns the sequence number.
func (p packet) sequence() uint32 { return binary.BigEndian.Uint32(p.tcp()[4:]) }

// ends returns source and destination.
func (p packet) ends() (from, to netip.AddrPort) {
	t := p.tcp()
	source, destination := p.addresses()
	return netip.AddrPortFrom(source, binary.BigEndian.Uint16(t)), netip.AddrPortFrom(destination, binary.BigEndian.Uint16(t[2:]))
}

func (p packet) addresses() (from, to netip.Addr) {
	if p.six() {
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	}
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
}

// again returns the packet to send once more. Its checksum was left to the network card.
func (p packet) again() []byte {
	return finish(append(packet(nil), p...))
}

// reset returns the RST that refuses the connection.
func (p packet) reset() []byte {
	a := p.answer(unix.IPPROTO_TCP, 20)
	t, syn := a[len(a)-20:], p.tcp()
	copy(t[0:2], syn[2:4])
	copy(t[2:4], syn[0:2])
	binary.BigEndian.PutUint32(t[8:], p.sequence()+1)
	const rstACK = 0x14
	t[12], t[13] = 5<<4, rstACK
	return finish(a)
}

// unreachable returns the ICMP message that ends connect(2) with why.
func (p packet) unreachable(why syscall.Errno) []byte {
	if p.six() {
		const unreachable, noRoute, address = 1, 0, 3 // RFC 4443, 3.1
		return p.icmp(unix.IPPROTO_ICMPV6, unreachable, choose(why, noRoute, address))
	}
	const unreachable, network, host = 3, 0, 1 // RFC 792
	return p.icmp(unix.IPPROTO_ICMP, unreachable, choose(why, network, host))
}

func choose(why syscall.Errno, network, host byte) byte {
	if why == unix.ENETUNREACH {
		return network
	}
	return host
}

func (p packet) icmp(protocol, kind, code byte) []byte {
	a := p.answer(protocol, icmpHeader+len(p))
	m := a[len(a)-icmpHeader-len(p):]
	m[0], m[1] = kind, code
	copy(m[icmpHeader:], p)
	return finish(a)
}

// answer returns an IP header back to the client, and room for n bytes.
func (p packet) answer(protocol byte, n int) packet {
	if p.six() {
		a := make(packet, ip6Header+n)
		putHeader6(a, [16]byte(p[24:40]), [16]byte(p[8:24]), protocol, n)
		return a
	}
	a := make(packet, ip4Header+n)
	const ttl = 64
	a[0], a[8], a[9] = 4<<4|ip4Header/4, ttl, protocol
	copy(a[12:16], p[16:20])
	copy(a[16:20], p[12:16])
	return a
}

// putHeader6 writes an IPv6 header in front of n bytes.
func putHeader6(b []byte, from, to [16]byte, protocol byte, n int) {
	clear(b[:ip6Header])
	const hops = 64
	b[0], b[6], b[7] = 6<<4, protocol, hops
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	copy(b[8:], from[:])
	copy(b[24:], to[:])
}

// finish fills in sizes and checksums.
func finish(p packet) []byte {
	head, body := p[:p.ip()], p[p.ip():]
	var protocol byte
	var sum uint32
	if p.six() {
		protocol = p[6]
		binary.BigEndian.PutUint16(p[4:], uint16(len(body)))
		sum = add(0, p[8:40])
	} else {
		protocol = p[9]
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], fold(add(0, head)))
		sum = add(0, p[12:20])
	}
	at := 2 // of ICMP
	if protocol == unix.IPPROTO_TCP {
		at = 16
	}
	sum += uint32(protocol) + uint32(len(body))
	if protocol == unix.IPPROTO_ICMP {
		sum = 0 // without a pseudo-header
	}
	body[at], body[at+1] = 0, 0
	binary.BigEndian.PutUint16(body[at:], fold(add(sum, body)))
	return p
}

// add adds b, of an even length, to a checksum (RFC 1071).
func add(sum uint32, b []byte) uint32 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
