package api

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"time"
)

// Sums of what two gateways of one pod have counted, one after the other.

// Plus returns the sums of all counts.
func (t Traffic) Plus(o Traffic) Traffic {
	return Traffic{Outbound: plus(t.Outbound, o.Outbound), Inbound: plus(t.Inbound, o.Inbound)}
}

// Plus returns the sums of all counts.
func (c CaptureCounts) Plus(o CaptureCounts) CaptureCounts { return plus(c, o) }

// plus adds the fields of two structs, which are numbers.
func plus[T any](a, b T) T {
	to, from := reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem()
	for i := range to.NumField() {
		if f := to.Field(i); f.CanUint() {
			f.SetUint(f.Uint() + from.Field(i).Uint())
		} else {
			f.SetInt(f.Int() + from.Field(i).Int())
		}
	}
	return a
}

// merge adds what has the same key, in the order of first appearance.
func merge[T any, K comparable](a, b []T, key func(*T) K, add func(to, from *T)) []T {
	all := slices.Clone(a)
	at := make(map[K]int, len(a)+len(b))
	for i := range all {
		at[key(&all[i])] = i
	}
	for i := range b {
		k := key(&b[i])
		if j, ok := at[k]; ok {
			add(&all[j], &b[i])
			continue
		}
		at[k] = len(all)
		all = append(all, b[i])
	}
	return all
}

// MergeUnencrypted returns the sums, in the order of Status.
func MergeUnencrypted(a, b []Unencrypted) []Unencrypted {
	type key struct{ direction, reason string }
	all := merge(a, b, func(u *Unencrypted) key { return key{u.Direction, u.Reason} },
		func(to, from *Unencrypted) { to.Connections += from.Connections })
	// Outbound comes first.
	slices.SortStableFunc(all, func(a, b Unencrypted) int {
		return cmp.Or(-cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Reason, b.Reason))
	})
	return all
}

// MergeOutside returns the sums, those with most connections first.
func MergeOutside(a, b []OutsideNetwork) []OutsideNetwork {
	all := merge(a, b, func(o *OutsideNetwork) netip.Prefix { return o.Network },
		func(to, from *OutsideNetwork) { to.Connections += from.Connections })
	slices.SortStableFunc(all, func(a, b OutsideNetwork) int { return cmp.Compare(b.Connections, a.Connections) })
	return all[:min(len(all), MaxStrangers)]
}

// MergeStrangers returns the sums of the MaxStrangers last seen, the last one first.
func MergeStrangers(a, b []Stranger) []Stranger {
	all := merge(a, b, func(s *Stranger) netip.AddrPort { return netip.AddrPortFrom(s.Client, s.Port) },
		func(to, from *Stranger) {
			to.Connections += from.Connections
			to.LastSeen = slices.MaxFunc([]time.Time{to.LastSeen, from.LastSeen}, time.Time.Compare)
		})
	slices.SortStableFunc(all, func(a, b Stranger) int { return b.LastSeen.Compare(a.LastSeen) })
	return all[:min(len(all), MaxStrangers)]
}

// MergeEdges returns the sums, the one last seen first, as many as Bound leaves. a or b may be nil, and
// both are: then there are none.
func MergeEdges(a, b *Edges) *Edges {
	if a == nil && b == nil {
		return nil
	}
	if a == nil || b == nil {
		only := *cmp.Or(a, b)
		only.Edges = slices.Clone(only.Edges)
		return &only
	}
	type key struct {
		direction                   string
		source                      netip.Addr
		destination, dialled        netip.AddrPort
		network                     netip.Prefix
		peer, wire, verdict, reason string
	}
	sum := *b
	sum.Since, sum.Forgotten = slices.MinFunc([]time.Time{a.Since, b.Since}, time.Time.Compare), a.Forgotten+b.Forgotten
	sum.Edges = merge(a.Edges, b.Edges, func(e *Edge) key {
		return key{e.Direction, e.Source, e.Destination, e.Dialled, e.Network, e.Peer, e.Wire, e.Verdict, e.Reason}
	}, func(to, from *Edge) {
		to.Connections += from.Connections
		to.Open += from.Open
		to.Sent += from.Sent
		to.Received += from.Received
		to.LastSeen = slices.MaxFunc([]time.Time{to.LastSeen, from.LastSeen}, time.Time.Compare)
	})
	slices.SortStableFunc(sum.Edges, func(a, b Edge) int { return b.LastSeen.Compare(a.LastSeen) })
	sum.Bound(MaxEdges)
	return &sum
}
