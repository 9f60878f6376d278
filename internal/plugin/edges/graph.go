package edges

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// graph is a list of edges as nodes and arcs. Their order depends on the list alone.
type graph struct {
	nodes []Endpoint
	arcs  []arc
}

// arc is all edges from one node to another with one verdict.
type arc struct {
	from, to    int
	verdict     Verdict
	ports       []uint16
	reasons     []string
	connections uint64
	// backend is set for an arc from a Service to a pod behind it.
	backend bool
}

func (l *List) graph() graph {
	var g graph
	seen := make(map[endpointKey]bool)
	note := func(e Endpoint) {
		if !seen[e.key()] {
			seen[e.key()] = true
			g.nodes = append(g.nodes, e)
		}
	}
	for _, e := range l.Items {
		note(e.Source)
		note(e.Destination)
		for _, b := range e.Backends {
			note(b)
		}
	}
	slices.SortFunc(g.nodes, compareEndpoints)
	number := make(map[endpointKey]int)
	for i := range g.nodes {
		number[g.nodes[i].key()] = i
	}
	for i := range l.Items {
		e := &l.Items[i]
		from, to := number[e.Source.key()], number[e.Destination.key()]
		g.add(from, to, e, false)
		for b := range e.Backends {
			g.add(to, number[e.Backends[b].key()], e, true)
		}
	}
	slices.SortStableFunc(g.arcs, func(a, b arc) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.verdict, b.verdict))
	})
	return g
}

func (g *graph) add(from, to int, e *Edge, backend bool) {
	i := slices.IndexFunc(g.arcs, func(a arc) bool {
		return a.from == from && a.to == to && a.verdict == e.Verdict && a.backend == backend
	})
	if i < 0 {
		i = len(g.arcs)
		g.arcs = append(g.arcs, arc{from: from, to: to, verdict: e.Verdict, backend: backend})
	}
	a := &g.arcs[i]
	if backend {
		return // the connections of one backend are not known
	}
	a.connections += e.Connections
	if !slices.Contains(a.ports, e.Port) {
		a.ports = append(a.ports, e.Port)
		slices.Sort(a.ports)
	}
	if e.Reason != "" && !slices.Contains(a.reasons, e.Reason) {
		a.reasons = append(a.reasons, e.Reason)
	}
}

// label names the ports. The title has the rest.
func (a *arc) label() string {
	return strings.Join(lists.Map(a.ports, func(p uint16) string { return ":" + strconv.Itoa(int(p)) }), " ")
}

// shortLabel names three ports at most.
func (a *arc) shortLabel() string {
	if len(a.ports) <= 3 {
		return a.label()
	}
	few := arc{ports: a.ports[:2]}
	return fmt.Sprintf("%s +%d", few.label(), len(a.ports)-2)
}

func (a *arc) title(g *graph) string {
	text := nodeTitle(&g.nodes[a.from]) + " to " + nodeTitle(&g.nodes[a.to])
	if label := a.label(); label != "" {
		text += " " + label
	}
	text += ", " + string(a.verdict)
	if len(a.reasons) > 0 {
		text += ": " + strings.Join(a.reasons, "; ")
	}
	if !a.backend {
		text += fmt.Sprintf(", %d connections", a.connections)
	}
	return terminal.Clean(text)
}

// nodeLabel names a node within its namespace.
func nodeLabel(e *Endpoint) string { return terminal.Clean(e.Text(e.Namespace)) }

func nodeTitle(e *Endpoint) string { return terminal.Clean(e.Text("")) }

// groups returns the namespaces of the nodes, in order, with the numbers of the nodes
// in them. The empty name of nodes without a namespace comes last.
func (g *graph) groups() (names []string, members map[string][]int) {
	members = make(map[string][]int)
	for i := range g.nodes {
		name := g.nodes[i].Namespace
		if members[name] == nil {
			names = append(names, name)
		}
		members[name] = append(members[name], i)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(boolCompare(a == "", b == ""), cmp.Compare(a, b))
	})
	return names, members
}

// boolCompare puts false first.
func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
