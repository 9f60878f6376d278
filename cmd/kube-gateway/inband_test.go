//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// with returns s with a change of its configuration.
func with(s gatewaylab.Spec, configure func(*api.Config)) gatewaylab.Spec {
	s.Configure = configure
	return s
}

// TestInband follows connections that are encrypted without another port: to
// pods when that is wished, and to what counts as a Service or a node port.
func TestInband(t *testing.T) {
	for name, configure := range map[string]func(l *lab) func(*api.Config){
		"on request": func(*lab) func(*api.Config) {
			return func(c *api.Config) { c.Wire = api.WireInband }
		},
		"services": func(l *lab) func(*api.Config) {
			return func(c *api.Config) {
				c.Services = []netip.Prefix{netip.PrefixFrom(l.b.IP4, 32), netip.PrefixFrom(l.b.IP6, 128)}
			}
		},
		"node ports": func(l *lab) func(*api.Config) {
			return func(c *api.Config) {
				c.Capture = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
				c.Nodes, c.NodePorts = []netip.Addr{l.b.IP4, l.b.IP6}, [2]uint16{portEcho, portEcho}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			ga := l.gateway(with(l.spec(l.a), configure(l)))
			gb := l.gateway(l.spec(l.b))
			for _, address := range []string{l.b.Addr(portEcho), l.b.Addr6(portEcho)} {
				r := l.talk(l.a, address)
				mine := func(c *api.Connection) bool { return c.Source.String() == r.Local }
				for side, g := range map[string]*gatewaylab.Gateway{"client": ga, "server": gb} {
					c := connection(t, g, "the "+side, mine)
					if c.Wire != api.WireInband || !c.Encrypted || c.Peer == "" || c.Destination != addrPort(t, address) {
						t.Errorf("the %s's line is %+v", side, c)
					}
				}
			}
			a, b := status(t, ga), status(t, gb)
			if n := a.Traffic.Outbound; n.Inband != 2 || n.Encrypted != 2 || n.OptionLost != 0 {
				t.Errorf("the client's side counts %+v", n)
			}
			if n := b.Traffic.Inbound; n.Inband != 2 || b.Capture.Steered != 2 || len(b.Missing) != 0 {
				t.Errorf("the server's side counts %+v, steered %d, missing %q", n, b.Capture.Steered, b.Missing)
			}
		})
	}
}

// services has the pods' addresses count as those of Services.
func (l *lab) services(c *api.Config) {
	for _, n := range []*netlab.Node{l.a, l.b} {
		c.Services = append(c.Services, netip.PrefixFrom(n.IP4, 32), netip.PrefixFrom(n.IP6, 128))
	}
}

// TestBackend: once a gateway behind a Service has proved itself, connections that it answers travel on those to its
// peer port, and it does not count those that only ask.
func TestBackend(t *testing.T) {
	l := newLab(t)
	ga, gb := l.gateway(with(l.spec(l.a), l.services)), l.gateway(strict(l.spec(l.b)))
	all := 0
	for _, address := range []string{l.b.Addr(portEcho), l.b.Addr6(portEcho)} {
		eventually(t, "the way to the pod", func() error {
			all++
			r := l.talk(l.a, address)
			mine := func(c *api.Connection) bool { return c.Source.String() == r.Local }
			out, in := connection(t, ga, "the client", mine), connection(t, gb, "the server", mine)
			if !out.Encrypted || out.Wire != in.Wire || out.Destination != addrPort(t, address) || in.Destination != out.Destination {
				t.Errorf("the lines are %+v and %+v", out, in)
			}
			switch {
			case out.Wire == api.WireInband:
				return errors.New("in band")
			case in.Dialled != out.Destination:
				t.Errorf("the server's line is %+v", in)
			case !out.TLS.Reused:
				return errors.New("on a connection of its own")
			}
			return nil
		})
	}
	a, b := status(t, ga), status(t, gb)
	if n := a.Traffic.Outbound; n.Encrypted != uint64(all) || n.Inband == uint64(all) || n.OptionLost+n.Refused+n.Plaintext != 0 {
		t.Errorf("of %d the client counts %+v", all, n)
	}
	if n := b.Traffic.Inbound; n.Encrypted != uint64(all) || n.Refused != 0 || b.Capture.Steered != uint64(all) {
		t.Errorf("of %d the server counts %+v, steered %d", all, n, b.Capture.Steered)
	}
}

