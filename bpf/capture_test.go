//go:build linux

package bpf_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// scene is a pod with a gateway (node 0) and another host (node 1).
type scene struct {
	*testing.T
	*programs
	here, there  *netlab.Node
	app, gateway *agent
}

// gatewayAddresses is where the capture sends connections.
func gatewayAddresses() []string { return []string{"127.0.0.1:18000", "[::1]:18000"} }

func cgroup(t testing.TB, path string) bpf.Cgroup {
	t.Helper()
	c, err := bpf.OpenCgroup(path)
	must(t, err)
	return c
}

func options(t testing.TB, n *netlab.Node) bpf.Options {
	return bpf.Options{
		Pod: cgroup(t, n.PodCgroup), Own: cgroup(t, n.GatewayCgroup),
		PodIPs: []netip.Addr{n.IP4, n.IP6},
		Coverage: api.Coverage{
			Capture:  prefixes("10.9.0.0/24", "fd00:9::/64"),
			Services: prefixes("10.96.0.0/12", "fd00:96::/112"),
		},
	}
}

func prefixes(list ...string) (p []netip.Prefix) {
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func sources(list ...string) (sources []api.Source) {
	for _, text := range list {
		s, err := api.ParseSource(text)
		if err != nil {
			panic(err)
		}
		sources = append(sources, s)
	}
	return sources
}

func at(ip netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip, port) }

// setUp starts everything. The gateway's agent runs as the worker does, without
// privileges. On the other host a server listens on port 80 of every address.
func setUp(t *testing.T, change func(*bpf.Options)) *scene {
	t.Helper()
	lab := netlab.New(t, 2)
	s := &scene{T: t, here: lab.Node(0), there: lab.Node(1)}
	o := options(t, s.here)
	if change != nil {
		change(&o)
	}
	s.programs = load(t, o)
	must(t, s.programs.AttachSockets())
	must(t, s.here.Do(s.programs.Spread))
	s.gateway = startAgent(t, s.here, s.here.GatewayCgroup, api.WorkerID)
	s.gateway.do(request{Gateway: &gateway{gatewayAddresses()}})
	must(t, s.programs.StartCapture())
	s.app = startAgent(t, s.here, s.here.AppCgroup, 1000)
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	server.do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	return s
}

// programs are loaded programs that a test looks at.
type programs struct {
	*bpf.Programs
	t testing.TB
}

// load loads programs, and detaches them at the end of the test.
func load(t testing.TB, o bpf.Options) *programs {
	t.Helper()
	p, err := bpf.LoadWith(o)
	must(t, err)
	t.Cleanup(func() {
		if err := p.Detach(); err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return &programs{p, t}
}

func (p *programs) counters() bpf.Counters {
	p.t.Helper()
	c, err := p.Counters()
	must(p.t, err)
	return c
}

// counted checks what has been counted since the programs were loaded.
func (p *programs) counted(want bpf.Counters) {
	p.t.Helper()
	if diff := cmp.Diff(want, p.counters()); diff != "" {
		p.t.Errorf("counters (-want +got):\n%s", diff)
	}
}

func (p *programs) setStrict(strict bool) {
	p.t.Helper()
	must(p.t, p.SetStrict(strict))
}

// must ends the test if something has failed that it needs.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// captured dials and checks that the gateway accepts the connection:
// both ends see the true addresses.
func (s *scene) captured(name string, d dial) {
	s.Helper()
	r := s.app.dial(d)
	want := d.To
	if d.Then.IsValid() {
		want = d.Then
	}
	if r.Errno != 0 {
		s.Errorf("%s: connect: %v", name, r.Errno)
		return
	}
	if r.Seen == nil {
		s.Errorf("%s: the other end sent nothing", name)
		return
	}
	if r.Seen.Original != want || r.Seen.Netfilter.Addr().Unmap() != want.Addr() || r.Seen.Netfilter.Port() != want.Port() || r.Seen.Error != "" {
		s.Errorf("%s: gateway saw %+v, want original destination %v", name, *r.Seen, want)
	}
	wantPeer := want
	if d.Six && want.Addr().Is4() {
		wantPeer = at(netip.AddrFrom16(want.Addr().As16()), want.Port())
	}
	if r.Peer != wantPeer {
		s.Errorf("%s: getpeername of the application says %v, want %v", name, r.Peer, wantPeer)
	}
	own := s.here.IP4
	if want.Addr().Is6() {
		own = s.here.IP6
	}
	if r.Local.Addr().Unmap() != own || r.Local.Port() == 0 {
		s.Errorf("%s: getsockname of the application says %v, want address %v", name, r.Local, own)
	}
	// A socket that is bound to a port alone gets loopback as its address.
	seen := unmapped(r.Seen.Accept)
	if seen != unmapped(r.Local) && (d.Bind.Port() == 0 || seen.Port() != r.Local.Port() || !seen.Addr().IsLoopback()) {
		s.Errorf("%s: gateway accepted from %v, the application is at %v", name, seen, r.Local)
	}
	if r.Seen.Peer != r.Seen.Accept {
		s.Errorf("%s: the gateway's accept says %v, getpeername %v", name, r.Seen.Accept, r.Seen.Peer)
	}
}

// direct dials and checks that the connection went where it was meant to.
func (s *scene) direct(name string, from *agent, d dial) {
	s.Helper()
	r := from.dial(d)
	want := d.To
	if d.Then.IsValid() {
		want = d.Then
	}
	if r.Errno != 0 || r.Seen == nil {
		s.Errorf("%s: connect to %v: %v, %+v", name, want, r.Errno, r.Seen)
		return
	}
	if unmapped(r.Seen.Local) != want || r.Seen.Original.IsValid() || unmapped(r.Peer) != want {
		s.Errorf("%s: arrived at %v, getpeername says %v, want %v directly", name, r.Seen.Local, r.Peer, want)
	}
	if unmapped(r.Seen.Accept) != unmapped(r.Local) {
		s.Errorf("%s: accepted from %v, dialled from %v", name, r.Seen.Accept, r.Local)
	}
}

func (s *scene) refused(name string, d dial, want syscall.Errno) {
	s.Helper()
	if r := s.app.dial(d); r.Errno != want {
		s.Errorf("%s: connect to %v: %v, want %v", name, d.To, r.Errno, want)
	}
}

func TestCapture(t *testing.T) {
	s := setUp(t, nil)
	four, six := at(s.there.IP4, 80), at(s.there.IP6, 80)

	s.captured("IPv4", dial{To: four})
	s.captured("IPv6", dial{To: six, Six: true})
	s.captured("v4-mapped", dial{To: four, Six: true})
	s.captured("closed port", dial{To: at(s.there.IP4, 9)})
	s.captured("nobody there", dial{To: at(netip.MustParseAddr("10.9.0.77"), 65535)})
	for _, nonblock := range []bool{false, true} {
		s.captured("connect, by a socket that was elsewhere", dial{To: at(s.there.IP4, 81), Then: four, Nonblock: nonblock})
	}
	s.captured("nonblocking IPv4", dial{To: four, Nonblock: true})
	s.captured("nonblocking IPv6", dial{To: six, Six: true, Nonblock: true})
	s.captured("after the end", dial{To: four})

	s.counted(bpf.Counters{Captured: 12})
}

// Nodes differ in what they say about packets that look forged, as those from the
// pod's address to loopback might.
func TestCaptureWithReversePathFilter(t *testing.T) {
	s := setUp(t, nil)
	for _, filter := range []string{"0", "1", "2"} {
		for _, of := range []string{"all", "lo", "eth0"} {
			must(t, s.here.Do(func() error {
				return os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte(filter), 0)
			}))
		}
		s.captured("rp_filter "+filter, dial{To: at(s.there.IP4, 80)})
		s.captured("rp_filter "+filter+", bound", dial{To: at(s.there.IP4, 80), Bind: at(netip.IPv4Unspecified(), 45001)})
	}
}

// With SYN cookies the accepting side has no socket for a connection before the last packet of
// the handshake. The handover must not depend on one.
func TestCaptureWithSYNCookies(t *testing.T) {
	s := setUp(t, nil)
	must(t, s.here.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0)
	}))
	s.captured("IPv4", dial{To: at(s.there.IP4, 80)})
	s.captured("IPv6", dial{To: at(s.there.IP6, 80), Six: true})
	s.nothingLeft()
}

