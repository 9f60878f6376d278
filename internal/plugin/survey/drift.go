package survey

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
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

// List names parts, or ranges, in a line.
func List[T fmt.Stringer](parts []T) string { return lists.Join(parts, maxNamed) }

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
		c.Nodes = sorted(slices.Concat(c.Nodes, have.Nodes))
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
	parts = append(parts, beyond(PartPlaintext, lists.Texts(a.PlaintextFrom), lists.Texts(b.PlaintextFrom))...)
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
	have := sets.New(a...)
	for _, one := range b {
		if !have.Has(one) {
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

// Drift is how far what a gateway captures is from its cluster.
type Drift struct {
	// Lacks are the ranges and addresses of the cluster that it neither captures nor, where it
	// should, lets pass. Extra are those of its own that the cluster does not have.
	Lacks, Extra []Part
	// Flags are those that refresh needs to bring what is lacking, because the user named
	// something else.
	Flags []string
}

// Drift compares the coverage of the gateway of pod with the cluster. What the user excluded is
// not lacking, and what the user named is not extra.
func (s *Survey) Drift(pod *corev1.Pod, capture *api.Capture) Drift {
	d := s.drift(pod, capture)
	if len(d.Lacks) == 0 {
		return d
	}
	refreshed := *capture
	refreshed.Coverage = s.Again(pod, capture.Named, capture.Coverage)
	for _, part := range s.drift(pod, &refreshed).Lacks {
		switch {
		case part.What == PartPods && !slices.Contains(d.Flags, "--capture-cidr=auto"):
			d.Flags = append(d.Flags, "--capture-cidr=auto")
		case part.What == PartServices && !slices.Contains(d.Flags, "--service-cidr=auto"):
			d.Flags = append(d.Flags, "--service-cidr=auto")
		}
	}
	return d
}

func (s *Survey) drift(pod *corev1.Pod, capture *api.Capture) Drift {
	var d Drift
	if capture.Fingerprint == "" {
		return d // a gateway that does not tell
	}
	have, named, found := &capture.Coverage, &capture.Named, &s.Found
	// Of two ranges the longer one decides, also between those of the cluster and of the user.
	need := captured(&api.Coverage{Capture: found.Capture, Services: found.Services, Exclude: named.Exclude}, found.Nodes)
	own := captured(have, have.Nodes)
	missing := minus(need, own)
	services := setOf(found.Services)
	d.Lacks = append(s.ranges(PartPods, minus(missing, services)), s.ranges(PartServices, and(missing, services))...)
	excluded := setOf(named.Exclude)
	for _, ip := range found.Nodes {
		covered := slices.Contains(have.Nodes, ip)
		switch {
		case excluded.Contains(ip) || covered:
		case own.Contains(ip):
			d.Lacks = append(d.Lacks, Part{What: PartExclusion, Range: host(ip).String(), Node: s.nodeAt(ip)})
		case named.NodePorts != [2]uint16{} && len(found.Nodes) <= maxNodes:
			d.Lacks = append(d.Lacks, Part{What: PartNode, Range: ip.String(), Node: s.nodeAt(ip)})
		}
	}
	for _, endpoint := range found.Endpoints {
		ip, port := endpoint.Addr(), endpoint.Port()
		nodePort := slices.Contains(have.Nodes, ip) && have.NodePorts[0] <= port && port <= have.NodePorts[1]
		if !slices.Contains(have.Endpoints, endpoint) && !excluded.Contains(ip) && !slices.Contains(named.ExcludePorts, port) && !own.Contains(ip) && !nodePort {
			d.Lacks = append(d.Lacks, Part{What: PartEndpoint, Range: endpoint.String(), Node: s.nodeAt(ip)})
		}
	}
	for _, endpoint := range found.Pass {
		if !slices.Contains(have.Pass, endpoint) && (own.Contains(endpoint.Addr()) || slices.Contains(have.Endpoints, endpoint)) {
			d.Lacks = append(d.Lacks, Part{What: PartPass, Range: endpoint.String()})
		}
	}
	for _, source := range s.For(pod, *named).PlaintextFrom {
		if !slices.ContainsFunc(have.PlaintextFrom, func(h api.Source) bool { return within(source, h) }) {
			d.Lacks = append(d.Lacks, Part{What: PartPlaintext, Range: source.String(), Node: s.nodeAt(source.From.Addr())})
		}
	}
	if !s.incomplete {
		d.Extra = s.extra(need, own, capture)
	}
	return d
}

// extra returns what capture has and neither the cluster nor the user.
func (s *Survey) extra(need, own *netipx.IPSet, capture *api.Capture) []Part {
	more := minus(minus(own, need), setOf(slices.Concat(capture.Named.Capture, capture.Named.Services)))
	// An address that is excluded twice, by the user and as a node's, is nothing more.
	parts := s.ranges(PartPods, minus(more, setOf(append(lists.Map(s.Found.Nodes, host), capture.Named.Exclude...))))
	parts = append(parts, s.addressesBeyond(s.Found.Nodes, capture.Nodes)...)
	parts = append(parts, beyond(PartEndpoint, s.Found.Endpoints, capture.Endpoints)...)
	return append(parts, beyond(PartPass, s.Found.Pass, capture.Pass)...)
}

// captured returns the addresses that c captures whatever their port, without those of nodes.
func captured(c *api.Coverage, nodes []netip.Addr) *netipx.IPSet {
	type decision struct {
		netip.Prefix
		exclude bool
	}
	list := slices.Concat(
		lists.Map(slices.Concat(c.Capture, c.Services), func(r netip.Prefix) decision { return decision{r, false} }),
		lists.Map(c.Exclude, func(r netip.Prefix) decision { return decision{r, true} }))
	// Sorting keeps exclusions behind captures of the same length.
	slices.SortStableFunc(list, func(a, b decision) int { return a.Bits() - b.Bits() })
	var builder netipx.IPSetBuilder
	for _, d := range list {
		if d.exclude {
			builder.RemovePrefix(d.Prefix)
		} else {
			builder.AddPrefix(d.Prefix)
		}
	}
	for _, ip := range nodes {
		builder.Remove(ip)
	}
	set, _ := builder.IPSet() // ranges that are not valid hold no address
	return set
}

// within reports whether all that a lets in is let in by b.
func within(a, b api.Source) bool {
	if !b.From.Contains(a.From.Addr()) || b.From.Bits() > a.From.Bits() || len(a.Ports) == 0 && len(b.Ports) > 0 {
		return false
	}
	return len(b.Ports) == 0 || !slices.ContainsFunc(a.Ports, func(r api.PortRange) bool {
		return !slices.ContainsFunc(b.Ports, func(o api.PortRange) bool { return o.First <= r.First && r.Last <= o.Last })
	})
}