// TestInbandWithoutAPeer: permissive goes on in plaintext on the same connection,
// strict refuses; both are counted.
func TestInbandWithoutAPeer(t *testing.T) {
	l := newLab(t)
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Wire = api.WireInband }))
	l.talk(l.a, l.b.Addr(portEcho))
	setMode(t, g, api.Strict)
	l.refused(l.a, l.b.Addr(portEcho), "in strict mode")
	awaitStatus(t, g, "both are counted", func(s *api.Status) bool {
		n := s.Traffic.Outbound
		return n.OptionLost == 2 && n.Plaintext == 1 && n.Refused == 1
	})
}

// TestStrictInbound: in strict mode plaintext reaches the application from the
// allowed sources alone, and the mode decides at the moment of the connection.
func TestStrictInbound(t *testing.T) {
	l := newLabOf(t, 3)
	probe := l.net.Node(2)
	gb := l.gateway(with(l.spec(l.b), func(c *api.Config) {
		c.PlaintextFrom = []api.Source{{From: netip.PrefixFrom(probe.IP4, 32)}, {From: netip.PrefixFrom(probe.IP6, 128)}}
	}))
	plain := func(from *netlab.Node, address string) result {
		t.Helper()
		return l.client(from, from.OtherCgroup, "talk", address, "hello")
	}
	addresses := []string{l.b.Addr(portEcho), l.b.Addr6(portEcho)}
	open := l.holdIn(l.a, l.a.OtherCgroup, addresses[0])
	for _, address := range addresses {
		if r := plain(l.a, address); r.Error != "" {
			t.Errorf("permissive, %s: %+v", address, r)
		}
	}
	if s := status(t, gb); s.Traffic.Inbound != (api.Direction{}) || s.Capture.PlaintextAllowed+s.Capture.PlaintextRefused != 0 {
		t.Errorf("in permissive mode the gateway was not left aside: %+v, %+v", s.Traffic.Inbound, s.Capture)
	}

	setMode(t, gb, api.Strict)
	open.say("still there")
	for _, address := range addresses {
		if r := plain(l.a, address); !strings.Contains(r.Error, "connection refused") {
			t.Errorf("strict, %s: %+v", address, r)
		}
		if r := plain(probe, address); r.Error != "" {
			t.Errorf("strict, from an allowed source, %s: %+v", address, r)
		}
	}
	// Inside the pod there is no wire to protect.
	if r := plain(l.b, l.b.Addr(portEcho)); r.Error != "" {
		t.Errorf("within the pod: %+v", r)
	}
	awaitStatus(t, gb, "both kinds are counted", func(s *api.Status) bool {
		return s.Capture.PlaintextRefused == 2 && s.Capture.PlaintextAllowed == 2 && s.Traffic.Inbound.Refused == 2
	})
	connection(t, gb, "the refusal", func(c *api.Connection) bool {
		return c.Direction == api.Inbound && c.Source.Addr() == l.a.IP4 && !c.Encrypted && c.Reason != ""
	})

	killWorker(t, gb)
	if r := plain(l.a, addresses[0]); r.Error == "" {
		t.Errorf("after a restart of the worker: %+v", r)
	}
	setMode(t, gb, api.Permissive)
	open.say("and back")
	if r := plain(l.a, addresses[0]); r.Error != "" {
		t.Errorf("permissive again: %+v", r)
	}
}

// TestSecondInterface: what holds for the pod's address holds for an interface that it gets later.
func TestSecondInterface(t *testing.T) {
	l := newLab(t)
	strict := l.spec(l.b)
	strict.Mode = api.Strict
	gb := l.gateway(strict)
	ga := l.gateway(with(l.spec(l.a), func(c *api.Config) {
		// No certificate names the address, as with a Service's.
		c.Services = append(c.Services, netip.MustParsePrefix("10.8.0.0/24"))
	}))
	must.Do(t, l.a.AddLink(l.b, "net1"))
	for n, address := range map[*netlab.Node]string{l.a: "10.8.0.1/24", l.b: "10.8.0.2/24"} {
		must.Do(t, n.AddAddress("net1", netip.MustParsePrefix(address)))
	}
	address := fmt.Sprint("10.8.0.2:", portEcho)
	// Right after the interface has come, its SYNs may not be read yet: the gateway accepts then, and resets.
	eventually(t, "plaintext is refused at its SYN", func() error {
		r := l.client(l.a, l.a.OtherCgroup, "talk", address, "hello")
		switch {
		case strings.Contains(r.Error, "connection refused"):
			return nil
		case !strings.Contains(r.Error, "connection reset"):
			t.Errorf("plaintext: %+v", r)
		}
		return errors.New(r.Error)
	})
	eventually(t, "the gateways meet on the second interface", func() error {
		l.client(l.a, l.a.AppCgroup, "talk", address, "hello")
		if a, b := status(t, ga).Traffic.Outbound, status(t, gb).Traffic.Inbound; a.Inband == 0 || b.Inband == 0 {
			return fmt.Errorf("%+v, %+v", a, b)
		}
		return nil
	})
	l.talk(l.a, address)
	if n := status(t, gb).Capture.PlaintextRefused; n == 0 {
		t.Error("no refusal is counted")
	}
}

