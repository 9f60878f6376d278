//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// portExcluded is a port that no gateway of these tests captures.
const portExcluded = 9100

// broken waits for the application's error on a connection that was reset.
func (h *held) broken(want string) {
	h.t.Helper()
	_, _ = io.WriteString(h.input, "are you there?\n")
	says(h.t, h.process, "error: ")
	says(h.t, h.process, want)
}

// outcome returns the error that a connection of this process ends with.
func outcome(conn net.Conn) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		result <- err
	}()
	return result
}

// server returns an echo server of this process on a node, and the ends of its
// connections.
func server(t *testing.T, n *netlab.Node, port uint16) <-chan error {
	t.Helper()
	ln := must.Get(n.Listen("tcp", fmt.Sprintf(":%d", port)))(t)
	t.Cleanup(func() { ln.Close() })
	result := make(chan error, 10)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, err := io.Copy(conn, conn)
				result <- err
			}()
		}
	}()
	return result
}

// dial opens a plaintext connection of nobody's pod from a node.
func dial(t *testing.T, n *netlab.Node, address string) net.Conn {
	t.Helper()
	conn := must.Get(n.Dial("tcp", address))(t)
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// counts waits until a gateway counts so many existing connections.
func counts(t *testing.T, g *gatewaylab.Gateway, outbound, inbound, reset int) *api.ExistingConnections {
	t.Helper()
	var e *api.ExistingConnections
	eventually(t, "existing connections are counted", func() error {
		s := status(t, g)
		if e = s.Existing; e == nil || e.Outbound != outbound || e.Inbound != inbound || e.Reset != reset {
			return fmt.Errorf("%+v instead of %d outbound, %d inbound, %d reset; missing %q", e, outbound, inbound, reset, s.Missing)
		}
		return nil
	})
	return e
}

// TestExisting: what was there before the gateway is found, over both families and in
// both directions, and nothing else is. A reset ends it, and nothing else.
func TestExisting(t *testing.T) {
	l := newLabOf(t, 3)
	probe := l.net.Node(2)
	far := server(t, l.b, portEcho+1000)
	server(t, l.b, portExcluded)

	out4, out6 := l.hold(l.a, l.b.Addr(portEcho+1000)), l.hold(l.a, l.b.Addr6(portEcho))
	in4, in6 := dial(t, l.b, l.a.Addr(portEcho)), dial(t, l.b, l.a.Addr6(portEcho))
	untouched := map[string]*held{
		"an allowed source":           l.hold(probe, l.a.Addr(portEcho)),
		"an allowed source, IPv6":     l.hold(probe, l.a.Addr6(portEcho)),
		"an excluded port":            l.hold(l.a, l.b.Addr(portExcluded)),
		"loopback":                    l.hold(l.a, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), portEcho).String()),
		"loopback, IPv6":              l.hold(l.a, netip.AddrPortFrom(netip.IPv6Loopback(), portEcho).String()),
		"the pod's address":           l.hold(l.a, l.a.Addr(portEcho)),
		"the pod's address, IPv6":     l.hold(l.a, l.a.Addr6(portEcho)),
		"outside of the pod's cgroup": l.holdIn(l.a, l.a.OtherCgroup, l.b.Addr(portEcho)),
		"another pod":                 l.hold(probe, l.b.Addr(portEcho)),
	}

	gb := l.gateway(with(l.spec(l.b), func(c *api.Config) { c.Existing = api.ExistingLeave }))
	ga := l.gateway(with(l.spec(l.a), func(c *api.Config) {
		c.Services = []netip.Prefix{netip.PrefixFrom(l.b.IP6, 128)} // in band
		c.PlaintextFrom = []api.Source{{From: netip.PrefixFrom(probe.IP4, 32)}, {From: netip.PrefixFrom(probe.IP6, 128)}}
		c.ExcludePorts = []uint16{portExcluded}
	}))
	e := counts(t, ga, 2, 2, 0)
	want := map[string]bool{
		"outbound to " + l.b.Addr(portEcho+1000):   true,
		"outbound to " + l.b.Addr6(portEcho):       true,
		"inbound from " + in4.LocalAddr().String(): true,
		"inbound from " + in6.LocalAddr().String(): true,
	}
	for _, c := range e.Connections {
		name := "outbound to " + c.Remote.String()
		if c.Direction == api.Inbound {
			name = "inbound from " + c.Remote.String()
			if local := c.Local; local.Port() != portEcho || local.Addr() != l.a.IP4 && local.Addr() != l.a.IP6 {
				t.Errorf("%s: the pod's end is %v", name, local)
			}
		}
		if !want[name] {
			t.Errorf("%s is listed", name)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	if s := status(t, gb); s.Existing != nil {
		t.Errorf("a gateway that is to leave connections alone reports %+v", s.Existing)
	}

	// What gateways carry is theirs, in whichever way.
	for name, address := range map[string]string{
		"encrypted": l.b.Addr(portEcho), "in band": l.b.Addr6(portEcho), "plaintext fallback": probe.Addr(portEcho),
	} {
		untouched[name] = l.hold(l.a, address)
	}
	untouched["encrypted, inbound"] = l.hold(l.b, l.a.Addr(portEcho))
	if n := status(t, ga).Traffic; n.Outbound.Encrypted != 2 || n.Outbound.Inband != 1 || n.Outbound.Plaintext != 1 || n.Inbound.Encrypted != 1 {
		t.Fatalf("the gateway carries %+v", n)
	}
	counts(t, ga, 2, 2, 0)

	ends := []<-chan error{outcome(in4), outcome(in6), far}
	if s := ask[api.Status](t, ga, "reset"); s.Existing == nil || s.Existing.Reset != 4 || s.Existing.Outbound+s.Existing.Inbound != 0 {
		t.Errorf("after the reset: %+v", s.Existing)
	}
	out4.broken("software caused connection abort")
	out6.broken("software caused connection abort")
	for _, end := range ends {
		if err := <-end; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other end saw %v", err)
		}
	}
	for name, h := range untouched {
		t.Log("still there:", name)
		h.say("still there")
	}
	counts(t, ga, 0, 0, 4)

	again := l.talk(l.a, l.b.Addr(portEcho))
	c := connection(t, ga, "the new connection", func(c *api.Connection) bool { return c.Source.String() == again.Local })
	if !c.Encrypted {
		t.Errorf("after the reset: %+v", c)
	}
	if s := ask[api.Status](t, gb, "reset"); s.Existing == nil {
		t.Error("a gateway that was asked to reset connections does not report them")
	}
}

