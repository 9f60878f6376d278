//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
)

// awaitEdge waits for the edge that fits.
func awaitEdge(t *testing.T, g *gatewaylab.Gateway, what string, fits func(e api.Edge) bool) api.Edge {
	t.Helper()
	var found api.Edge
	eventually(t, what, func() error {
		all := ask[api.Edges](t, g, "edges")
		n := slices.IndexFunc(all.Edges, fits)
		if n < 0 {
			return fmt.Errorf("edges are %+v", all.Edges)
		}
		found = all.Edges[n]
		return nil
	})
	return found
}

// TestEdges has a pod talk to one with a gateway, directly and as if to a Service, to
// one without, and to one that refuses; both ends are asked.
func TestEdges(t *testing.T) {
	l := newLabOf(t, 4)
	plain, closed := l.net.Node(2), l.net.Node(3)
	ga := l.gateway(with(l.spec(l.a), func(c *api.Config) {
		c.Services = []netip.Prefix{netip.PrefixFrom(l.b.IP6, 128)}
	}))
	gb := l.gateway(l.spec(l.b))
	gs := l.gateway(strict(with(l.spec(closed), func(c *api.Config) { c.Allow = []string{"ns/other/sa/*"} })))

	for range 2 {
		l.talk(l.a, l.b.Addr(portEcho))
	}
	l.talk(l.a, l.b.Addr6(portEcho))
	l.talk(l.a, plain.Addr(portEcho))
	l.talk(plain, l.b.Addr(portEcho))
	l.refused(l.a, closed.Addr(portEcho), "what is not allowed")
	l.refused(plain, closed.Addr(portEcho), "plaintext to a strict gateway")
	id := func(ip netip.Addr) string { return "spiffe://lab.test/ns/lab/sa/pod-" + ip.String() }
	is := func(want api.Edge) func(api.Edge) bool {
		return func(e api.Edge) bool {
			e.LastSeen = time.Time{}
			if want.Verdict == api.EdgeRefused {
				e.Sent, e.Received = 0, 0
			}
			return e == want
		}
	}
	awaitEdge(t, ga, "encrypted, the client's side", is(api.Edge{Direction: api.Outbound, Source: l.a.IP4,
		Destination: addrPort(t, l.b.Addr(portEcho)), Peer: id(l.b.IP4), Wire: api.WirePort, Verdict: api.EdgeEncrypted,
		Connections: 2, Sent: 12, Received: 12}))
	awaitEdge(t, gb, "encrypted, the server's side", is(api.Edge{Direction: api.Inbound, Source: l.a.IP4,
		Destination: addrPort(t, l.b.Addr(portEcho)), Peer: id(l.a.IP4), Wire: api.WirePort, Verdict: api.EdgeEncrypted,
		Connections: 2, Sent: 12, Received: 12}))
	awaitEdge(t, gb, "encrypted in band", is(api.Edge{Direction: api.Inbound, Source: l.a.IP6,
		Destination: addrPort(t, l.b.Addr6(portEcho)), Peer: id(l.a.IP4), Wire: api.WireInband, Verdict: api.EdgeEncrypted,
		Connections: 1, Sent: 6, Received: 6}))
	awaitEdge(t, ga, "plaintext", is(api.Edge{Direction: api.Outbound, Source: l.a.IP4,
		Destination: addrPort(t, plain.Addr(portEcho)), Wire: api.WireNone, Verdict: api.EdgePlaintext,
		Reason: "peer has no gateway: connection refused", Connections: 1, Sent: 6, Received: 6}))
	awaitEdge(t, ga, "refused by the peer", func(e api.Edge) bool {
		return e.Verdict == api.EdgeRefused && e.Peer == id(closed.IP4) && e.Connections == 1 && e.Open == 0 && e.Reason != ""
	})
	awaitEdge(t, gs, "refused for its identity", is(api.Edge{Direction: api.Inbound, Source: l.a.IP4,
		Destination: addrPort(t, closed.Addr(portEcho)), Peer: id(l.a.IP4), Wire: api.WirePort, Verdict: api.EdgeRefused,
		Reason: "identity is not allowed", Connections: 1}))

	awaitEdge(t, gs, "refused for its plaintext", is(api.Edge{Direction: api.Inbound, Source: plain.IP4,
		Destination: addrPort(t, closed.Addr(portEcho)), Wire: api.WireNone, Verdict: api.EdgeRefused,
		Reason: "plaintext is not allowed", Connections: 1}))
	awaitEdge(t, gb, "plaintext of a client without a gateway", is(api.Edge{Direction: api.Inbound, Source: plain.IP4,
		Destination: addrPort(t, l.b.Addr(portEcho)), Wire: api.WireNone, Verdict: api.EdgePlaintext,
		Reason: "client did not show a gateway", Connections: 1}))

	all := ask[api.Edges](t, ga, "edges")
	if s := status(t, ga); all.Pod != s.Pod || !slices.Equal(all.PodIPs, s.PodIPs) || all.Forgotten != 0 || all.Since.After(all.Time) {
		t.Errorf("the gateway says %+v", all)
	}
	if len(all.Edges) != 4 {
		t.Errorf("%d edges: %+v", len(all.Edges), all.Edges)
	}
	var text strings.Builder
	if code := run([]string{"ctl", "edges", "--control-socket", ga.Socket()}, nil, &text, os.Stderr); code != 0 ||
		!strings.Contains(text.String(), "outbound  "+l.a.IP4.String()+" to "+plain.Addr(portEcho)+" plaintext: peer has no gateway") {
		t.Errorf("exit code %d:\n%s", code, text.String())
	}
}