// TestStrictFromTheStart: no connection slips in, and a peer gets through on
// both wires.
func TestStrictFromTheStart(t *testing.T) {
	l := newLab(t)
	gb := l.gateway(strict(l.spec(l.b)))
	if r := l.client(l.a, l.a.OtherCgroup, "talk", l.b.Addr(portEcho), "hello"); r.Error == "" {
		t.Errorf("plaintext: %+v", r)
	}
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		ga := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Wire = wire }))
		l.talk(l.a, l.b.Addr(portEcho))
		if err := ga.End(); err != nil {
			t.Error(err)
		}
	}
	if n := status(t, gb).Traffic.Inbound; n.Encrypted != 2 || n.Inband != 1 {
		t.Errorf("counted %+v", n)
	}
	// What a closed gateway leaves behind goes with the next one.
	gb.Stop()
	l.gateway(l.spec(l.b))
	if r := l.client(l.a, l.a.OtherCgroup, "talk", l.b.Addr(portEcho), "hello"); r.Error != "" {
		t.Errorf("with a permissive gateway: %+v", r)
	}
}

// TestAllowInband: the identity rules hold on this wire, too.
func TestAllowInband(t *testing.T) {
	l := newLab(t)
	l.gateway(strict(with(l.spec(l.a), func(c *api.Config) { c.Wire = api.WireInband })))
	gb := l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Allow = []string{"ns/lab/sa/pod-*"} }))
	l.talk(l.a, l.b.Addr(portEcho))
	ask[api.Status](t, gb, "allow", "ns/prod/sa/*")
	l.refused(l.a, l.b.Addr(portEcho), "not allowed")
	awaitStatus(t, gb, "the refusal is counted", func(s *api.Status) bool {
		return s.Traffic.Inbound.NotAllowed == 1 && s.Traffic.Inbound.Refused == 1
	})
}

// ended waits for a gateway that must end by itself, and returns how it did.
func ended(t *testing.T, g *gatewaylab.Gateway) error {
	t.Helper()
	t.Cleanup(g.Stop)
	select {
	case <-g.Done():
	case <-time.After(patience):
		t.Fatalf("the gateway runs on after %v:\n%s", patience, g.Output())
	}
	return g.Wait()
}

