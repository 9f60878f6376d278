//go:build linux

package bpf_test

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// ends are both ends of a connection that was refused.
type ends struct{ Client, Server netip.AddrPort }

func compareAddrPorts() cmp.Option { return cmpopts.EquateComparable(netip.AddrPort{}) }

// Every connection that is refused at its SYN is reported, with its true ends.
func TestRefusedIsReported(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, func(o *bpf.Options) { o.Strict = true })
		ctx, cancel := context.WithCancel(t.Context())
		reported, done := make(chan ends, 10), make(chan error, 1)
		go func() {
			done <- server.FollowRefused(ctx, func(client, server netip.AddrPort) { reported <- ends{client, server} })
		}()
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		want := []ends{
			{at(client.node.IP4, 4001), server.four(80)}, {at(client.node.IP6, 4002), server.six(81)}, {at(client.node.IP4, 4003), server.four(82)},
		}
		var got []ends
		for _, c := range want {
			client.refused("plaintext", outside, dial{To: c.Server, Six: c.Server.Addr().Is6(), Bind: c.Client, FastOpen: c.Server.Port() == 82})
			select {
			case r := <-reported:
				got = append(got, r)
			case err := <-done:
				t.Fatalf("following ended: %v", err)
			case <-time.After(time.Minute):
				t.Fatalf("nothing is reported after %v", got)
			}
		}
		if diff := cmp.Diff(want, got, compareAddrPorts()); diff != "" {
			t.Errorf("reported (-want +got):\n%s", diff)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		server.counted(bpf.Counters{PlaintextRefused: 3})
	})
}

// Where nobody reads the reports, connections are reset by the gateway, which can log them.
func TestRefusedWithoutReader(t *testing.T) {
	client, server := twoPods(t, false, func(o *bpf.Options) { o.Strict = true })
	outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
	n := uint64(0)
	for reset := false; !reset; n++ {
		r := outside.dial(dial{To: server.four(80)})
		if reset = r.Reset; n > 10_000 || r.Seen != nil {
			t.Fatalf("connection %d: %+v", n, r)
		}
	}
	server.counted(bpf.Counters{PlaintextRefused: n})
}

// checksum adds up 16-bit words, with the carries (RFC 1071).
func checksum(parts ...[]byte) uint16 {
	sum := uint32(0)
	for _, b := range parts {
		for ; len(b) > 1; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// The answer to a SYN is a RST that its sender believes (RFC 9293, 3.10.7.3), with checksums that are
// right.
func TestAnswerToSYN(t *testing.T) {
	pod := startPod(t, netlab.New(t, 1).Node(0), false, func(o *bpf.Options) { o.Strict = true })
	usual := []byte{2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7}
	for _, six := range []bool{false, true} {
		for _, options := range [][]byte{nil, usual, append(slices.Clone(usual), "data"...)} {
			client, server := netip.MustParseAddrPort("192.0.2.1:40000"), pod.four(80)
			ip, addresses := 20, 12
			if six {
				client, server, ip, addresses = netip.MustParseAddrPort("[2001:db8::1]:40000"), pod.six(80), 40, 8
			}
			s := segment{six: six, words: 5, next: 6, flags: synFlag | 0xc0, offset: byte(5 + min(len(options), 20)/4), port: 80, options: options}
			packet := s.packet(client, server)
			tcp := packet[14+ip:]
			pseudo := func(packet []byte) []byte {
				return binary.BigEndian.AppendUint32(slices.Clone(packet[14+addresses:14+ip]), uint32(6+len(tcp)))
			}
			binary.BigEndian.PutUint16(tcp[16:], checksum(pseudo(packet), tcp))
			if !six {
				binary.BigEndian.PutUint16(packet[14+10:], checksum(packet[14:34]))
			}
			var answer []byte
			var verdict int32
			must(t, pod.node.Do(func() (err error) {
				answer, verdict, err = pod.Answer(packet)
				return err
			}))
			const redirect = 7 // TC_ACT_REDIRECT
			if verdict != redirect || len(answer) != len(packet) {
				t.Fatalf("%x: verdict %d, %x", packet, verdict, answer)
			}
			want := slices.Concat(packet[6:12], packet[:6], packet[12:14+addresses], server.Addr().AsSlice(), client.Addr().AsSlice(),
				tcp[2:4], tcp[:2], []byte{0, 0, 0, 0, 0, 0, 0, 2, tcp[12], 0x14}, tcp[14:16], answer[14+ip+16:14+ip+18], tcp[18:])
			if diff := cmp.Diff(want, answer); diff != "" {
				t.Errorf("%x (-want +got):\n%s", packet, diff)
			}
			if sum := checksum(pseudo(answer), answer[14+ip:]); sum != 0 {
				t.Errorf("%x: checksum is off by %x", answer, sum)
			}
			if sum := checksum(answer[14:34]); !six && sum != 0 {
				t.Errorf("%x: header's checksum is off by %x", answer, sum)
			}
		}
	}
}
