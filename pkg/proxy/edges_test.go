//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// oneEdge waits until pod has one edge alone, and that fits.
func (pod *testPod) oneEdge(what string, fits func(api.Edge) bool) api.Edge {
	pod.t.Helper()
	var found []api.Edge
	defer func() {
		if pod.t.Failed() {
			pod.t.Logf("edges: %+v", found)
		}
	}()
	eventually(pod.t, what, func() bool {
		found = pod.proxy.Edges().Edges
		return len(found) == 1 && fits(found[0])
	})
	return found[0]
}

func TestEdgesOfEncryptedConnections(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	begin := time.Now()
	for range 3 {
		conn := client.dial(app)
		write(t, conn, "hello")
		expect(t, conn, "hello")
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectEOF(t, conn)
	}
	client.oneEdge("three edges of a kind", func(e api.Edge) bool { return e.Connections == 3 && e.Open == 0 })
	conn := client.dial(app)
	write(t, conn, "open")
	expect(t, conn, "open")
	// The bytes of the open connection count, too.
	out := client.oneEdge("the client's side", func(e api.Edge) bool { return e.Connections == 4 && e.Open == 1 && e.Received == 19 })
	in := server.oneEdge("the server's side", func(e api.Edge) bool { return e.Connections == 4 && e.Open == 1 && e.Sent == 19 })
	for direction, e := range map[string]api.Edge{api.Outbound: out, api.Inbound: in} {
		if e.Direction != direction || e.Source != client.ip || e.Destination != app || e.Dialled.IsValid() ||
			e.Wire != api.WirePort || e.Verdict != api.EdgeEncrypted || e.Reason != "" ||
			e.Peer != "spiffe://"+testTrustDomain+"/ns/default/sa/app" || e.Sent != 19 || e.Received != 19 {
			t.Errorf("the edge is %+v", e)
		}
		if e.LastSeen.Before(begin) || e.LastSeen.After(time.Now()) {
			t.Errorf("it was last seen at %v", e.LastSeen)
		}
	}
}

func TestEdgeOfPlaintext(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	app := application(t, podAddress(), echo)
	conn := client.dial(app)
	write(t, conn, "hello")
	expect(t, conn, "hello")
	e := client.oneEdge("the open connection", func(e api.Edge) bool { return e.Open == 1 && e.Sent == 5 })
	if e.Verdict != api.EdgePlaintext || e.Reason != reasonPeerRefused || e.Wire != api.WireNone || e.Destination != app || e.Peer != "" {
		t.Errorf("the edge is %+v", e)
	}
}

func TestEdgesOfRefusals(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.Config.Allow = []string{"ns/other/sa/*"} })
	client, lonely := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	nobody := netip.AddrPortFrom(podAddress(), 80)
	for range 2 {
		client.dialReset(app)
		lonely.dialReset(nobody)
	}
	// What the client took for encrypted was refused by the peer.
	out := client.oneEdge("the client's side", func(e api.Edge) bool { return e.Connections == 2 && e.Verdict == api.EdgeRefused })
	if out.Open != 0 || out.Reason != statusNotAllowed.String() || out.Peer == "" {
		t.Errorf("the client's edge is %+v", out)
	}
	in := server.oneEdge("the server's side", func(e api.Edge) bool { return e.Connections == 2 })
	if in.Verdict != api.EdgeRefused || in.Open != 0 || in.Reason != reasonIdentity || in.Source != client.ip || in.Destination != app {
		t.Errorf("the server's edge is %+v", in)
	}
	e := lonely.oneEdge("no gateway", func(e api.Edge) bool { return e.Connections == 2 })
	if e.Verdict != api.EdgeRefused || e.Reason != reasonPeerRefused || e.Wire != api.WireNone {
		t.Errorf("without a gateway there the edge is %+v", e)
	}
}

// TestEdgeThatTurnsOutToBeAnother moves what was counted already.
func TestEdgeThatTurnsOutToBeAnother(t *testing.T) {
	table := newEdgeTable(10, 2, time.Now())
	was := testEdge(1)
	is := was
	is.verdict, is.reason = api.EdgeRefused, "no"
	stays, moves := table.enter(was, time.Now()), table.enter(was, time.Now())
	if stays != moves {
		t.Fatal("one key has two edges")
	}
	stays.sent.Add(100)
	stays.received.Add(10)
	table.leave(moves, is, 30, 3, time.Now())
	edges, _ := table.read()
	if len(edges) != 2 {
		t.Fatalf("edges %+v", edges)
	}
	for i, want := range []string{"refused 1 0 30 3", "encrypted 1 1 70 7"} {
		e := edges[i]
		if got := fmt.Sprint(e.Verdict, " ", e.Connections, e.Open, e.Sent, e.Received); got != want {
			t.Errorf("edge %d is %s, want %s", i, got, want)
		}
	}
	table.leave(stays, is, 70, 7, time.Now())
	if edges, _ := table.read(); len(edges) != 1 || edges[0].Connections != 2 || edges[0].Sent != 100 || edges[0].Received != 10 {
		t.Errorf("edges %+v", edges)
	}
}

func testEdge(n int) edgeKey {
	return edgeKey{
		source: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), destination: netip.MustParseAddrPort("10.1.0.1:80"),
		wire: api.WirePort, verdict: api.EdgeEncrypted, peer: "spiffe://td/ns/a/sa/b",
	}
}

// TestEdgesAreBounded: the oldest make room, and strangers only for each other.
func TestEdgesAreBounded(t *testing.T) {
	table := newEdgeTable(100, 25, time.Now())
	now := time.Now()
	open := table.enter(testEdge(0), now)
	for n := range 200 {
		table.pass(testEdge(n+1), now.Add(time.Duration(n)))
	}
	table.leave(open, open.key, 0, 0, now) // its edge is forgotten
	for n := range 1000 {
		k := testEdge(n)
		k.inbound, k.peer, k.verdict = true, "", api.EdgeRefused
		table.pass(k, now.Add(time.Hour+time.Duration(n)))
	}
	// Seen again, the oldest of the known ones is the newest.
	table.pass(testEdge(126), now.Add(2*time.Hour))
	edges, forgotten := table.read()
	if len(edges) != 100 || len(table.edges) != 100 || forgotten != 1+125+975 {
		t.Fatalf("%d edges, %d forgotten", len(edges), forgotten)
	}
	if !slices.IsSortedFunc(edges, func(a, b api.Edge) int { return b.LastSeen.Compare(a.LastSeen) }) {
		t.Error("the edges are not in the order they were seen")
	}
	if e := edges[0]; e.Source != testEdge(126).source || e.Connections != 2 {
		t.Errorf("the first is %+v", e)
	}
	known := 0
	for _, e := range edges {
		if e.Peer != "" {
			known++
		}
	}
	if known != 75 {
		t.Errorf("%d edges of peers are left", known)
	}
}

// TestEdgesAtOnce is for the race detector: connections settle while others read.
func TestEdgesAtOnce(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	app := application(t, server.ip, echo)
	const each, workers = 20, 8
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range each {
				conn, err := client.tryDial(app)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = conn.Write([]byte("x"))
				if err == nil {
					_, err = conn.Read(make([]byte, 1))
				}
				if err != nil {
					t.Error(err)
				}
				_ = conn.Close()
				client.proxy.Edges()
			}
		})
	}
	all.Wait()
	for _, pod := range []*testPod{client, server} {
		pod.oneEdge("all have ended", func(e api.Edge) bool {
			return e.Connections == each*workers && e.Open == 0 && e.Sent == each*workers && e.Received == each*workers
		})
	}
}
