//go:build linux

package bpf_test

import (
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

// The gateway dials applications from addresses that no interface has: they see the client, in strict mode, too, and a closed
// port is refused.
func TestSources(t *testing.T) {
	s := setUp(t, nil)
	s.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080"}})
	hungry := startAgent(t, s.here, s.here.AppCgroup, 0)
	hungry.do(request{Serve: &serve{Network: "tcp", Address: ":8081", Hungry: true}})
	local, source := at(s.here.IP6, 8080), at(bpf.Sources6().Addr().Next(), 0)
	guarded := func(want bool) {
		t.Helper()
		if got, err := s.programs.Guards(local, at(source.Addr(), 4711)); got != want || err != nil {
			t.Errorf("guarded: %t, %v; want %t", got, err, want)
		}
	}
	s.programs.setStrict(true)
	must(t, s.here.Do(s.programs.AttachInbound))
	guarded(true)
	for range 2 {
		must(t, s.here.Do(s.programs.RouteSources))
	}
	guarded(false)

	d := dial{
		To: local, Six: true, Bind: source, PresentAs: netip.MustParseAddrPort("[fd00:1::3]:4567"),
		Options: []socketOption{{Level: unix.IPPROTO_IPV6, Name: unix.IPV6_FREEBIND, Value: []byte{1, 0, 0, 0}}},
	}
	for _, port := range []uint16{8080, 8081} {
		d.To = at(s.here.IP6, port)
		if r := s.gateway.dial(d); r.Seen == nil || r.Seen.Accept != d.PresentAs || r.Seen.Peer != d.PresentAs || r.Seen.Local != d.To {
			t.Errorf("the application saw %+v, want client %v; connect: %v", r.Seen, d.PresentAs, r.Errno)
		}
	}
	d.To = at(s.here.IP6, 9)
	if r := s.gateway.dial(d); r.Errno != syscall.ECONNREFUSED {
		t.Errorf("closed port: %v", r.Errno)
	}
	s.nothingLeft()
	for range 2 {
		must(t, s.here.Do(bpf.UnrouteSources))
	}
}

// An address that is in no range of pods, and not excluded, is nobody's in the cluster.
func TestFromOutside(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) {
		o.Services = append(o.Services, prefixes("10.8.1.0/24")...)
		o.Exclude = prefixes("fd00:8::/64")
		o.Nodes = []netip.Addr{netip.MustParseAddr("10.8.0.2")}
	})
	route(t, s, "10.8.0.0/24", "10.8.1.0/24", "fd00:8::/64", "fd00:7::/64")
	for _, q := range []struct {
		what, to string
		outside  bool
	}{
		{"a pod", s.there.IP4.String(), false},
		{"a pod, IPv6", s.there.IP6.String(), false},
		{"a node", "10.8.0.2", false},
		{"an excluded address", "fd00:8::2", false},
		{"a second network, like a Service", "10.8.1.2", true},
		{"another one", "10.8.0.1", true},
		{"another one, IPv6", "fd00:7::2", true},
	} {
		to := netip.MustParseAddr(q.to)
		for _, six := range []bool{to.Is6(), true} {
			r := s.gateway.dial(dial{To: at(to, 80), Six: six, Outside: true})
			if r.Outside != q.outside || r.Errno != 0 {
				t.Errorf("%s: outside: %t, want %t; connect: %v", q.what, r.Outside, q.outside, r.Errno)
			}
		}
	}
}
