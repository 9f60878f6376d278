package verify

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
)

const testCanary = "canary-0123456789"

var (
	near = netip.MustParseAddrPort("10.0.0.1:40000")
	far  = netip.MustParseAddrPort("10.0.0.2:18443")
)

// tcp4 and tcp6 are whole packets with a segment.
func tcp4(from, to netip.AddrPort, sequence uint32, syn bool, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[9] = 0x45, protoTCP
	copy(b[12:], from.Addr().AsSlice())
	copy(b[16:], to.Addr().AsSlice())
	b = append(b, tcp(from, to, sequence, syn, payload)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func tcp6(from, to netip.AddrPort, extensions []byte, first byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6] = 0x60, first
	copy(b[8:], from.Addr().AsSlice())
	copy(b[24:], to.Addr().AsSlice())
	b = append(append(b, extensions...), tcp(from, to, 1, false, payload)...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

func tcp(from, to netip.AddrPort, sequence uint32, syn bool, payload []byte) []byte {
	b := make([]byte, 24) // with four bytes of options
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint32(b[4:], sequence)
	b[12] = 6 << 4
	if syn {
		b[13] = 2
	}
	return append(b, payload...)
}

func packet(hardware, protocol uint16, ip []byte) *pcapng.Packet {
	c := pcapng.Cooked{Protocol: protocol, Hardware: hardware}
	data := append(c.Append(nil), ip...)
	return &pcapng.Packet{Data: data, Length: len(data)}
}

var (
	eth0 = pcapng.Interface{Name: "eth0", LinkType: pcapng.LinuxSLL2}
	lo   = pcapng.Interface{Name: "lo", LinkType: pcapng.LinuxSLL2}
)

func newTestObserver() *observer { return newObserver(testCanary, func() {}) }

func TestSegments(t *testing.T) {
	from6, to6 := netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2")
	for name, c := range map[string]struct {
		protocol uint16
		ip       []byte
		want     bool
	}{
		"v4":           {etherIPv4, tcp4(near, far, 7, false, []byte("x")), true},
		"v4 padded":    {etherIPv4, append(tcp4(near, far, 7, false, []byte("x")), 0, 0), true},
		"v4 cut":       {etherIPv4, tcp4(near, far, 7, false, []byte("xx"))[:45], false},
		"v6":           {etherIPv6, tcp6(from6, to6, nil, protoTCP, []byte("x")), true},
		"v6 extension": {etherIPv6, tcp6(from6, to6, []byte{protoTCP, 0, 0, 0, 0, 0, 0, 0}, 60, []byte("x")), true},
		"v6 fragment":  {etherIPv6, tcp6(from6, to6, []byte{protoTCP, 0, 0, 0, 0, 0, 0, 0}, 44, []byte("x")), false},
		"v6 endless":   {etherIPv6, tcp6(from6, to6, []byte{60, 255, 0, 0, 0, 0, 0, 0}, 60, nil), false},
		"arp":          {0x0806, make([]byte, 64), false},
	} {
		g, ok := parseSegment(pcapng.Cooked{Protocol: c.protocol}, c.ip)
		if ok != c.want || ok && string(g.payload) != "x" {
			t.Errorf("%s: %+v, %v", name, g, ok)
		}
	}
}

// feed sends the pieces of text as segments, in the order that is given.
func feed(o *observer, about pcapng.Interface, hardware uint16, pieces []string, arrival []int) {
	o.add(about, packet(hardware, etherIPv4, tcp4(near, far, 0xfffffff0, true, nil)))
	for _, i := range arrival {
		sequence := uint32(0xfffffff1)
		for _, before := range pieces[:i] {
			sequence += uint32(len(before))
		}
		o.add(about, packet(hardware, etherIPv4, tcp4(near, far, sequence, false, []byte(pieces[i]))))
	}
}

// TestCanaryInPieces looks for a canary that no packet holds whole.
func TestCanaryInPieces(t *testing.T) {
	pieces := []string{"hello canary-", "0", "123456", "789 and more"}
	for _, arrival := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 2, 2, 1, 0, 3, 1}, {1, 0, 3, 2}} {
		o := newTestObserver()
		feed(o, eth0, 1, pieces, arrival)
		if o.network == nil || o.network.Interface != "eth0" || o.network.Source != near || o.loopback != nil {
			t.Errorf("in order %v: %+v, %+v", arrival, o.network, o.loopback)
		}
	}
	o := newTestObserver()
	feed(o, lo, pcapng.HardwareLoopback, pieces, []int{0, 1, 2, 3})
	if o.network != nil || o.loopback == nil {
		t.Errorf("on loopback: %+v, %+v", o.network, o.loopback)
	}
	o = newTestObserver()
	feed(o, eth0, 1, pieces, []int{0, 1, 3})
	if there, _ := o.between(near, far); o.network != nil || there == nil || there.whole() {
		t.Errorf("with a gap: %+v, whole %v", o.network, there.whole())
	}
	// Whatever carries it: this is no TCP.
	o = newTestObserver()
	o.add(eth0, packet(1, 0x1234, []byte("..."+testCanary)))
	if o.network == nil || string(o.network.Data) != testCanary {
		t.Errorf("in a packet of another kind: %+v", o.network)
	}
}

// TestManySmallSegments: what waits for a gap is bounded in number, too.
func TestManySmallSegments(t *testing.T) {
	s := stream{canary: []byte(testCanary)}
	s.add(segment{syn: true}, false)
	for i := range uint32(4 * maxSegments) {
		s.add(segment{sequence: 2 * (i + 1), payload: []byte("x")}, true)
	}
	if len(s.pending) > maxSegments || !s.lost || s.whole() {
		t.Errorf("%d segments wait, lost %v", len(s.pending), s.lost)
	}
}

func record(kind byte, version uint16, body []byte) []byte {
	b := []byte{kind, byte(version >> 8), byte(version), byte(len(body) >> 8), byte(len(body))}
	return append(b, body...)
}

func TestRecords(t *testing.T) {
	handshake, data := record(recordHandshake, 0x0301, []byte("hello")), record(recordData, 0x0303, bytes.Repeat([]byte{7}, 300))
	good := slices.Concat(handshake, record(recordChangeCipher, 0x0303, []byte{1}), data, data)
	for _, size := range []int{1, 3, 100, len(good)} {
		var r records
		for piece := range slices.Chunk(good, size) {
			r.feed(piece)
		}
		if r.broken || r.data != 2 || string(r.hello) != "hello" || len(r.shown) != shownBytes || r.shown[0] != recordData {
			t.Errorf("pieces of %d: %+v", size, r)
		}
	}
	for name, bad := range map[string][]byte{
		"plaintext":       []byte("GET / HTTP/1.1\r\n"),
		"no handshake":    data,
		"plaintext after": slices.Concat(good, []byte("GET / HTTP/1.1\r\n")),
		"old version":     slices.Concat(handshake, record(recordData, 0x0301, []byte{1})),
		"too long":        slices.Concat(handshake, []byte{recordData, 3, 3, 0x41, 1}),
		"empty":           slices.Concat(handshake, []byte{recordData, 3, 3, 0, 0}),
	} {
		var r records
		if r.feed(bad); !r.broken {
			t.Errorf("%s is taken for TLS: %+v", name, r)
		}
	}
}

func serverHello() []byte {
	b := append([]byte{2, 0, 0, 0, 3, 3}, make([]byte, 32)...)
	b = append(b, 2, 9, 9, 0x13, 0x01, 0)
	return append(b, 0, 14, 0, 43, 0, 2, 3, 4, 0, 51, 0, 4, 0x11, 0xec, 0, 0)
}

func TestServerHello(t *testing.T) {
	expect.Equal(t, "read", "TLS 1.3 X25519MLKEM768 TLS_AES_128_GCM_SHA256", described(serverHello()))
	for i := range serverHello() {
		if got := described(serverHello()[:i]); got != "" {
			t.Errorf("the first %d bytes read as %q", i, got)
		}
	}
}

func FuzzObserver(f *testing.F) {
	f.Add(uint16(etherIPv4), tcp4(near, far, 1, true, []byte(testCanary)))
	f.Add(uint16(etherIPv6), tcp6(netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[fd00::2]:2"),
		[]byte{protoTCP, 0, 0, 0, 0, 0, 0, 0}, 60, record(recordHandshake, 0x0301, serverHello())))
	f.Fuzz(func(t *testing.T, protocol uint16, ip []byte) {
		o := newTestObserver()
		p := packet(1, protocol, ip)
		o.add(eth0, p)
		o.add(eth0, p)
		if bytes.Contains(ip, []byte(testCanary)) != (o.network != nil) {
			t.Error("the canary and what was seen of it differ")
		}
	})
}

func FuzzStream(f *testing.F) {
	f.Add(uint32(0), uint32(5), uint32(2), []byte("hello"), []byte("world"), []byte("again"))
	f.Fuzz(func(t *testing.T, x, y, z uint32, a, b, c []byte) {
		s := stream{canary: []byte(testCanary)}
		s.add(segment{sequence: 0, syn: true}, false)
		total := 0
		for _, g := range []segment{{sequence: x, payload: a}, {sequence: y, payload: b}, {sequence: z, payload: c}} {
			s.add(g, true)
			total += len(g.payload)
		}
		if int(s.next-1) > total || s.waiting > maxPending || len(s.tail) >= len(testCanary) {
			t.Errorf("%d bytes read of %d, %d wait, tail of %d", s.next-1, total, s.waiting, len(s.tail))
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add(record(recordHandshake, 0x0301, serverHello()), 3)
	f.Add([]byte("GET / HTTP/1.1"), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		var whole, pieces records
		whole.feed(b)
		for piece := range slices.Chunk(b, min(max(size, 1), 1<<16)) {
			pieces.feed(piece)
		}
		if whole.broken != pieces.broken || whole.data != pieces.data || !bytes.Equal(whole.hello, pieces.hello) {
			t.Errorf("in one piece %+v, in several %+v", whole, pieces)
		}
		described(b)
		described(whole.hello)
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"event":"sent","local":"10.0.0.1:1"}`))
	f.Add([]byte(`{"msg":"connection","source":"10.0.0.1:1","tls":{"local":"[fe80::1%x]:1"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if event, err := parseEvent(line); err == nil && event.Event == "" {
			t.Error("an event without a name")
		}
		parseLog(bytes.NewReader(line))
	})
}
