//go:build linux

package knock

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// syn returns a SYN as the kernel shows it: without a checksum.
func syn(six bool) []byte {
	const words = 10
	tcp := make([]byte, words*4)
	binary.BigEndian.PutUint16(tcp, 40000)
	binary.BigEndian.PutUint16(tcp[2:], 18000)
	binary.BigEndian.PutUint32(tcp[4:], 0xfffffffe)
	tcp[12], tcp[13], tcp[20], tcp[21], tcp[22], tcp[23] = words<<4, 2, 2, 4, 5, 0xb4
	if six {
		b := make([]byte, ip6Header)
		putHeader6(b, netip.MustParseAddr("fd00:9::1").As16(), netip.IPv6Loopback().As16(), unix.IPPROTO_TCP, len(tcp))
		return append(b, tcp...)
	}
	b := []byte{0x45, 0, 0, 60, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 1, 127, 0, 0, 1}
	return append(b, tcp...)
}

// described is what a packet says. Sums are those that the receiver makes: 0 is right.
type described struct {
	From, To             netip.AddrPort
	Protocol             byte
	Header, Sum          uint16
	Flags                byte
	Sequence, Acked      uint32
	Kind, Code           byte
	Quoted, Size, Length int
}

func describe(b []byte) (d described) {
	p := packet(b)
	from, to := p.addresses()
	body := p[p.ip():]
	sum := uint32(len(body))
	if p.six() {
		d.Protocol = p[6]
		d.Length = int(binary.BigEndian.Uint16(p[4:])) + ip6Header
		sum = add(sum, p[8:40])
	} else {
		d.Protocol = p[9]
		d.Length = int(binary.BigEndian.Uint16(p[2:]))
		d.Header = fold(add(0, p[:p.ip()]))
		sum = add(sum, p[12:20])
	}
	if sum += uint32(d.Protocol); d.Protocol == unix.IPPROTO_ICMP {
		sum = 0
	}
	d.Sum, d.Size = fold(add(sum, body)), len(b)
	if d.Protocol != unix.IPPROTO_TCP {
		d.From, d.To = netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0)
		d.Kind, d.Code, d.Quoted = body[0], body[1], len(body)-icmpHeader
		return d
	}
	d.From, d.To = p.ends()
	d.Sequence, d.Acked, d.Flags = p.sequence(), binary.BigEndian.Uint32(body[8:]), body[13]
	return d
}

func TestAnswers(t *testing.T) {
	for _, six := range []bool{false, true} {
		p := cut(append(syn(six), "early data"...))
		client, listener := p.ends()
		bare := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
		size, icmp, network, host := ip4Header+40, byte(unix.IPPROTO_ICMP), [2]byte{3, 0}, [2]byte{3, 1}
		if six {
			size, icmp, network, host = ip6Header+40, unix.IPPROTO_ICMPV6, [2]byte{1, 0}, [2]byte{1, 3}
		}
		unreachable := func(what [2]byte) described {
			n := 2*size - 40 + icmpHeader
			return described{From: bare(listener), To: bare(client), Protocol: icmp, Kind: what[0], Code: what[1], Quoted: size, Size: n, Length: n}
		}
		for name, c := range map[string]struct {
			got  []byte
			want described
		}{
			"again": {p.again(), described{From: client, To: listener, Protocol: unix.IPPROTO_TCP, Flags: 2, Sequence: 0xfffffffe, Size: size, Length: size}},
			"reset": {p.reset(), described{From: listener, To: client, Protocol: unix.IPPROTO_TCP, Flags: 0x14, Acked: 0xffffffff, Size: size - 20, Length: size - 20}},
			"host":  {p.unreachable(unix.EHOSTUNREACH), unreachable(host)},
			"net":   {p.unreachable(unix.ENETUNREACH), unreachable(network)},
		} {
			if diff := cmp.Diff(c.want, describe(c.got), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("%s, IPv6 %v (-want +got):\n%s", name, six, diff)
			}
		}
	}
}

// Whatever comes from the raw socket makes a packet whose parts can be read, or none.
func FuzzCut(f *testing.F) {
	for _, six := range []bool{false, true} {
		for _, n := range []int{0, 1, 19, 20, 39, 40, 59, 60, 79, 80} {
			f.Add(syn(six)[:min(n, len(syn(six)))])
		}
		long, short := syn(six), syn(six)
		long[len(long)-28] = 0xf0
		short[len(short)-28] = 0x40
		f.Add(long)
		f.Add(short)
	}
	f.Add([]byte{0x4f, 59: 0})
	f.Add([]byte{0x40, 59: 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := cut(b)
		if p == nil {
			return
		}
		p.ends()
		for _, made := range [][]byte{p.again(), p.reset(), p.unreachable(unix.EHOSTUNREACH)} {
			if d := describe(made); d.Length != len(made) || d.Sum != 0 || d.Header != 0 {
				t.Errorf("%x makes %x: %+v", b, made, d)
			}
		}
	})
}