// TestExistingReset: connections are reset when the capture starts, and later ones only
// on request.
func TestExistingReset(t *testing.T) {
	l := newLab(t)
	out, in := l.hold(l.a, l.b.Addr(portEcho)), dial(t, l.b, l.a.Addr6(portEcho))
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Existing = api.ExistingReset }))
	if e := status(t, g).Existing; e == nil || e.Reset != 2 || e.Outbound+e.Inbound != 0 {
		t.Errorf("once the gateway is ready: %+v", e)
	}
	out.broken("software caused connection abort")
	if err := <-outcome(in); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other end saw %v", err)
	}
	later := l.holdIn(l.b, l.b.OtherCgroup, l.a.Addr(portEcho))
	killWorker(t, g)
	later.say("still there")
	counts(t, g, 0, 1, 2)
}

// TestExistingInStrictMode: whatever strict mode would refuse counts there.
func TestExistingInStrictMode(t *testing.T) {
	l := newLabOf(t, 3)
	service, other := l.hold(l.a, l.b.Addr(portEcho)), l.holdIn(l.net.Node(2), l.net.Node(2).OtherCgroup, l.a.Addr(portEcho))
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) {
		c.Wire = api.WirePort
		c.Services = []netip.Prefix{netip.PrefixFrom(l.b.IP4, 32)}
		c.Capture = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	}))
	counts(t, g, 0, 0, 0)
	setMode(t, g, api.Strict)
	e := counts(t, g, 1, 1, 0)
	if !slices.ContainsFunc(e.Connections, func(c api.ExistingConnection) bool {
		return c.Direction == api.Outbound && c.Remote == addrPort(t, l.b.Addr(portEcho))
	}) {
		t.Errorf("listed are %+v", e.Connections)
	}
	service.say("still there")
	other.say("still there")
	ask[api.Status](t, g, "reset")
	service.broken("software caused connection abort")
	other.broken("connection reset by peer")
}
