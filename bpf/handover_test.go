//go:build linux

package bpf_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

func itoa(n int) string { return strconv.Itoa(n) }

// statusField returns the first value of a field in proc_pid_status(5).
func statusField(status, field string) string {
	for line := range strings.Lines(status) {
		if values, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Fields(values)[0]
		}
	}
	return ""
}

// route sends ranges from here to the other host, which has every address in them.
func route(t *testing.T, s *scene, ranges ...string) {
	t.Helper()
	for _, r := range prefixes(ranges...) {
		via := s.there.IP4
		if r.Addr().Is6() {
			via = s.there.IP6
		}
		addRoute(t, s.here, r, via)
		must(t, s.there.Do(func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{Dst: ipNet(r), LinkIndex: lo.Attrs().Index, Type: syscall.RTN_LOCAL, Table: 255, Scope: netlink.SCOPE_HOST})
		}))
	}
}

// addRoute routes a range over another node.
func addRoute(t *testing.T, n *netlab.Node, to netip.Prefix, via netip.Addr) {
	t.Helper()
	must(t, n.Do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}) }))
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// await waits until condition says "", and ends the test with what it said last. Machines that
// emulate a kernel are slow.
func await(t *testing.T, condition func() string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last = condition(); last == "" {
			return
		}
	}
	t.Fatal(last)
}

// sockets counts the sockets of the pod that the programs remember.
func (s *scene) sockets() (n int) {
	s.Helper()
	must(s.T, s.here.Do(func() (err error) {
		n, err = s.programs.Sockets()
		return err
	}))
	return n
}

// nothingLeft checks that no connection has left a trace.
func (s *scene) nothingLeft() {
	s.Helper()
	await(s.T, func() string {
		handovers, err := s.programs.Handovers()
		must(s.T, err)
		if sockets := s.sockets(); handovers != 0 || sockets != 0 {
			return fmt.Sprintf("%d entries left in the handover map, %d sockets remembered", handovers, sockets)
		}
		return ""
	})
}

func TestPresentAs(t *testing.T) {
	s := setUp(t, nil)
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080", MPTCP: true}})
	s.app.do(request{Serve: &serve{Network: "tcp4", Address: "0.0.0.0:8081"}})
	client4, client6 := netip.MustParseAddrPort("10.1.2.3:4567"), netip.MustParseAddrPort("[fd00:1::3]:4567")

	for name, c := range map[string]dial{
		"IPv4":                   {To: at(s.here.IP4, 8081), PresentAs: client4},
		"dual-stack listener":    {To: at(s.here.IP4, 8080), PresentAs: client4},
		"IPv6":                   {To: at(s.here.IP6, 8080), Six: true, PresentAs: client6},
		"v4-mapped from gateway": {To: at(s.here.IP4, 8080), Six: true, PresentAs: client4},
		"loopback":               {To: netip.MustParseAddrPort("127.0.0.1:8081"), PresentAs: client4},
		"nonblocking":            {To: at(s.here.IP4, 8081), PresentAs: client4, Nonblock: true},
	} {
		r := s.gateway.dial(c)
		if r.Errno != 0 || r.Seen == nil {
			t.Errorf("%s: connect: %v, %+v", name, r.Errno, r.Seen)
			continue
		}
		if unmapped(r.Seen.Accept) != c.PresentAs || unmapped(r.Seen.Peer) != c.PresentAs || unmapped(r.Seen.Local) != c.To {
			t.Errorf("%s: the application saw %+v, want client %v", name, *r.Seen, c.PresentAs)
		}
		if ip := r.Peer.Addr().Unmap(); !ip.IsMulticast() {
			t.Errorf("%s: the gateway's own getpeername says %v, want the name of a tuning", name, r.Peer)
		}
	}
	s.direct("without PresentAs", s.gateway, dial{To: at(s.here.IP4, 8081)})
	if r := s.gateway.dial(dial{To: at(s.here.IP4, 9), PresentAs: client4}); r.Errno != syscall.ECONNREFUSED {
		t.Errorf("closed port: %v", r.Errno)
	}
	// No RST would come: the worker is told, and asks again from another address.
	if r := s.gateway.dial(dial{To: at(s.here.IP6, 9), Six: true, Bind: at(netip.IPv6Loopback(), 0), PresentAs: client6}); r.Errno != syscall.EPERM {
		t.Errorf("closed port, from ::1: %v", r.Errno)
	}
	if r := s.gateway.dial(dial{To: at(s.here.IP6, 9), Six: true, Bind: at(s.here.IP6, 0), PresentAs: client6}); r.Errno != syscall.ECONNREFUSED {
		t.Errorf("closed port, from the pod's address: %v", r.Errno)
	}
	s.nothingLeft()
}

