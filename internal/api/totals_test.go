package api

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestPlus: every count is added, those of later versions included.
func TestPlus(t *testing.T) {
	fill := func(v reflect.Value, n int) {
		for i := range v.NumField() {
			if f := v.Field(i); f.CanUint() {
				f.SetUint(uint64(n + i))
			} else {
				f.SetInt(int64(n + i))
			}
		}
	}
	var a, b, sum CaptureCounts
	fill(reflect.ValueOf(&a).Elem(), 1)
	fill(reflect.ValueOf(&b).Elem(), 100)
	for i := range reflect.ValueOf(a).NumField() {
		reflect.ValueOf(&sum).Elem().Field(i).SetUint(uint64(101 + 2*i))
	}
	equal(t, "sum", sum, a.Plus(b))
	got := Traffic{Outbound: Direction{Active: 2, Sent: 3}}.Plus(Traffic{Outbound: Direction{Active: -1, Sent: 4}, Inbound: Direction{Refused: 5}})
	equal(t, "sum", Traffic{Outbound: Direction{Active: 1, Sent: 7}, Inbound: Direction{Refused: 5}}, got)
}

func TestMerge(t *testing.T) {
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	same := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

	strangers := MergeStrangers([]Stranger{{one, 80, 1, early}, {two, 80, 1, early}}, []Stranger{{two, 80, 2, late}, {two, 81, 4, early}})
	equal(t, "sum", []Stranger{{two, 80, 3, late}, {one, 80, 1, early}, {two, 81, 4, early}}, strangers)
	reasons := MergeUnencrypted([]Unencrypted{{Outbound, "b", 1}, {Inbound, "a", 1}}, []Unencrypted{{Outbound, "a", 1}, {Outbound, "b", 2}})
	equal(t, "sum", []Unencrypted{{Outbound, "a", 1}, {Outbound, "b", 3}, {Inbound, "a", 1}}, reasons)
	edge := func(source netip.Addr, n uint64, seen time.Time) Edge {
		return Edge{Source: source, Connections: n, Open: int64(n), Sent: n, Received: n, LastSeen: seen}
	}
	a := &Edges{Since: late, Edges: []Edge{edge(one, 1, early)}, Forgotten: 1}
	b := &Edges{Since: early, Edges: []Edge{edge(two, 2, early), edge(one, 4, late)}, Forgotten: 2}
	want := &Edges{Since: early, Edges: []Edge{edge(one, 5, late), edge(two, 2, early)}, Forgotten: 3}
	equal(t, "sum", want, MergeEdges(a, b))
	for range MaxEdges {
		one = one.Next()
		b.Edges = append(b.Edges, edge(one, 1, late))
	}
	if sum := MergeEdges(a, b); len(sum.Edges) != MaxEdges || sum.Forgotten != 3+1 {
		t.Errorf("%d edges, %d connections forgotten", len(sum.Edges), sum.Forgotten)
	}
	if MergeEdges(nil, nil) != nil || MergeEdges(a, nil) == a || !cmp.Equal(MergeEdges(nil, a), a, same) {
		t.Error("one of two is not a copy")
	}
}

// TestMergeEdgesIsFair: after a take-over, too, a peer that invents edges displaces its own, and so do clients without a gateway.
func TestMergeEdgesIsFair(t *testing.T) {
	now := time.Now()
	edges := func(direction, peer string, n int, seen time.Time) *Edges {
		list := &Edges{}
		for port := range n {
			list.Edges = append(list.Edges, Edge{Direction: direction, Peer: peer, Connections: 1, LastSeen: seen.Add(time.Duration(port)),
				Destination: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(port))})
		}
		return list
	}
	var before *Edges
	for _, of := range []*Edges{edges(Outbound, "evil", 20, now), edges(Inbound, "good", 30, now), edges(Outbound, "", 10, now), edges(Inbound, "", 100, now)} {
		before = MergeEdges(before, of)
	}
	for name, c := range map[string]struct {
		later *Edges
		want  map[string]int
	}{
		"a peer":    {edges(Inbound, "evil", MaxEdges, now.Add(time.Hour)), map[string]int{"outbound evil": 20, "inbound good": 30, "outbound ": 10, "inbound ": 100, "inbound evil": MaxEdges - 160}},
		"strangers": {edges(Inbound, "", MaxEdges, now.Add(time.Hour)), map[string]int{"outbound evil": 20, "inbound good": 30, "outbound ": 10, "inbound ": MaxEdges - 60}},
	} {
		for _, sum := range []*Edges{MergeEdges(before, c.later), MergeEdges(c.later, before)} {
			got, connections := map[string]int{}, sum.Forgotten
			for _, e := range sum.Edges {
				got[e.Direction+" "+e.Peer]++
				connections += e.Connections
			}
			equal(t, name, c.want, got)
			equal(t, name+": connections", uint64(160+MaxEdges), connections)
			if !slices.IsSortedFunc(sum.Edges, func(a, b Edge) int { return b.LastSeen.Compare(a.LastSeen) }) {
				t.Errorf("%s: the one last seen is not first", name)
			}
		}
	}
	// Where others need the room, strangers have their own.
	sum := MergeEdges(edges(Inbound, "", MaxEdges, now.Add(time.Hour)), edges(Outbound, "", MaxEdges, now))
	own := slices.DeleteFunc(sum.Edges, func(e Edge) bool { return e.Direction == Inbound })
	equal(t, "edges of the pod itself", MaxEdges-MaxEdgesOfStrangers, len(own))
}