func TestCaptureBoundSockets(t *testing.T) {
	s := setUp(t, nil)
	four, six := at(s.there.IP4, 80), at(s.there.IP6, 80)

	s.captured("address", dial{To: four, Bind: at(s.here.IP4, 0)})
	s.captured("address without a port", dial{To: four, Bind: at(s.here.IP4, 0), BindOnly: true})
	s.captured("port", dial{To: four, Bind: at(netip.IPv4Unspecified(), 45001)})
	s.captured("address and port", dial{To: four, Bind: at(s.here.IP4, 45002)})
	s.captured("IPv6 address", dial{To: six, Six: true, Bind: at(s.here.IP6, 0)})
	s.captured("IPv6 port", dial{To: six, Six: true, Bind: at(netip.IPv6Unspecified(), 45003)})
	s.captured("v4-mapped port", dial{To: four, Six: true, Bind: at(netip.IPv6Unspecified(), 45004)})
	s.counted(bpf.Counters{Captured: 7})
}

func TestFastOpenAndMultipath(t *testing.T) {
	s := setUp(t, nil)
	four := at(s.there.IP4, 80)
	s.captured("MSG_FASTOPEN", dial{To: four, FastOpen: true})
	if _, err := os.Stat("/proc/sys/net/mptcp"); errors.Is(err, fs.ErrNotExist) { // CONFIG_MPTCP
		if r := s.app.ask(request{Dial: &dial{To: four, Proto: unix.IPPROTO_MPTCP}}); !strings.Contains(r.Error, "protocol not supported") {
			t.Errorf("MPTCP on a kernel without it: %+v", r)
		}
		return
	}
	s.captured("MPTCP", dial{To: four, Proto: unix.IPPROTO_MPTCP})
	s.captured("MPTCP, IPv6", dial{To: at(s.there.IP6, 80), Six: true, Proto: unix.IPPROTO_MPTCP})
	s.captured("MPTCP, v4-mapped", dial{To: four, Six: true, Proto: unix.IPPROTO_MPTCP})
}

func TestNamesOfAttached(t *testing.T) {
	s := setUp(t, nil)
	want := []string{"kgw_connect4", "kgw_connect6", "kgw_getpeer4", "kgw_getpeer6", "kgw_getsock4", "kgw_getsock6",
		"kgw_getsockopt", "kgw_sendmsg4", "kgw_sendmsg6", "kgw_setsockopt", "kgw_sockops", "kgw_spread", "kgw_tune"}
	if got := s.programs.Attached(); !slices.Equal(got, want) {
		t.Errorf("attached %v, want %v", got, want)
	}
}