// TestEdgesWhileOpen: open ones are counted while they are, and
// those that no gateway carries are told beside them.
func TestEdgesWhileOpen(t *testing.T) {
	l := newLab(t)
	before := l.hold(l.a, l.b.Addr(portEcho))
	ga := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Existing = api.ExistingReport }))
	l.gateway(l.spec(l.b))
	before.say("still there")
	after := l.hold(l.a, l.b.Addr(portEcho))
	after.say("here, too")
	e := awaitEdge(t, ga, "the open connection", func(e api.Edge) bool { return e.Open == 1 && e.Sent > 0 })
	if e.Verdict != api.EdgeEncrypted || e.Connections != 1 {
		t.Errorf("its edge is %+v", e)
	}
	if x := ask[api.Edges](t, ga, "edges").Existing; x == nil || x.Outbound != 1 || x.Connections[0].Remote != addrPort(t, l.b.Addr(portEcho)) {
		t.Errorf("existing connections are %+v", x)
	}
}

// TestEdgesOfTheNextWorker begin anew.
func TestEdgesOfTheNextWorker(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	path := filepath.Join(filepath.Dir(g.Socket()), "edges.sock")
	l.talk(l.a, l.b.Addr(portEcho))
	if first := ask[api.Edges](t, g, "edges"); len(first.Edges) != 1 {
		t.Errorf("before: %+v", first)
	}
	killWorker(t, g)
	if next := ask[api.Edges](t, g, "edges"); len(next.Edges) != 0 {
		t.Errorf("afterwards: %+v", next)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	awaitEdge(t, g, "an edge of the next worker", func(e api.Edge) bool { return e.Connections == 1 })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	if err := g.End(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket outlives the gateway: %v", err)
	}
}

// TestEdgesBesideTheWorker: what only the programs count becomes an edge of the pod's own
// address of that family.
func TestEdgesBesideTheWorker(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	network := netip.MustParsePrefix("172.16.1.0/24")
	seen := time.Unix(1, 0)
	status := api.Status{PodIPs: []netip.Addr{four}, Capture: api.Capture{
		Strangers:       []api.Stranger{{Client: netip.MustParseAddr("10.0.0.9"), Port: 80, Connections: 2, LastSeen: seen}, {Client: netip.MustParseAddr("fd00::9"), Port: 81, Connections: 1}},
		OutsideNetworks: []api.OutsideNetwork{{Network: network, Connections: 5}}}}
	outside := api.Edge{Direction: api.Outbound, Source: four, Destination: netip.MustParseAddrPort("172.16.1.0:0"), Network: network, Wire: api.WireNone,
		Verdict: api.EdgePlaintext, Reason: reasonOutside, Connections: 5}
	want := []api.Edge{{Direction: api.Inbound, Source: netip.MustParseAddr("10.0.0.9"), Destination: netip.MustParseAddrPort("10.0.0.1:80"), Wire: api.WireNone,
		Verdict: api.EdgePlaintext, Reason: reasonStranger, Connections: 2, LastSeen: seen}, outside}
	if got := beside(&status); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	status.PodIPs = append(status.PodIPs, six)
	status.Mode, status.Capture.Outside = api.Strict, api.OutsideRefuse
	want[1].Verdict = api.EdgeRefused
	got := beside(&status)
	if len(got) != 3 || got[1].Destination != netip.MustParseAddrPort("[fd00::1]:81") || got[2] != want[1] {
		t.Errorf("both families, strict: %+v", got)
	}
}

// TestEdgesBesideTheWorkerHaveRoom: a peer that fills the table hides neither clients without a gateway nor what leaves unseen.
func TestEdgesBesideTheWorkerHaveRoom(t *testing.T) {
	status := api.Status{PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Capture: api.Capture{
		Strangers:       []api.Stranger{{Client: netip.MustParseAddr("10.0.0.9"), Port: 80, Connections: 2, LastSeen: time.Unix(1, 0)}},
		OutsideNetworks: []api.OutsideNetwork{{Network: netip.MustParsePrefix("172.16.1.0/24"), Connections: 5}}}}
	edges := &api.Edges{}
	for port := range api.MaxEdges {
		edges.Edges = append(edges.Edges, api.Edge{Direction: api.Inbound, Peer: "spiffe://td/ns/a/sa/evil", Connections: 1, LastSeen: time.Unix(2, 0),
			Destination: netip.AddrPortFrom(status.PodIPs[0], uint16(port))})
	}
	addBeside(edges, &status)
	if last := edges.Edges[len(edges.Edges)-2:]; len(edges.Edges) != api.MaxEdges || edges.Forgotten != 2 || !slices.Equal(last, beside(&status)) {
		t.Errorf("%d edges, %d connections forgotten, the last are %+v", len(edges.Edges), edges.Forgotten, last)
	}
}