// TestUnguarded: where inbound connections cannot be steered, permissive keeps
// what works and says so, and strict is refused.
func TestUnguarded(t *testing.T) {
	l := newLab(t)
	// No interface has these addresses, so there is nowhere to attach to.
	node := *l.a
	node.IP4, node.IP6 = netip.MustParseAddr("10.9.0.99"), netip.MustParseAddr("fd00:9::99")
	spec := l.spec(l.a)
	spec.Node = &node
	l.gateway(l.spec(l.b))
	g := l.gateway(spec)
	s := status(t, g)
	if len(s.Missing) != 1 || !strings.Contains(s.Missing[0], "no interface has an address") || s.State != api.Ready {
		t.Errorf("%s, missing %q", s.State, s.Missing)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	if status(t, g).Capture.Captured == 0 {
		t.Error("outbound connections are not captured any more")
	}
	_, err := g.Call(t.Context(), control.Request{Op: control.OpMode, Mode: api.Strict})
	if err == nil || !strings.Contains(err.Error(), "no interface has an address") || api.Hint(err) == "" {
		t.Errorf("strict mode: %v", err)
	}
	if s := status(t, g); s.Mode != api.Permissive {
		t.Errorf("the mode is %s", s.Mode)
	}
	must.Do(t, g.End())

	l.fails("strict, and unable to guard,", strict(spec), "guarding inbound connections", "hint: ")
	// And it leaves nothing behind.
	l.talk(l.a, l.b.Addr(portEcho))
}

// datagram is an application that sends one datagram to args[0].
func datagram(args []string) int {
	conn, err := net.Dial("udp", args[0])
	if err == nil {
		_, err = conn.Write([]byte("hello"))
	}
	if err != nil {
		fmt.Println(err)
		return 0
	}
	fmt.Println("sent")
	return 0
}

// TestUDP: UDP is not encrypted, but seen, and refused if that is wished.
func TestUDP(t *testing.T) {
	l := newLab(t)
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.BlockUDP = true }))
	// send returns what became of one datagram.
	send := func() string {
		p := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Path: l.self, Args: []string{"datagram", l.b.Addr(portEcho)}})
		if err := p.Wait(); err != nil {
			t.Fatalf("%v: %s", err, p.Output())
		}
		return strings.TrimSpace(p.Output())
	}
	if got := send(); got != "sent" {
		t.Errorf("permissive: %s", got)
	}
	if c := status(t, g).Capture; c.UDP != 1 || c.UDPRefused != 0 {
		t.Errorf("counted %d, refused %d", c.UDP, c.UDPRefused)
	}
	setMode(t, g, api.Strict)
	if got := send(); !strings.Contains(got, "operation not permitted") {
		t.Errorf("strict: %s", got)
	}
	if c := status(t, g).Capture; c.UDP != 2 || c.UDPRefused != 1 {
		t.Errorf("counted %d, refused %d", c.UDP, c.UDPRefused)
	}
}

// TestNodeSide: the pod's default gateway may connect in plaintext if it is an
// address of the pod network, as it is where the node has one there.
func TestNodeSide(t *testing.T) {
	l := newLab(t)
	via := netip.MustParseAddr("10.9.0.200")
	must.Do(t, l.a.Do(func() error { return addDefaultRoute(via) }))
	probes := api.Ports{{First: 8080, Last: 8080}}
	given := api.Source{From: netip.MustParsePrefix("192.0.2.7/32")}
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.PlaintextFrom, c.Probes = []api.Source{given}, probes }))
	want := []api.Source{{From: netip.PrefixFrom(via, 32), Ports: probes}, given}
	if diff := cmp.Diff(want, status(t, g).Capture.PlaintextFrom, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	must.Do(t, g.End())
	narrow := l.spec(l.a)
	narrow.Configure = func(c *api.Config) { c.Probes = probes }
	narrow.Capture = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/28")}
	if got := status(t, l.gateway(narrow)).Capture.PlaintextFrom; len(got) != 0 {
		t.Errorf("a router outside of the pod network may connect in plaintext: %v", got)
	}
}

// addDefaultRoute adds a default route to the current network namespace.
func addDefaultRoute(via netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice()})
}

// TestPortsTaken: an application that has one of the ports on loopback keeps it, and the gateway uses
// the next pair. What it says of that is true.
func TestPortsTaken(t *testing.T) {
	l := newLab(t)
	for _, taken := range []uint16{api.InbandPort, api.CapturePort + 1} {
		ln := must.Get(l.a.Listen("tcp4", net.JoinHostPort("127.0.0.1", fmt.Sprint(taken))))(t)
		defer ln.Close()
	}
	ga := l.gateway(with(strict(l.spec(l.a)), func(c *api.Config) { c.Wire = api.WireInband }))
	l.gateway(strict(l.spec(l.b)))
	if got, want := ask[api.Status](t, ga, "status").Listeners, api.ListenerPairs()[2]; got != want {
		t.Errorf("the gateway listens on %+v, not on %+v", got, want)
	}
	expectReserved(t, l.a, "while it is there", "18002,18443,18447")
	for _, family := range []func(*netlab.Node) string{
		func(n *netlab.Node) string { return n.Addr(portEcho) }, func(n *netlab.Node) string { return n.Addr6(portEcho) },
	} {
		l.talk(l.a, family(l.b))
		l.talk(l.b, family(l.a))
	}
	if s := status(t, ga); s.Traffic.Inbound.Encrypted != 2 || s.Traffic.Outbound.Inband != 2 {
		t.Errorf("counted %+v", s.Traffic)
	}
	disable(t, l.a, ga, time.Minute)
	expectReserved(t, l.a, "at the end", "")
}
