//go:build linux

package bpf_test

import (
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// router makes a pod (node 0) the way of a host (node 2) to another one (node 1), as a VPN does, and
// returns an agent on the first host.
func router(t *testing.T, lab *netlab.Lab) *agent {
	t.Helper()
	pod, server, client := lab.Node(0), lab.Node(1), lab.Node(2)
	must(t, pod.AddLink(client, "net1"))
	for _, a := range prefixes("10.8.0.1/24", "fd00:8::1/64") {
		must(t, pod.AddAddress("net1", a))
		must(t, client.AddAddress("net1", netip.PrefixFrom(a.Addr().Next(), a.Bits())))
		to, via := server.IP4, pod.IP4
		if a.Addr().Is6() {
			to, via = server.IP6, pod.IP6
		}
		addRoute(t, client, netip.PrefixFrom(to, to.BitLen()), a.Addr())
		addRoute(t, server, a, via)
	}
	sysctl(t, pod, "ipv4/ip_forward", "1")
	sysctl(t, pod, "ipv6/conf/all/forwarding", "1")
	return startAgent(t, client, client.OtherCgroup, 0)
}

// What a pod forwards for others has no socket in it.
func TestForwarded(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		pod := startPod(t, lab.Node(0), clsact, func(o *bpf.Options) { o.ExcludePorts = []uint16{81} })
		other := startPod(t, lab.Node(1), clsact, nil)
		other.app.do(request{Serve: &serve{Network: "tcp", Address: ":81"}})
		behind := router(t, lab)

		extended := dial{To: other.six(80), Six: true, Extended: true}
		dials := []dial{{To: other.four(80)}, {To: other.six(80), Six: true}, extended}
		for _, d := range dials {
			pod.plain("permissive", behind, d)
		}
		pod.counted(bpf.Counters{Forwarded: 3})

		pod.setStrict(true)
		for _, d := range dials {
			unreachable(t, behind, d)
		}
		if n := pod.counters().Forwarded; n < 6 {
			t.Errorf("%d were counted, want 6 or more with retransmissions", n)
		}
		excluded := pod.counters().Excluded
		pod.plain("an excluded port", behind, dial{To: other.four(81)})
		if n := pod.counters().Excluded - excluded; n != 1 {
			t.Errorf("%d connections to an excluded port were counted, want 1", n)
		}
		pod.plain("the gateway's own", pod.gateway, dial{To: other.four(80)})
		pod.inband("the gateway's own, in band", dial{To: other.four(80)}, other.four(80))
		if r := pod.app.dial(dial{To: other.four(80)}); r.Seen == nil || r.Seen.Original != other.four(80) {
			t.Errorf("the application's: %+v", r)
		}
	})
}

// A network namespace within the pod that is routed through it: each connection counts once, as what it
// is to connect(2).
func TestNestedRouted(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 2)
		pod := startPod(t, lab.Node(0), clsact, func(o *bpf.Options) { o.ExcludePorts = []uint16{81} })
		other := startPod(t, lab.Node(1), clsact, nil)
		other.app.do(request{Serve: &serve{Network: "tcp", Address: ":81"}})
		nested := startAgent(t, pod.node, pod.node.AppCgroup, 0)
		nested.do(request{Nested: true, Routed: prefixes("10.8.0.2/24", "fd00:8::2/64")})
		for _, a := range prefixes("10.8.0.1/24", "fd00:8::1/64") {
			must(t, pod.node.AddAddress("nest0", a))
		}
		addRoute(t, other.node, prefixes("10.8.0.0/24")[0], pod.node.IP4)
		addRoute(t, other.node, prefixes("fd00:8::/64")[0], pod.node.IP6)
		sysctl(t, pod.node, "ipv4/ip_forward", "1")
		sysctl(t, pod.node, "ipv6/conf/all/forwarding", "1")

		for _, d := range []dial{{To: other.four(80)}, {To: other.six(80), Six: true}, {To: other.four(80), Six: true}, {To: other.four(81)}, {To: other.six(81), Six: true}} {
			pod.plain("nested", nested, d)
		}
		pod.counted(bpf.Counters{Nested: 3, Excluded: 2})
		if n, err := pod.programs.Handovers(); n != 0 || err != nil {
			t.Errorf("%d connections are remembered, %v", n, err)
		}
	})
}

