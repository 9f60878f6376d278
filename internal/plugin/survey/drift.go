package survey

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// What a Part is.
const (
	PartPods      = "pods"
	PartServices  = "Services"
	PartExclusion = "exclusion"
	PartPort      = "excluded port"
	PartNode      = "node"
	PartNodePorts = "node ports"
	PartEndpoint  = "endpoint"
	PartPass      = "pass"
	PartPlaintext = "plaintext source"
	PartProbes    = "probed ports"
	PartOutside   = "outside"
)

// Part is a part of a coverage.
type Part struct {
	// What is one of the words above.
	What string `json:"what"`
	// Range is a range of addresses, an address, with a port if What is about one, or ports.
	Range string `json:"range"`
	// Node is whose it is, if a node announces it.
	Node string `json:"node,omitempty"`
}

// String is Part for people.
func (p Part) String() string {
	if p.Node != "" && p.What != PartNode {
		return fmt.Sprintf("%s (%s of node %s)", p.Range, p.What, p.Node)
	}
	return strings.TrimSuffix(fmt.Sprintf("%s (%s %s", p.Range, p.What, p.Node), " ") + ")"
}

// maxNamed bounds the parts that a line names.
const maxNamed = 4

// Name names parts in a line.
func Name(parts []Part) string {
	var words []string
	for _, part := range parts[:min(len(parts), maxNamed)] {
		words = append(words, part.String())
	}
	if n := len(parts) - maxNamed; n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(words, ", ")
}

// Again is For for a gateway that has a coverage already. What could not be read of the cluster
// stays as it is there.
func (s *Survey) Again(pod *corev1.Pod, named, have api.Coverage) api.Coverage {
	c := s.For(pod, named)
	if !s.incomplete {
		return c
	}
	c.Endpoints = sorted(slices.Concat(c.Endpoints, have.Endpoints))
	c.Pass = sorted(slices.Concat(c.Pass, have.Pass))
	c.PlaintextFrom = api.MergeSources(slices.Concat(c.PlaintextFrom, have.PlaintextFrom))
	if len(have.Probes) > 0 {
		c.Probes = api.NewPorts(slices.Concat(c.Probes, have.Probes)...)
	}
	if s.noNodes {
		c.Exclude = compact(slices.Concat(c.Exclude, have.Exclude))
		c.Nodes = slices.Compact(slices.SortedFunc(slices.Values(slices.Concat(c.Nodes, have.Nodes)), netip.Addr.Compare))
		if c.NodePorts == [2]uint16{} {
			c.NodePorts = have.NodePorts
		}
	}
	return c
}

// Difference returns what one coverage has and the other lacks.
func (s *Survey) Difference(from, to api.Coverage) (added, removed []Part) {
	return s.beyond(from, to), s.beyond(to, from)
}

// beyond returns the parts of b that a lacks.
func (s *Survey) beyond(a, b api.Coverage) []Part {
	parts := s.ranges(PartPods, minus(setOf(b.Capture), setOf(a.Capture)))
	parts = append(parts, s.ranges(PartServices, minus(setOf(b.Services), setOf(a.Services)))...)
	parts = append(parts, s.ranges(PartExclusion, minus(setOf(b.Exclude), setOf(a.Exclude)))...)
	parts = append(parts, s.addressesBeyond(a.Nodes, b.Nodes)...)
	parts = append(parts, beyond(PartPort, a.ExcludePorts, b.ExcludePorts)...)
	parts = append(parts, beyond(PartEndpoint, a.Endpoints, b.Endpoints)...)
	parts = append(parts, beyond(PartPass, a.Pass, b.Pass)...)
	for _, source := range b.PlaintextFrom {
		if !slices.ContainsFunc(a.PlaintextFrom, func(o api.Source) bool { return o.String() == source.String() }) {
			parts = append(parts, Part{What: PartPlaintext, Range: source.String()})
		}
	}
	for _, word := range []struct{ what, a, b string }{
		{PartNodePorts, portsText(a.NodePorts), portsText(b.NodePorts)},
		{PartProbes, a.Probes.String(), b.Probes.String()},
		{PartOutside, string(a.Outside), string(b.Outside)},
	} {
		if word.b != "" && word.b != word.a {
			parts = append(parts, Part{What: word.what, Range: word.b})
		}
	}
	return parts
}

func portsText(ports [2]uint16) string {
	if ports == [2]uint16{} {
		return ""
	}
	return fmt.Sprintf("%d-%d", ports[0], ports[1])
}

func beyond[T comparable](what string, a, b []T) (parts []Part) {
	have := map[T]bool{}
	for _, one := range a {
		have[one] = true
	}
	for _, one := range b {
		if !have[one] {
			parts = append(parts, Part{What: what, Range: fmt.Sprint(one)})
		}
	}
	return parts
}

// addressesBeyond returns the addresses of nodes that are in b and not in a.
func (s *Survey) addressesBeyond(a, b []netip.Addr) []Part {
	parts := beyond(PartNode, a, b)
	for i := range parts {
		parts[i].Node = s.nodeAt(netip.MustParseAddr(parts[i].Range))
	}
	return parts
}

// nodeAt names the node with an address, "" if there is none.
func (s *Survey) nodeAt(ip netip.Addr) string {
	for _, name := range slices.Sorted(maps.Keys(s.addresses)) {
		if slices.Contains(s.addresses[name], ip) {
			return name
		}
	}
	return ""
}

// ranges returns set in parts, those of nodes apart.
func (s *Survey) ranges(what string, set *netipx.IPSet) (parts []Part) {
	if len(set.Ranges()) == 0 {
		return nil
	}
	add := func(set *netipx.IPSet, node string) {
		for _, r := range set.Prefixes() {
			parts = append(parts, Part{What: what, Range: r.String(), Node: node})
		}
	}
	var named []netip.Prefix
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if what != PartPods {
			break
		}
		if ranges := podRanges(s.nodes[name]); slices.ContainsFunc(ranges, set.OverlapsPrefix) {
			add(and(set, setOf(ranges)), name)
			named = append(named, ranges...)
		}
	}
	add(minus(set, setOf(named)), "")
	return parts
}

func minus(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.RemoveSet(b)
	set, _ := builder.IPSet() // both are valid
	return set
}

func and(a, b *netipx.IPSet) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	builder.AddSet(a)
	builder.Intersect(b)
	set, _ := builder.IPSet() // both are valid
	return set
}
