//go:build linux

package bpf_test

import (
	"context"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// pod is a node with a gateway that has everything attached, and an application on port 80.
type pod struct {
	*programs
	node         *netlab.Node
	app, gateway *agent
}

// inbandAddresses is where inbound connections are steered to.
func inbandAddresses() []string { return []string{"127.0.0.1:18444", "[::1]:18444"} }

// startPod starts a pod. The order is that of the supervisor.
func startPod(t testing.TB, n *netlab.Node, clsact bool, change func(*bpf.Options)) *pod {
	t.Helper()
	o := options(t, n)
	if change != nil {
		change(&o)
	}
	p := &pod{programs: load(t, o), node: n}
	if clsact {
		p.programs.WithoutTCX()
	}
	must(t, p.programs.AttachSockets())
	must(t, n.Do(p.programs.Spread))
	p.gateway = startAgent(t, n, n.GatewayCgroup, api.WorkerID)
	p.gateway.do(request{Gateway: &gateway{append(gatewayAddresses(), inbandAddresses()...)}})
	must(t, p.programs.StartCapture())
	must(t, n.Do(p.programs.AttachInbound))
	p.follow(n)
	p.app = startAgent(t, n, n.AppCgroup, 0)
	p.app.do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	return p
}

// follow follows a node's network until the end of the test.
func (p *programs) follow(n *netlab.Node) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- n.Do(func() error {
			return p.FollowNetwork(ctx, func(err error) {
				if err != nil {
					p.t.Error(err)
				}
			})
		})
	}()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
	})
}

// both runs a test with what the gateway attaches by default, tcx if the kernel has it,
// and with clsact.
func both(t *testing.T, test func(t *testing.T, clsact bool)) {
	t.Helper()
	t.Run("default", func(t *testing.T) { test(t, false) })
	t.Run("clsact", func(t *testing.T) { test(t, true) })
}

// twoPods starts pods on both nodes of a network.
func twoPods(t *testing.T, clsact bool, change func(*bpf.Options)) (client, server *pod) {
	lab := netlab.New(t, 2)
	return startPod(t, lab.Node(0), clsact, nil), startPod(t, lab.Node(1), clsact, change)
}

func sysctl(t testing.TB, n *netlab.Node, name, value string) {
	t.Helper()
	must(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }))
}

// noneShown checks that every handshake has been brought to an end.
func (p *pod) noneShown() {
	p.t.Helper()
	if n, err := p.programs.Shown(); n != 0 || err != nil {
		p.t.Errorf("%d handshakes are remembered, %v", n, err)
	}
}

// inband dials as a worker does, and checks that both ends know of each other, and that
// the accepted connection is at the address dialled, or at local.
func (p *pod) inband(name string, d dial, local netip.AddrPort) {
	p.t.Helper()
	d.Inband = true
	r := p.gateway.dial(d)
	switch {
	case r.Errno != 0 || r.Reset || r.Seen == nil:
		p.t.Errorf("%s: connect to %v: %v, reset: %v", name, d.To, r.Errno, r.Reset)
	case !r.Shown:
		p.t.Errorf("%s: the peer has not shown its gateway; arrived: %+v", name, *r.Seen)
	case !r.Seen.Inband || !r.Seen.Shown || r.Seen.Error != "":
		p.t.Errorf("%s: arrived as %+v", name, *r.Seen)
	case unmapped(r.Seen.Local) != local:
		p.t.Errorf("%s: arrived at %v, want %v", name, r.Seen.Local, local)
	case !inStatus(local.Addr()):
		if r.Answerer != 0 {
			p.t.Errorf("%s: gateway %#x has answered at an address that no status names", name, r.Answerer)
		}
	case r.Answerer != api.GatewayNumber(local.Addr()) || r.Answered != local.Port():
		p.t.Errorf("%s: gateway %#x has answered at port %d, want that of %v", name, r.Answerer, r.Answered, local)
	}
}

// inStatus reports whether an address is that of a pod.
func inStatus(ip netip.Addr) bool {
	return netip.MustParsePrefix("10.9.0.0/29").Contains(ip) || netip.MustParsePrefix("fd00:9::/125").Contains(ip)
}

// plain dials and checks that the connection reaches the application itself.
func (p *pod) plain(name string, from *agent, d dial) reply {
	p.t.Helper()
	r := from.dial(d)
	switch {
	case r.Errno != 0 || r.Reset || r.Seen == nil:
		p.t.Errorf("%s: connect to %v: %v, reset: %v", name, d.To, r.Errno, r.Reset)
	case r.Seen.Inband || r.Seen.Original.IsValid():
		p.t.Errorf("%s: a gateway has it: %+v", name, *r.Seen)
	case unmapped(r.Seen.Accept) != unmapped(r.Local) || unmapped(r.Seen.Local) != unmapped(d.To):
		p.t.Errorf("%s: %v to %v was accepted as %v to %v", name, r.Local, d.To, r.Seen.Accept, r.Seen.Local)
	case r.Shown:
		p.t.Errorf("%s: it shows a gateway", name)
	}
	return r
}

// refused dials and checks that the connection is refused at its SYN.
func (p *pod) refused(name string, from *agent, d dial) {
	p.t.Helper()
	if r := from.dial(d); r.Errno != syscall.ECONNREFUSED {
		p.t.Errorf("%s: connect to %v: %v, reset: %v, %+v", name, d.To, r.Errno, r.Reset, r.Seen)
	}
}

// reset dials and checks that the connection is reset before a byte has come.
func (p *pod) reset(name string, from *agent, d dial) {
	p.t.Helper()
	r := from.dial(d)
	if r.Errno != 0 || !r.Reset {
		p.t.Errorf("%s: connect to %v: %v, reset: %v, %+v", name, d.To, r.Errno, r.Reset, r.Seen)
	}
}

func (p *pod) four(port uint16) netip.AddrPort { return at(p.node.IP4, port) }
func (p *pod) six(port uint16) netip.AddrPort  { return at(p.node.IP6, port) }

func TestInband(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, nil)
		server.app.do(request{Serve: &serve{Network: "tcp", Address: ":81"}})
		client.inband("IPv4", dial{To: server.four(80)}, server.four(80))
		client.inband("IPv6", dial{To: server.six(80), Six: true}, server.six(80))
		client.inband("v4-mapped", dial{To: server.four(80), Six: true}, server.four(80))
		client.inband("nonblocking", dial{To: server.four(80), Nonblock: true}, server.four(80))
		client.inband("by a socket that was elsewhere", dial{To: server.four(81), Then: server.four(80)}, server.four(80))
		client.refused("a port that nobody listens on", client.gateway, dial{To: server.four(9), Inband: true})
		client.refused("a port that nobody listens on, IPv6", client.gateway, dial{To: server.six(9), Six: true, Inband: true})

		client.plain("without the option", client.gateway, dial{To: server.four(80)})
		client.plain("without the option, IPv6", client.gateway, dial{To: server.six(80), Six: true})
		server.counted(bpf.Counters{Steered: 6})
		server.noneShown()
	})
}
