//go:build linux

package bpf_test

import (
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TestCover: what is captured changes while programs run.
func TestCover(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) { o.Capture, o.Services = prefixes("10.8.0.0/24"), nil })
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	for _, port := range []string{":443", ":9080"} {
		server.do(request{Serve: &serve{Network: "tcp", Address: port}})
	}
	to := func(port uint16) dial { return dial{To: at(s.there.IP4, port)} }
	s.direct("no range names it", s.app, to(80))
	s.direct("no range names it, IPv6", s.app, dial{To: at(s.there.IP6, 80), Six: true})
	s.counted(bpf.Counters{OutsideConnections: 2})

	all := api.Coverage{
		Capture:   prefixes("10.8.0.0/24", "10.9.0.0/24"),
		Endpoints: []netip.AddrPort{at(s.there.IP4, 9080)},
		Pass:      []netip.AddrPort{at(s.there.IP4, 443)},
		Outside:   api.OutsideRefuse,
	}
	must(t, s.Cover(all))
	s.captured("a range", to(80))
	s.direct("an endpoint, as a Service", s.app, to(9080))
	s.direct("what passes", s.app, to(443))
	s.direct("outside, permissive", s.app, dial{To: at(s.there.IP6, 80), Six: true})
	s.counted(bpf.Counters{Captured: 1, ServicePassed: 1, Excluded: 1, OutsideConnections: 3})
	s.setStrict(true)
	s.refused("outside, strict", dial{To: at(s.there.IP6, 80), Six: true}, syscall.EPERM)
	s.refused("an endpoint, strict", to(9080), syscall.EPERM)
	s.direct("what passes, strict", s.app, to(443))
	s.counted(bpf.Counters{Captured: 1, ServicePassed: 1, ServiceRefused: 1, Excluded: 2, OutsideConnections: 4, OutsideRefused: 1})

	networks, err := s.Outside()
	must(t, err)
	want := []api.OutsideNetwork{
		{Network: netip.PrefixFrom(s.there.IP6, 64).Masked(), Connections: 3},
		{Network: netip.PrefixFrom(s.there.IP4, 24).Masked(), Connections: 1},
	}
	if diff := cmp.Diff(want, networks, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Errorf("networks outside (-want +got):\n%s", diff)
	}

	bad := all
	bad.Capture = prefixes("10.8.0.0/24")
	for port := uint16(1); port < 2*api.MaxPortRanges; port += 2 {
		for _, bits := range []int{24, 32} {
			first := port + uint16(bits)*100
			bad.PlaintextFrom = append(bad.PlaintextFrom, api.Source{From: netip.PrefixFrom(s.there.IP4, bits).Masked(), Ports: api.Ports{{First: first, Last: first}}})
		}
	}
	if err := s.Cover(bad); err == nil {
		t.Error("a source with too many ranges of ports was taken")
	}
	s.captured("as before the error", to(80))
}

// TestCoverAtOnce: while a coverage changes, every destination is what it was or what it
// will be.
func TestCoverAtOnce(t *testing.T) {
	needRoot(t)
	wide := api.Coverage{Capture: prefixes("10.0.0.0/8"), Exclude: prefixes("10.9.1.0/24")}
	narrow := api.Coverage{Capture: prefixes("10.9.0.0/16", "10.9.1.0/25"), Services: prefixes("10.0.0.0/8")}
	p := load(t, bpf.Options{
		Pod: bpf.Cgroup{Path: "/x", Rel: "/x", ID: 1}, Own: bpf.Cgroup{Path: "/x/y", Rel: "/x/y", ID: 2}, Coverage: wide,
	})
	const exclude, pod = 2, 3
	allowed := map[string][]uint32{"10.9.2.1:80": {pod}, "10.9.1.200:80": {exclude, pod}, "10.9.1.1:80": {exclude, pod}}
	done := make(chan struct{})
	t.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		for i := range 400 {
			c := wide
			if i%2 == 0 {
				c = narrow
			}
			if err := p.Cover(c); err != nil {
				t.Error(err)
			}
		}
	}()
	for looked := false; ; looked = true {
		for to, actions := range allowed {
			got, err := p.Lookup(netip.MustParseAddrPort(to))
			if err != nil || got != actions[0] && got != actions[len(actions)-1] {
				t.Fatalf("%s: action %d, %v, want one of %v", to, got, err, actions)
			}
		}
		select {
		case <-done:
			if !looked {
				t.Fatal("nothing was looked up meanwhile")
			}
			return
		default:
		}
	}
}

// TestPlaintextPorts: a source may reach the ports of every range that contains it.
func TestPlaintextPorts(t *testing.T) {
	needRoot(t)
	p := load(t, bpf.Options{
		Pod: bpf.Cgroup{Path: "/x", Rel: "/x", ID: 1}, Own: bpf.Cgroup{Path: "/x/y", Rel: "/x/y", ID: 2},
		PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}, Strict: true,
		Coverage: api.Coverage{Capture: prefixes("10.0.0.0/8"),
			PlaintextFrom: sources("10.1.0.0/16:80", "10.1.2.0/24:9000-9010", "10.1.2.3/32:53,443", "10.2.0.0/16")},
	})
	for remote, ports := range map[string]map[uint16]bool{
		"10.1.9.9": {80: true, 79: false, 81: false, 9000: false},
		"10.1.2.9": {80: true, 8999: false, 9000: true, 9010: true, 9011: false, 53: false},
		"10.1.2.3": {80: true, 9005: true, 53: true, 443: true, 444: false},
		"10.2.2.3": {1: true, 65535: true},
		"10.3.2.3": {80: false},
	} {
		for port, want := range ports {
			guarded, err := p.Guards(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.7"), port), netip.AddrPortFrom(netip.MustParseAddr(remote), 40000))
			if guarded == want || err != nil {
				t.Errorf("plaintext from %s to port %d: allowed %v, %v", remote, port, !guarded, err)
			}
		}
	}
}
