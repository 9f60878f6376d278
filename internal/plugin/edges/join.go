package edges

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// Reasons of connections that no gateway carries.
const (
	reasonBefore    = "open before the gateway"
	reasonNoGateway = "client has no gateway"
)

// Join makes one list of what gateways report. An edge that the gateways at both ends
// have seen is one item. The source's report counts: it knows what was dialled.
func Join(views []View, names *Names) *List {
	j := joiner{names: names}
	list := &List{Kind: Kind, APIVersion: APIVersion}
	for i := range views {
		v := &views[i]
		switch {
		case v.Err != nil:
			list.Unasked = append(list.Unasked, Unasked{
				Namespace: v.Pod.Namespace, Pod: v.Pod.Name, Error: v.Err.Error(), Hint: api.Hint(v.Err)})
		case v.Edges != nil:
			list.Forgotten += v.Edges.Forgotten
			if e := v.Edges.Existing; e != nil {
				list.Unlisted += max(0, e.Outbound+e.Inbound-len(e.Connections))
			}
			j.add(v)
		}
	}
	j.joinInbound()
	list.Items = group(lists.Map(j.rows, func(r row) Edge { return r.Edge }))
	return list
}

// row is an edge between two addresses.
type row struct {
	Edge
	source  netip.Addr
	dialled netip.AddrPort
	// served is what gateways at the destination count of a row of the source's.
	served Counts
}

type joiner struct {
	names *Names
	rows  []row
	// inbound holds the rows of destinations, which are joined after those of all sources.
	inbound []row
}

func (j *joiner) add(v *View) {
	for i := range v.Edges.Edges {
		e := &v.Edges.Edges[i]
		r := row{source: e.Source.Unmap(), Edge: Edge{
			Verdict: verdictOf(e), Reason: e.Reason, Wire: e.Wire,
			Counts: Counts{Connections: e.Connections, Open: uint64(max(0, e.Open))}, LastSeen: e.LastSeen,
		}}
		if !r.LastSeen.IsZero() {
			r.LastSeen = r.LastSeen.Add(-v.ahead)
		}
		if r.Verdict != Encrypted {
			r.Wire = ""
			r.Reason = cmp.Or(r.Reason, "unknown")
		}
		switch {
		case e.Direction == api.Outbound && v.own(e.Source):
			r.dialled = unmap(e.Destination)
			r.Sent, r.Received, r.DestinationIdentity = e.Sent, e.Received, e.Peer
			r.SeenBy = []string{SourceSide}
			j.resolve(&r)
			if e.Network.IsValid() {
				r.Destination = Endpoint{Address: e.Network.Addr(), Network: e.Network}
			}
			j.rows = append(j.rows, r)
		case e.Direction == api.Inbound && v.own(e.Destination.Addr()):
			r.dialled = unmap(e.Destination)
			r.Sent, r.Received, r.SourceIdentity = e.Received, e.Sent, e.Peer
			r.SeenBy = []string{DestinationSide}
			if e.Dialled.IsValid() {
				r.dialled = unmap(e.Dialled)
			}
			j.resolve(&r)
			if e.Dialled.IsValid() {
				r.Backends = []Endpoint{j.names.destination(unmap(e.Destination))}
			}
			j.inbound = append(j.inbound, r)
		}
	}
	j.addExisting(v)
}

func (j *joiner) addExisting(v *View) {
	if v.Edges.Existing == nil {
		return
	}
	var found []row
	for _, c := range v.Edges.Existing.Connections {
		if !v.own(c.Local.Addr()) {
			continue
		}
		r := row{source: c.Local.Addr().Unmap(), dialled: unmap(c.Remote), Edge: Edge{
			Verdict: Plaintext, Reason: reasonBefore, Existing: true,
			LastSeen: v.Edges.Time.Add(-v.ahead), SeenBy: []string{SourceSide},
		}}
		if c.Direction == api.Inbound {
			r.source, r.dialled, r.SeenBy = c.Remote.Addr().Unmap(), unmap(c.Local), []string{DestinationSide}
		}
		i := slices.IndexFunc(found, func(f row) bool { return f.source == r.source && f.dialled == r.dialled })
		if i < 0 {
			i, found = len(found), append(found, r)
		}
		found[i].Connections++
		found[i].Open++
	}
	for _, r := range found {
		j.resolve(&r)
		if r.SeenBy[0] == SourceSide {
			j.rows = append(j.rows, r)
			continue
		}
		if !j.names.gateways[r.Source.key()] {
			r.Reason = reasonNoGateway
		}
		j.inbound = append(j.inbound, r)
	}
}

// verdictOf returns how an edge was carried. Plaintext is the answer in case of doubt.
func verdictOf(e *api.Edge) Verdict {
	switch {
	case e.Verdict == api.EdgeEncrypted && e.Peer != "" && (e.Wire == api.WirePort || e.Wire == api.WireInband):
		return Encrypted
	case e.Verdict == api.EdgeRefused:
		return Refused
	}
	return Plaintext
}

