//go:build linux

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// The option as it stands in a packet, written down a second time.
var ourOption = []byte{253, 7, 'k', 'g', 'w', 'y', 1}

// segment is a TCP segment and what is around it, as a fuzzer chooses it.
type segment struct {
	six        bool
	words      byte // of the IPv4 header
	fragment   uint16
	next       byte // protocol
	flags      byte
	offset     byte // of the data, in words
	port       uint16
	options    []byte // not bound by offset
	truncateBy byte
}

const synFlag = 0x02

func (s segment) packet(client, server netip.AddrPort) []byte {
	var b []byte
	b = append(b, 0, 0, 0, 0, 0, 0, 2, 9, 0, 0, 0, 2) // for lo, where tests of programs run
	body := 20 + len(s.options)
	if s.six {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(body))
		b = append(b, s.next, 64)
	} else {
		b = append(b, 0x08, 0x00, 0x40|s.words&15, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+body))
		b = append(b, 0, 1)
		b = binary.BigEndian.AppendUint16(b, s.fragment)
		b = append(b, 64, s.next, 0, 0)
	}
	b = append(b, client.Addr().AsSlice()...)
	b = append(b, server.Addr().AsSlice()...)
	if !s.six {
		b = append(b, bytes.Repeat([]byte{1}, max(0, int(s.words&15)-5)*4)...)
	}
	b = binary.BigEndian.AppendUint16(b, client.Port())
	b = binary.BigEndian.AppendUint16(b, server.Port())
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, s.offset<<4, s.flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, s.options...)
	// The kernel runs no program on less than the IP header.
	least := 14 + 20
	if s.six {
		least = 14 + 40
	}
	return b[:max(least, len(b)-int(s.truncateBy))]
}

// wantSteered reads a packet as RFC 9293 has it, independently of the program.
func (s segment) wantSteered(packet []byte) bool {
	ip := packet[14:]
	if s.six {
		if len(ip) < 40 || ip[6] != 6 {
			return false
		}
		ip = ip[40:]
	} else {
		header := int(ip[0]&15) * 4
		if header < 20 || len(ip) < header || ip[9] != 6 || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
			return false
		}
		ip = ip[header:]
	}
	const fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10
	if len(ip) < 20 || ip[13]&(fin|syn|rst|ack) != syn || binary.BigEndian.Uint16(ip[2:]) == 18443 {
		return false
	}
	options := ip[20:max(20, min(len(ip), int(ip[12]>>4)*4))]
	for len(options) > 0 {
		switch {
		case options[0] == 0:
			return false
		case options[0] == 1:
			options = options[1:]
			continue
		case len(options) < 2 || options[1] < 2 || int(options[1]) > len(options):
			return false
		case bytes.Equal(options[:options[1]], ourOption):
			return true
		}
		options = options[options[1]:]
	}
	return false
}

func FuzzSteering(f *testing.F) {
	lab := netlab.New(f, 1)
	pod := startPod(f, lab.Node(0), false, nil)

	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	nops := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	usual := []byte{2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}
	add := func(change func(*segment)) {
		for _, six := range []bool{false, true} {
			s := segment{six: six, words: 5, next: 6, flags: synFlag, offset: 15, port: 80, options: join(ourOption, make([]byte, 33))}
			change(&s)
			f.Add(s.six, s.words, s.fragment, s.next, s.flags, s.offset, s.port, s.options, s.truncateBy)
		}
	}
	for _, options := range [][]byte{
		{}, {0}, ourOption, usual, join(ourOption, nops(1)), join(usual, ourOption, nops(1)), join(usual, nops(1), ourOption),
		nops(40), join(nops(33), ourOption), join(nops(34), ourOption), join([]byte{0}, ourOption), join([]byte{2, 0}, ourOption),
		join([]byte{2, 1}, ourOption), join([]byte{2, 255}, ourOption), join(ourOption, []byte{2, 255}), join(ourOption, []byte{9, 0}),
		{253}, {253, 2}, {253, 0, 'k', 'g', 'w', 'y', 1}, {253, 6, 'k', 'g', 'w', 'y', 1}, {253, 8, 'k', 'g', 'w', 'y', 1, 0},
		{254, 7, 'k', 'g', 'w', 'y', 1}, {253, 7, 'k', 'g', 'w', 'x', 1}, {253, 7, 'k', 'g', 'w', 'y', 2}, {253, 4, 'k', 'g'},
		join([]byte{30, 8}, ourOption[:6], ourOption), join([]byte{253, 7, 'k', 'g', 'w', 'y', 2}, ourOption), join(ourOption, ourOption, ourOption),
		bytes.Repeat([]byte{5, 2}, 20), join(bytes.Repeat([]byte{5, 2}, 16), ourOption), bytes.Repeat([]byte{253}, 40), bytes.Repeat([]byte{255}, 40),
	} {
		add(func(s *segment) { s.options, s.offset = options, byte(5+(len(options)+3)/4) })
		add(func(s *segment) { s.options = options })
	}
	for flags := range 256 {
		add(func(s *segment) { s.flags = byte(flags) })
	}
	for n := range 16 {
		add(func(s *segment) { s.offset = byte(n) })
		add(func(s *segment) { s.words = byte(n) })
		add(func(s *segment) { s.fragment = 1 << n })
	}
	for _, port := range []uint16{0, 1, 18000, 18443, 18444, 65535} {
		add(func(s *segment) { s.port = port })
	}
	for _, next := range []byte{0, 17, 43, 44, 58, 60} {
		add(func(s *segment) { s.next = next })
	}
	for n := range 70 {
		add(func(s *segment) { s.truncateBy = byte(n) })
	}

	f.Fuzz(func(t *testing.T, six bool, words byte, fragment uint16, next, flags, offset byte, port uint16, options []byte, truncateBy byte) {
		s := segment{six, words, fragment, next, flags, offset, port, options[:min(len(options), 256)], truncateBy}
		client, server := netip.MustParseAddrPort("192.0.2.1:40000"), pod.four(port)
		if six {
			client, server = netip.MustParseAddrPort("[2001:db8::1]:40000"), pod.six(port)
		}
		packet := s.packet(client, server)
		// The kernel refuses what comes to other ports.
		want := s.wantSteered(packet) && port == 80
		var verdict int32
		var steered, shown bool
		err := pod.node.Do(func() (err error) {
			if verdict, err = pod.programs.Ingress(packet); err != nil {
				return err
			}
			if steered, err = pod.programs.Steers(client, server); err != nil {
				return err
			}
			shown, err = pod.programs.TakeShown(client, server)
			return err
		})
		switch {
		case err != nil:
			t.Fatalf("%x: %v", packet, err)
		case verdict != -1:
			t.Errorf("%x: verdict %d", packet, verdict)
		case shown != want || steered != want:
			t.Errorf("%x: has the option: %v, steered: %v, want %v", packet, shown, steered, want)
		}
		if n, err := pod.programs.Shown(); n != 0 || err != nil {
			t.Fatalf("%x: %d other connections are remembered, %v", packet, n, err)
		}
	})
}

// The seeds prove something only if some of them are steered.
func TestReferenceOfFuzzing(t *testing.T) {
	client, server := netip.MustParseAddrPort("192.0.2.1:40000"), netip.MustParseAddrPort("10.9.0.1:80")
	s := segment{words: 5, next: 6, flags: synFlag, offset: 7, options: append(slices.Clone(ourOption), 0)}
	if !s.wantSteered(s.packet(client, server)) {
		t.Error("a good SYN is not steered")
	}
	s.options[6] = 2
	if s.wantSteered(s.packet(client, server)) {
		t.Error("another version is steered")
	}
}