// What is handed over waits as long as the application's kernel does, whatever comes in between.
func TestHandoverIsNotForgotten(t *testing.T) {
	s := setUp(t, nil)
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080", Defer: true}})
	for _, d := range []dial{
		{To: at(s.here.IP4, 8080), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567")},
		{To: at(s.here.IP6, 8080), Six: true, PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567")},
	} {
		d.Wait = true
		s.gateway.do(request{Dial: &d})
		if n, err := s.programs.FillHandovers(20_000); n != 20_000 || err != nil {
			t.Fatalf("%d others are handed over: %v", n, err)
		}
		if r := s.gateway.do(request{Finish: true}); r.Seen == nil || unmapped(r.Seen.Accept) != d.PresentAs || unmapped(r.Seen.Peer) != d.PresentAs {
			t.Errorf("the application saw %+v, want client %v", r.Seen, d.PresentAs)
		}
	}
}

// A connection whose client cannot be handed over ends before its first byte, and nobody takes it
// for one of the pod's own.
func TestHandoverIsFull(t *testing.T) {
	s := setUp(t, nil)
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080"}})
	if n, err := s.programs.FillHandovers(1 << 20); n == 1<<20 || err != nil {
		t.Fatalf("%d are handed over: %v", n, err)
	}
	for _, d := range []dial{
		{To: at(s.here.IP4, 8080), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567"), Bind: netip.MustParseAddrPort("127.107.103.119:0")},
		{To: at(s.here.IP6, 8080), Six: true, PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567"), Bind: netip.MustParseAddrPort("[::1]:0")},
	} {
		for range 100 {
			if r := s.gateway.dial(d); !r.Reset {
				t.Fatalf("presenting: %+v", r)
			}
		}
	}
	for _, c := range s.app.do(request{Accepted: true}).Accepted {
		if c.Addr().Unmap().IsLoopback() {
			t.Fatalf("accept says %v", c)
		}
	}
	s.refused("captured", dial{To: at(s.there.IP4, 80)}, syscall.ECONNREFUSED)
	s.refused("captured, IPv6", dial{To: at(s.there.IP6, 80), Six: true}, syscall.ECONNREFUSED)
	for _, from := range []string{"127.0.0.1:0", "127.107.103.119:0"} {
		s.direct("the pod's own, from loopback", s.app, dial{To: at(s.here.IP4, 8080), Bind: netip.MustParseAddrPort(from)})
	}
}

// An application whose sockets have no memory for it sees the client nevertheless.
func TestHandoverWithoutMemory(t *testing.T) {
	s := setUp(t, nil)
	app := startAgent(t, s.here, s.here.AppCgroup, 0)
	app.do(request{Serve: &serve{Network: "tcp", Address: ":8080", Hungry: true}})
	for _, d := range []dial{
		{To: at(s.here.IP4, 8080), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567"), Bind: netip.MustParseAddrPort("127.107.103.119:0")},
		{To: at(s.here.IP6, 8080), Six: true, PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567"), Bind: netip.MustParseAddrPort("[::1]:0")},
	} {
		if r := s.gateway.dial(d); r.Seen == nil || unmapped(r.Seen.Accept) != d.PresentAs || unmapped(r.Seen.Peer) != d.PresentAs {
			t.Errorf("the application saw %+v, want client %v", r.Seen, d.PresentAs)
		}
	}
	s.nothingLeft()
}

// A socket of the gateway's that has led to an application shows the next one its own client, and knows nothing of how the first one was
// tuned.
func TestSocketsOfTheGatewayAreUsedAgain(t *testing.T) {
	s := setUp(t, nil)
	hungry := startAgent(t, s.here, s.here.AppCgroup, 0)
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080"}})
	hungry.do(request{Serve: &serve{Network: "tcp", Address: ":8081", Hungry: true}})
	for _, port := range []uint16{8080, 8081} {
		for _, d := range []dial{
			{
				To: at(s.here.IP4, port), Bind: netip.MustParseAddrPort("127.107.103.119:0"), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567"),
				Again: &again{netip.MustParseAddrPort("127.107.103.120:0"), netip.MustParseAddrPort("10.9.8.7:6543")},
			},
			{
				To: at(s.here.IP6, port), Six: true, Bind: netip.MustParseAddrPort("[::1]:0"), PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567"),
				Again: &again{netip.MustParseAddrPort("[::1]:0"), netip.MustParseAddrPort("[fd00:1::4]:6543")},
			},
		} {
			d.BindOnly = true
			d.Options = []socketOption{{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, binary.NativeEndian.AppendUint32(nil, 3)}}
			r := s.gateway.dial(d)
			if r.Seen == nil || unmapped(r.Seen.Accept) != d.Again.As || unmapped(r.Seen.Peer) != d.Again.As || unmapped(r.Seen.Local) != d.To {
				t.Errorf("the application at %v saw %+v, want client %v; connect: %v", d.To, r.Seen, d.Again.As, r.Errno)
			}
			// What the other one knows of its own is brought.
			if port == 8081 && r.Tuned != nil {
				t.Errorf("the application at %v has tuned its socket: %+v", d.To, r.Tuned)
			}
		}
	}
	s.nothingLeft()
}

// A socket that becomes something else forgets what it knew.
func TestSocketsChangeTheirTrade(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) { o.ExcludePorts = []uint16{81} })
	if r := s.app.do(request{Trade: &trade{From: at(s.there.IP4, 80)}}); r.Peer != r.Local {
		t.Errorf("a captured one that listens: accept says %v of client %v", r.Peer, r.Local)
	}

	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	server.do(request{Serve: &serve{Network: "tcp", Address: ":81"}})
	for _, port := range []uint16{80, 81} { // captured, and not
		c := trade{Listen: at(s.here.IP4, 8080), To: at(s.there.IP4, port), Options: []socketOption{
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, binary.NativeEndian.AppendUint32(nil, 3)},
		}}
		done := make(chan reply, 1)
		go func() { done <- s.app.ask(request{Trade: &c}) }()
		await(t, func() string {
			r := s.gateway.dial(dial{To: c.Listen, PresentAs: netip.MustParseAddrPort("10.1.2.3:4567")})
			if r.Errno != 0 {
				return r.Errno.Error()
			}
			return ""
		})
		if r := <-done; r.Error != "" || r.Peer != c.To {
			t.Errorf("an accepted one that connects: getpeername says %v of %v, %s", r.Peer, c.To, r.Error)
		} else if port == 80 {
			want := &tuned{Values: map[tuning.Option]int32{tuning.KeepCount: 3}}
			if diff := cmp.Diff(want, r.Seen.Tuned); diff != "" {
				t.Errorf("it is not tuned as its listener (-want +got):\n%s", diff)
			}
		}
	}
}

// TestHandedOver: the gateway learns in one question that the client is handed over, and whether the connection is there.
func TestHandedOver(t *testing.T) {
	s := setUp(t, nil)
	r := s.gateway.do(request{Crowd: &crowd{at(s.here.IP4, 8080)}})
	if diff := cmp.Diff([]handed{{true, true}, {true, false}}, r.Handed); diff != "" {
		t.Errorf("the first one, and one that there is no room for (-want +got):\n%s", diff)
	}
}

// Only the gateway can set and get the options.
func TestSocketOptionsAreTheGatewaysAlone(t *testing.T) {
	s := setUp(t, nil)
	root := startAgent(t, s.here, s.here.AppCgroup, 0)
	if r := root.ask(request{Dial: &dial{To: at(s.here.IP4, 9), PresentAs: netip.MustParseAddrPort("10.1.2.3:4567")}}); !strings.Contains(r.Error, "protocol not available") {
		t.Errorf("PresentAs by the application: %q", r.Error)
	}
	// A connection to the capture listener itself has no original destination.
	r := s.app.dial(dial{To: netip.MustParseAddrPort("127.0.0.1:18000")})
	if r.Seen == nil || r.Seen.Error != "not captured" || r.Seen.Original.IsValid() || r.Seen.Netfilter.IsValid() {
		t.Errorf("direct connection to the capture listener: %+v", r.Seen)
	}
}

func TestHundredThousandConnections(t *testing.T) {
	count := 100_000
	if testing.Short() {
		count = 5_000
	}
	s := setUp(t, nil)
	before := s.gateway.do(request{FDs: true}).FDs
	r := s.app.do(request{Many: &many{To: at(s.there.IP4, 80), Count: count, Concurrency: 1}})
	if r.OK != count {
		t.Errorf("%d of %d connections were right", r.OK, count)
	}
	s.counted(bpf.Counters{Captured: uint64(count)})
	s.nothingLeft()
	await(t, func() string {
		if after := s.gateway.do(request{FDs: true}).FDs; after > before {
			return fmt.Sprintf("the gateway has %d files open, %d before", after, before)
		}
		return ""
	})
}

func TestThousandConcurrentConnections(t *testing.T) {
	s := setUp(t, nil)
	for _, q := range []many{
		{To: at(s.there.IP4, 80), Count: 1000, Concurrency: 1000, Hold: true},
		{To: at(s.there.IP6, 80), Six: true, Count: 1000, Concurrency: 1000, Hold: true},
		{To: at(s.there.IP4, 80), Count: 5000, Concurrency: 100},
	} {
		if r := s.app.do(request{Many: &q}); r.OK != q.Count {
			t.Errorf("%d of %d connections were right", r.OK, q.Count)
		}
	}
	// An entry is gone with the handshake, not only with the connection.
	if n, err := s.programs.Handovers(); n != 0 || err != nil {
		t.Errorf("%d entries in the handover map while 2000 connections are open, %v", n, err)
	}
	// Both ends of a connection are remembered for as long as it is open. Others are being closed.
	await(t, func() string {
		if got, want := s.sockets(), 4000; got != want {
			return fmt.Sprintf("%d sockets are remembered while 2000 connections are open, want %d", got, want)
		}
		return ""
	})
	s.app.do(request{Stop: true})
	s.nothingLeft()
}

// Captured connections to each destination can use every ephemeral port, and connections to elsewhere still
// can, too.
func TestEphemeralPorts(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) { o.ExcludePorts = []uint16{81} })
	const ports = 400
	must(t, s.here.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0)
	}))
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	server.do(request{Serve: &serve{Network: "tcp", Address: ":81"}})

	hold := startAgent(t, s.here, s.here.AppCgroup, 1000)
	for port := range uint16(4) {
		for _, q := range []many{
			{To: at(s.there.IP4, 90+port), Count: ports, Concurrency: 20, Hold: true},
			{To: at(s.there.IP6, 90+port), Six: true, Count: ports, Concurrency: 20, Hold: true},
		} {
			if r := hold.ask(request{Many: &q}); r.OK != ports {
				t.Errorf("%d captured connections to %v from %d ports: %s", r.OK, q.To, ports, r.Error)
			}
		}
	}
	s.direct("elsewhere", s.app, dial{To: at(s.there.IP4, 81)})
}
