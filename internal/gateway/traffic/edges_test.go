package traffic

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
)

func testKey(n int) Key {
	return Key{
		Direction: Outbound,
		Source:    netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), Destination: netip.MustParseAddrPort("10.1.0.1:80"),
		Wire: api.WirePort, Verdict: api.EdgeEncrypted, Peer: "spiffe://td/ns/a/sa/b",
	}
}

// checkEdges compares what a table tells, but for times.
func checkEdges(t *testing.T, table *Edges, want ...api.Edge) {
	t.Helper()
	if diff := cmp.Diff(want, table.Read().Edges, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}), cmpopts.IgnoreTypes(time.Time{})); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
}

// TestEdgeThatTurnsOutToBeAnother: what was counted already moves.
func TestEdgeThatTurnsOutToBeAnother(t *testing.T) {
	table := newEdges(10, 2)
	was := testKey(1)
	is := was
	is.Verdict, is.Reason = api.EdgeRefused, "no"
	stays, moves := table.Open(was, time.Now()), table.Open(was, time.Now())
	if stays != moves {
		t.Fatal("one key has two edges")
	}
	stays.Sent.Add(100)
	stays.Received.Add(10)
	edge := func(k Key, connections uint64, open int64, sent, received uint64) api.Edge {
		e := (&Edge{key: k}).describe()
		e.Connections, e.Open, e.Sent, e.Received = connections, open, sent, received
		return e
	}
	table.Close(moves, is, 30, 3, time.Now())
	checkEdges(t, table, edge(is, 1, 0, 30, 3), edge(was, 1, 1, 70, 7))
	table.Close(stays, is, 70, 7, time.Now())
	checkEdges(t, table, edge(is, 2, 0, 100, 10))
}

// TestEdgesAreBounded: the oldest make room, and strangers only for each other.
func TestEdgesAreBounded(t *testing.T) {
	table := newEdges(100, 25)
	now := time.Now()
	open := table.Open(testKey(0), now)
	for n := range 200 {
		table.Pass(testKey(n+1), now.Add(time.Duration(n)))
	}
	table.Close(open, open.key, 0, 0, now) // its edge is forgotten
	for n := range 1000 {
		k := testKey(n)
		k.Direction, k.Peer, k.Verdict = Inbound, "", api.EdgeRefused
		table.Pass(k, now.Add(time.Hour+time.Duration(n)))
	}
	// Seen again, the oldest of the known ones is the newest.
	table.Pass(testKey(126), now.Add(2*time.Hour))
	all := table.Read()
	if len(all.Edges) != 100 || len(table.edges) != 100 || all.Forgotten != 1+125+975 {
		t.Fatalf("%d edges, %d forgotten", len(all.Edges), all.Forgotten)
	}
	if !slices.IsSortedFunc(all.Edges, func(a, b api.Edge) int { return b.LastSeen.Compare(a.LastSeen) }) {
		t.Error("the edges are not in the order they were seen")
	}
	if e := all.Edges[0]; e.Source != testKey(126).Source || e.Connections != 2 {
		t.Errorf("the first is %+v", e)
	}
	strangers := slices.DeleteFunc(all.Edges, func(e api.Edge) bool { return e.Peer != "" })
	if len(strangers) != 25 {
		t.Errorf("%d edges of strangers are left", len(strangers))
	}
}

// TestPeersDoNotDisplaceOthers: one that invents edges displaces its own, whoever came first.
func TestPeersDoNotDisplaceOthers(t *testing.T) {
	const max = 100
	inbound := func(peer string, n int) Key {
		k := testKey(n)
		k.Direction, k.Peer = Inbound, "spiffe://td/ns/a/sa/"+peer
		return k
	}
	invent := func(table *Edges, now time.Time) {
		for n := range 1000 {
			table.Pass(inbound("evil", n), now.Add(time.Duration(n)))
		}
	}
	others := func(table *Edges, now time.Time) {
		for n := range 20 {
			table.Pass(testKey(n), now.Add(time.Duration(n)))
			table.Pass(inbound("good", n), now.Add(time.Duration(n)))
		}
		table.Pass(inbound("small", 1), now)
	}
	for name, fill := range map[string][]func(*Edges, time.Time){
		"before": {invent, others}, "after": {others, invent}, "on and on": {invent, others, invent, others, invent},
	} {
		t.Run(name, func(t *testing.T) {
			table, now := newEdges(max, 0), time.Now()
			var sum uint64
			for i, f := range fill {
				f(table, now.Add(time.Duration(i)*time.Minute))
			}
			got, all := map[string]int{}, table.Read()
			for _, e := range all.Edges {
				got[e.Direction+" "+strings.TrimPrefix(e.Peer, "spiffe://td/ns/a/sa/")]++
				sum += e.Connections
			}
			expect.Equal(t, "edges", map[string]int{"inbound evil": 59, "inbound good": 20, "inbound small": 1, "outbound b": 20}, got)
			counted := uint64(0)
			for _, f := range fill {
				each := newEdges(10000, 0)
				f(each, now)
				counted += uint64(len(each.edges))
			}
			expect.Equal(t, "connections that are shown or counted as forgotten", counted, sum+all.Forgotten)
			if held := len(table.known.held); held != 4 || table.known.used != max {
				t.Errorf("%d holders, %d edges", held, table.known.used)
			}
		})
	}
	// Who has more than others has an equal share left.
	table, now := newEdges(max, 0), time.Now()
	for n := range 90 {
		table.Pass(testKey(n), now.Add(time.Duration(n)))
	}
	invent(table, now.Add(time.Hour))
	own := slices.DeleteFunc(table.Read().Edges, func(e api.Edge) bool { return e.Direction != api.Outbound })
	if len(own) != max/2 || own[0].Source != testKey(89).Source {
		t.Errorf("%d edges of the pod itself are left, the last is %+v", len(own), own[0])
	}
}