// What a pod forwards into private address space that no range names is as what it sends there itself.
func TestForwardedOutside(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		coverage := api.Coverage{Capture: prefixes("10.7.0.0/24")}
		pod := startPod(t, lab.Node(0), clsact, func(o *bpf.Options) { o.Coverage = coverage })
		server := lab.Node(1)
		startAgent(t, server, server.OtherCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
		behind := router(t, lab)

		dials := []dial{{To: at(server.IP4, 80)}, {To: at(server.IP6, 80), Six: true}}
		for _, strict := range []bool{false, true} {
			pod.setStrict(strict)
			for _, d := range dials {
				pod.plain("counted", behind, d)
			}
		}
		pod.counted(bpf.Counters{OutsideConnections: 4})
		networks, err := pod.programs.Outside()
		must(t, err)
		want := []api.OutsideNetwork{
			{Network: netip.PrefixFrom(server.IP4, 24).Masked(), Connections: 2},
			{Network: netip.PrefixFrom(server.IP6, 64).Masked(), Connections: 2},
		}
		if diff := cmp.Diff(want, networks, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("networks outside (-want +got):\n%s", diff)
		}

		coverage.Outside = api.OutsideRefuse
		must(t, pod.programs.Cover(coverage))
		for _, d := range dials {
			unreachable(t, behind, d)
		}
		if c := pod.counters(); c.OutsideRefused < 2 || c.OutsideConnections != 4+c.OutsideRefused || c.Forwarded != 0 {
			t.Errorf("counted %+v", c)
		}
	})
}

// A SYN that a process writes by itself is in no connect(2), and may come in fragments of which the first one has no flags.
func TestRawSYN(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 2)
		pod := startPod(t, lab.Node(0), clsact, nil)
		four, six := lab.Node(1).IP4, lab.Node(1).IP6
		to := four.As4()
		// From port 40 to port 80; with IPPROTO_RAW, behind an IP header that the kernel completes.
		syn := "\x00\x28\x00\x50" + strings.Repeat("\x00", 8) + "\x50\x02\x10\x10\x00\x00\x00\x00"
		header := func(fragment string) string {
			return "\x45\x00\x00\x28\x00\x01" + fragment + "\x40\x06" + strings.Repeat("\x00", 6) + string(to[:])
		}
		options := func(next string) string { return next + "\x00\x01\x04\x00\x00\x00\x00" }
		first, second, ack := syn[:8], strings.Repeat("\x00", 8), strings.Replace(syn, "\x50\x02", "\x50\x10", 1)
		packets := []struct {
			dial   dial
			packet string
			is     bool
		}{
			{dial{To: at(four, 0), Proto: unix.IPPROTO_TCP}, syn, true},
			{dial{To: at(four, 0), Proto: unix.IPPROTO_RAW}, header("\x00\x00") + syn, true},
			{dial{To: at(four, 0), Proto: unix.IPPROTO_RAW}, header("\x20\x00") + first, true},
			{dial{To: at(four, 0), Proto: unix.IPPROTO_RAW}, header("\x00\x01") + second, false},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_FRAGMENT}, "\x06\x00\x00\x01\x00\x00\x00\x01" + first, true},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_FRAGMENT}, "\x06\x00\x00\x08\x00\x00\x00\x01" + second, false},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_DSTOPTS}, options("\x06") + syn, true},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_DSTOPTS}, strings.Repeat(options("\x3c"), 9) + options("\x06") + syn, true},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_DSTOPTS}, options("\x3b"), false},
			{dial{To: at(six, 0), Six: true, Proto: unix.IPPROTO_DSTOPTS}, options("\x3c") + options("\x06") + ack, false},
		}
		var want uint64
		for _, strict := range []bool{false, true} {
			pod.setStrict(strict)
			for _, p := range packets {
				p.dial.Type, p.dial.NoConnect, p.dial.Send = unix.SOCK_RAW, true, p.packet
				var errno syscall.Errno
				if strict && p.is && p.dial.Six {
					errno = unix.ENOBUFS // that it was dropped: IPv4 does not say so
				}
				if r := pod.app.dial(p.dial); r.Errno != errno {
					t.Errorf("strict %v, %q: %v, want %v", strict, p.packet, r.Errno, errno)
				}
				if p.is {
					want++
				}
				pod.counted(bpf.Counters{Forwarded: want})
			}
		}
	})
}

// A gateway that is gone stops what it would have stopped, or nothing.
func TestForwardedWithoutGateway(t *testing.T) {
	for _, keep := range []bool{false, true} {
		lab := netlab.New(t, 3)
		behind := router(t, lab)
		startAgent(t, lab.Node(1), lab.Node(1).OtherCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
		o := options(t, lab.Node(0))
		o.KeepOnExit, o.Strict = keep, true
		supervise(t, lab.Node(0), o).Stop()
		d := dial{To: at(lab.Node(1).IP4, 80)}
		if keep {
			unreachable(t, behind, d)
		} else if r := behind.dial(d); r.Seen == nil {
			t.Errorf("open: %+v", r)
		}
	}
}