func (j *joiner) resolve(r *row) {
	r.Source = j.names.source(r.source)
	r.Destination = j.names.destination(r.dialled)
	r.Port = r.dialled.Port()
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// joinInbound adds the reports of the destinations to those of the sources.
func (j *joiner) joinInbound() {
	type key struct {
		source  netip.Addr
		dialled netip.AddrPort
		verdict Verdict
	}
	reported := make(map[key][]int)
	for i := range j.rows {
		r := &j.rows[i]
		k := key{r.source, r.dialled, r.Verdict}
		reported[k] = append(reported[k], i)
	}
	for _, in := range j.inbound {
		same := reported[key{in.source, in.dialled, in.Verdict}]
		if len(same) == 0 {
			j.rows = append(j.rows, in)
			continue
		}
		// Any of several rows with different reasons may be meant. The one that was seen
		// last is the likeliest.
		best := slices.MaxFunc(same, func(a, b int) int {
			x, y := &j.rows[a], &j.rows[b]
			return cmp.Or(boolCompare(x.Wire == in.Wire, y.Wire == in.Wire), x.LastSeen.Compare(y.LastSeen))
		})
		r := &j.rows[best]
		r.SourceIdentity = cmp.Or(r.SourceIdentity, in.SourceIdentity)
		r.SeenBy = union(r.SeenBy, in.SeenBy)
		for _, b := range in.Backends {
			r.addBackend(b)
		}
		// The destination may have counted for longer than the worker at the source.
		r.served.add(in.Counts)
		// What the rules of the destination would have refused, only its gateway knows.
		if r.Verdict == Encrypted {
			r.Reason = cmp.Or(r.Reason, in.Reason)
		}
		r.LastSeen = slices.MaxFunc([]time.Time{r.LastSeen, in.LastSeen}, time.Time.Compare)
	}
	for i := range j.rows {
		c, s := &j.rows[i].Counts, j.rows[i].served
		*c = Counts{max(c.Connections, s.Connections), max(c.Open, s.Open), max(c.Sent, s.Sent), max(c.Received, s.Received)}
	}
}

// union joins two lists of sides, the source first.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.SortFunc(all, func(x, y string) int { return cmp.Compare(y, x) })
	return slices.Compact(all)
}

func (e *Edge) addBackend(b Endpoint) {
	if !slices.ContainsFunc(e.Backends, func(has Endpoint) bool { return has.key() == b.key() }) {
		e.Backends = append(e.Backends, b)
	}
}

// group makes one item of edges that look alike, such as those of the two address
// families, and sorts them.
func group(edges []Edge) []Edge {
	type key struct {
		source, destination endpointKey
		port                uint16
		verdict             Verdict
		reason, wire        string
		existing            bool
	}
	at := make(map[key]int)
	grouped := make([]Edge, 0, len(edges))
	for _, e := range edges {
		k := key{e.Source.key(), e.Destination.key(), e.Port, e.Verdict, e.Reason, e.Wire, e.Existing}
		i, ok := at[k]
		if !ok {
			at[k] = len(grouped)
			e.Backends = slices.Clone(e.Backends)
			grouped = append(grouped, e)
			continue
		}
		g := &grouped[i]
		g.Counts.add(e.Counts)
		g.LastSeen = slices.MaxFunc([]time.Time{g.LastSeen, e.LastSeen}, time.Time.Compare)
		g.SeenBy = union(g.SeenBy, e.SeenBy)
		g.SourceIdentity = same(g.SourceIdentity, e.SourceIdentity)
		g.DestinationIdentity = same(g.DestinationIdentity, e.DestinationIdentity)
		for _, b := range e.Backends {
			g.addBackend(b)
		}
	}
	for i := range grouped {
		slices.SortFunc(grouped[i].Backends, compareEndpoints)
	}
	slices.SortStableFunc(grouped, compareEdges)
	return grouped
}

// same joins two identities. An unknown one adds nothing; different ones are listed.
func same(a, b string) string {
	switch {
	case a == "" || a == b:
		return b
	case b == "" || slices.Contains(strings.Split(a, ","), b):
		return a
	}
	return a + "," + b
}

func compareEdges(a, b Edge) int {
	return cmp.Or(
		compareEndpoints(a.Source, b.Source),
		compareEndpoints(a.Destination, b.Destination),
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Verdict, b.Verdict),
		cmp.Compare(a.Wire, b.Wire),
		cmp.Compare(a.Reason, b.Reason),
	)
}

// compareEndpoints puts endpoints without a name last.
func compareEndpoints(a, b Endpoint) int {
	return cmp.Or(
		boolCompare(a.Kind == "", b.Kind == ""),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Kind, b.Kind),
		cmp.Compare(a.Name, b.Name),
		a.key().address.Compare(b.key().address),
	)
}

// ByWorkload sums up the pods of one workload.
func (l *List) ByWorkload(names *Names) {
	for i := range l.Items {
		e := &l.Items[i]
		e.Source, e.Destination = names.workload(e.Source), names.workload(e.Destination)
		backends := e.Backends
		e.Backends = nil
		for _, b := range backends {
			e.addBackend(names.workload(b))
		}
	}
	l.Items = group(l.Items)
}
