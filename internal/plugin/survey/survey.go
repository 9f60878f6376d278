// Package survey finds out what the gateways of a cluster have to know about it, and
// which of its pods cannot have one.
package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// Survey is what gateways have to know about their cluster as a whole.
type Survey struct {
	// Found holds Capture, Services, Nodes, Endpoints and Pass, as the cluster shows them.
	Found api.Coverage
	// Warnings are for the user, one line each: what had to be guessed or is not known.
	Warnings []string
	// nodes, by name, is nil if the user may not list them.
	nodes map[string]*corev1.Node
	// addresses are those of nodes, by name, that belong to no pod.
	addresses map[string][]netip.Addr
	// claims are what pods' addresses are held against.
	claims claims
	// apiServer holds the endpoints of the API server, callers where it connects from, and
	// callerNodes the nodes that it connects from.
	apiServer   []netip.AddrPort
	callers     []netip.Addr
	callerNodes map[string]bool
	// leading are the Services with a selector, by namespace, and calls what the cluster
	// itself asks of Services, by NAMESPACE/NAME.
	leading map[string][]*corev1.Service
	calls   map[string][]call
	// unknown names what could not be read of all that.
	unknown []string
	// incomplete means that something of the cluster could not be read, and noNodes that its
	// nodes could not.
	incomplete, noNodes bool
}

const (
	// maxNodes and maxEndpoints bound what a gateway is told: its first configuration has to
	// fit into one environment variable (128 KiB on Linux).
	maxNodes     = 2000
	maxEndpoints = 1500
)

// Run finds out which destinations the gateways of pods are to capture. What is named need
// not be found. It guesses, and says so in Warnings, where the cluster does not tell.
func Run(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod, named api.Coverage) (*Survey, error) {
	read := readAll(ctx, client)
	s := &Survey{}
	switch {
	case read.nodesErr == nil:
		s.nodes = read.nodes
	case !apierrors.IsForbidden(read.nodesErr):
		return nil, fmt.Errorf("listing nodes for the ranges of pod addresses: %w", read.nodesErr)
	case len(named.Capture) == 0:
		return nil, api.WithHint(fmt.Errorf("listing nodes for the ranges of pod addresses: %w", read.nodesErr),
			"name the ranges with --capture-cidr and --service-cidr, or ask for a role that may list nodes")
	}
	s.claims = newClaims(s.nodes, read)
	s.findNodes(pods, read.pods)
	if err := s.findPods(pods, read, len(named.Capture) > 0); err != nil {
		return nil, err
	}
	if err := s.findServices(read, len(named.Services) > 0); err != nil {
		return nil, err
	}
	s.findEndpoints(read)
	s.findCallers(read)
	s.findServers(read)
	s.noNodes = read.nodesErr != nil
	s.incomplete = cmp.Or(read.nodesErr, read.servicesErr, read.apiServerErr, read.podsErr, read.callsErr) != nil
	return s, nil
}

// RunForStrict is Run for the sake of Strict alone. It returns no error where the rights of
// the user are too few: StrictUnknown says what is not known then.
func RunForStrict(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod) (*Survey, error) {
	everything := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	return Run(ctx, client, pods, api.Coverage{Capture: everything, Services: everything})
}

// For returns what the gateway of pod captures, and whose plaintext it accepts. What is
// named replaces what was found, except that exclusions and sources add up.
func (s *Survey) For(pod *corev1.Pod, named api.Coverage) api.Coverage {
	c := api.Coverage{
		Capture: s.Found.Capture, Services: s.Found.Services,
		Exclude: named.Exclude, ExcludePorts: slices.Compact(slices.Sorted(slices.Values(named.ExcludePorts))),
		Endpoints: s.Found.Endpoints, Pass: s.Found.Pass,
		PlaintextFrom: s.plaintextFrom(pod, named.PlaintextFrom), Probes: probed(pod),
	}
	if named.Outside == api.OutsideRefuse {
		c.Outside = named.Outside
	}
	if len(named.Capture) > 0 {
		c.Capture = compact(named.Capture)
	}
	if len(named.Services) > 0 {
		c.Services = compact(named.Services)
	}
	if named.NodePorts != [2]uint16{} && len(s.Found.Nodes) > 0 && len(s.Found.Nodes) <= maxNodes {
		// All other ports of the nodes are excluded with that.
		c.Nodes, c.NodePorts = s.Found.Nodes, named.NodePorts
	} else {
		captured := setOf(slices.Concat(c.Capture, c.Services))
		for _, address := range s.Found.Nodes {
			// Other nodes are outside the capture anyway.
			if captured.Contains(address) {
				c.Exclude = append(slices.Clip(c.Exclude), host(address))
			}
		}
	}
	c.Exclude = compact(c.Exclude)
	sources, probes := s.accepted(pod, c.Capture)
	c.PlaintextFrom = api.MergeSources(slices.Concat(c.PlaintextFrom, sources))
	c.Probes = api.NewPorts(slices.Concat(c.Probes, probes)...)
	return c
}

// plaintextFrom returns from where the gateway of pod accepts plaintext: from given, and
// from all addresses of pod's own node, whose kubelet probes it, what that probes.
func (s *Survey) plaintextFrom(pod *corev1.Pod, given []api.Source) []api.Source {
	list := slices.Clone(given)
	if ports := probed(pod); len(ports) > 0 {
		for _, ip := range slices.Concat(s.addresses[pod.Spec.NodeName], hostIPs(pod)) {
			list = append(list, api.Source{From: host(ip), Ports: ports})
		}
	}
	return api.MergeSources(list)
}

