//go:build linux

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
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
		pod.plain("an excluded port", behind, dial{To: other.four(81)})
		pod.plain("the gateway's own", pod.gateway, dial{To: other.four(80)})
		pod.inband("the gateway's own, in band", dial{To: other.four(80)}, other.four(80))
		if r := pod.app.dial(dial{To: other.four(80)}); r.Seen == nil || r.Seen.Original != other.four(80) {
			t.Errorf("the application's: %+v", r)
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