// findNodes takes the addresses of all nodes, or as many as targets tell. A node's word
// about an address that belongs to a pod, or to another node's pods, is not taken.
func (s *Survey) findNodes(targets []corev1.Pod, pods []pod) {
	taken := sets.New[netip.Addr]()
	for _, p := range pods {
		taken.Insert(p.ips...)
	}
	ranges := map[string]*netipx.IPSet{}
	for name, node := range s.nodes {
		ranges[name] = setOf(podRanges(node))
	}
	s.addresses = map[string][]netip.Addr{}
	for name, node := range s.nodes {
		for _, address := range node.Status.Addresses {
			// Host names do not parse and are no addresses.
			ip, err := netip.ParseAddr(address.Address)
			if ip = ip.Unmap(); err != nil || ip.Zone() != "" || ip.IsLoopback() || ip.IsUnspecified() || taken.Has(ip) {
				continue
			}
			foreign := false
			for other, set := range ranges {
				foreign = foreign || other != name && set.Contains(ip)
			}
			if !foreign {
				s.addresses[name] = append(s.addresses[name], ip)
			}
		}
		s.Found.Nodes = append(s.Found.Nodes, s.addresses[name]...)
	}
	for i := range targets {
		s.Found.Nodes = append(s.Found.Nodes, hostIPs(&targets[i])...)
	}
	s.Found.Nodes = sorted(s.Found.Nodes)
	if n := len(s.Found.Nodes); n > maxNodes {
		s.Warnings = append(s.Warnings, fmt.Sprintf("connections to node ports are not encrypted: the nodes have %d addresses, more than %d", n, maxNodes))
	}
}

// podRanges returns the ranges of pod addresses that node announces.
func podRanges(node *corev1.Node) (ranges []netip.Prefix) {
	texts := node.Spec.PodCIDRs
	if len(texts) == 0 && node.Spec.PodCIDR != "" {
		texts = []string{node.Spec.PodCIDR}
	}
	for _, text := range texts {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			ranges = append(ranges, prefix.Masked())
		}
	}
	return ranges
}

// findPods takes the ranges that nodes announce. Network plug-ins with an address management
// of their own leave some or all of them out, or hand out addresses outside of them; only
// then the addresses of all pods count.
func (s *Survey) findPods(targets []corev1.Pod, read *read, named bool) error {
	complete := true
	for _, node := range s.nodes {
		ranges := podRanges(node)
		complete = complete && (len(ranges) > 0 || virtualNode(node) != "")
		s.Found.Capture = append(s.Found.Capture, ranges...)
	}
	announced := setOf(s.Found.Capture)
	known := func(ip netip.Addr) bool { return announced.Contains(ip) || slices.Contains(s.Found.Nodes, ip) }
	for i := range targets {
		complete = complete && !slices.ContainsFunc(installed.PodIPs(&targets[i]), func(ip netip.Addr) bool { return !known(ip) })
	}
	switch {
	case complete || named:
		s.Found.Capture = compact(s.Found.Capture)
		return nil
	case read.podsErr != nil:
		return api.WithHint(fmt.Errorf("listing all pods, because nodes do not announce the addresses of theirs: %w", read.podsErr),
			"name the ranges of pod addresses with --capture-cidr")
	}
	var guessed []netip.Prefix
	for _, p := range read.pods {
		for _, ip := range p.ips {
			if !known(ip) {
				guessed = append(guessed, widen(ip, 24, 64))
			}
		}
	}
	s.guess(guessed, "pod", "--capture-cidr")
	s.Found.Capture = compact(append(s.Found.Capture, guessed...))
	if len(s.Found.Capture) == 0 {
		return api.WithHint(errors.New("no range of pod addresses was found"), "name it with --capture-cidr")
	}
	return nil
}

// findServices takes the ServiceCIDR objects. Clusters that do not offer them
// only show the addresses that were given to Services.
func (s *Survey) findServices(read *read, named bool) error {
	if err := read.serviceCIDRsErr; err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("listing ServiceCIDRs for the ranges of Service addresses: %w", err)
	}
	for _, object := range read.serviceCIDRs {
		for _, text := range object.Spec.CIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				s.Found.Services = append(s.Found.Services, prefix.Masked())
			}
		}
	}
	switch {
	case len(s.Found.Services) > 0 || named:
		s.Found.Services = compact(s.Found.Services)
		return nil
	case read.servicesErr != nil:
		return api.WithHint(fmt.Errorf("listing Services for the ranges of their addresses: %w", read.servicesErr),
			"name the ranges with --service-cidr, or ask for a role that may list servicecidrs.networking.k8s.io")
	}
	var guessed []netip.Prefix
	for _, service := range read.services {
		for _, ip := range Addresses(service.Spec.ClusterIPs) {
			// A Service range has at most 20 host bits (the API server's
			// own limit), and in IPv4 usually 16.
			guessed = append(guessed, widen(ip, 16, 108))
		}
	}
	s.guess(guessed, "Service", "--service-cidr")
	s.Found.Services = compact(guessed)
	return nil
}

func (s *Survey) guess(guessed []netip.Prefix, whose, flag string) {
	if len(guessed) == 0 {
		return
	}
	s.Warnings = append(s.Warnings, fmt.Sprintf("ranges of %s addresses were guessed from those in use: %s; %s names them exactly",
		whose, List(compact(guessed)), flag))
}

func host(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

func widen(ip netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if ip.Is4() {
		bits = bits4
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

// setOf returns the addresses in ranges.
func setOf(ranges []netip.Prefix) *netipx.IPSet {
	var builder netipx.IPSetBuilder
	for _, r := range ranges {
		builder.AddPrefix(r)
	}
	set, _ := builder.IPSet() // the error is about ranges that are not valid, which hold no address
	return set
}

// compact returns the fewest prefixes that cover exactly what ranges cover, in
// order of address.
func compact(ranges []netip.Prefix) []netip.Prefix { return setOf(ranges).Prefixes() }
