// Package survey finds out what the gateways of a cluster have to know about it, and
// which of its pods cannot have one.
package survey

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
)

// Ranges are the destinations that gateways capture, and those they do not.
type Ranges struct {
	// Capture holds pod addresses, Services those of Service VIPs.
	Capture, Services []netip.Prefix
	Exclude           []netip.Prefix
	ExcludePorts      []uint16
	// Nodes holds addresses of nodes, whose ports from NodePorts[0] to
	// NodePorts[1] are captured like Services. Without ports there are no nodes.
	Nodes     []netip.Addr
	NodePorts [2]uint16
}

// Survey is what gateways have to know about their cluster as a whole.
type Survey struct {
	Ranges
	// Warnings are for the user, one line each: what had to be guessed.
	Warnings []string
	// nodes, by name, is nil if the user may not list them.
	nodes map[string]*corev1.Node
}

// Run finds out which destinations the gateways of pods are to capture. What
// given names replaces what would be looked for, except that exclusions add up.
// It guesses, and says so in Warnings, where the cluster does not tell.
func Run(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod, given Ranges) (*Survey, error) {
	cluster := &Survey{Ranges: Ranges{
		Capture:      slices.Clone(given.Capture),
		Services:     slices.Clone(given.Services),
		ExcludePorts: slices.Clone(given.ExcludePorts),
	}}
	if err := cluster.readNodes(ctx, client, len(given.Capture) > 0); err != nil {
		return nil, err
	}
	addresses := nodeAddresses(cluster.nodes, pods)
	if len(cluster.Capture) == 0 {
		if err := cluster.findPods(ctx, client, pods, addresses); err != nil {
			return nil, err
		}
	}
	if len(cluster.Services) == 0 {
		if err := cluster.findServices(ctx, client); err != nil {
			return nil, err
		}
	}
	cluster.Capture, cluster.Services = compact(cluster.Capture), compact(cluster.Services)
	cluster.Exclude = slices.Clone(given.Exclude)
	cluster.captureNodePorts(addresses, given.NodePorts)
	if len(cluster.Nodes) == 0 { // else all other ports of the nodes are excluded already
		captured := setOf(slices.Concat(cluster.Capture, cluster.Services))
		for _, address := range addresses {
			// Other nodes are outside the capture anyway, and the configuration of
			// a gateway has to fit into one environment variable (128 KiB on Linux).
			if captured.Contains(address) {
				cluster.Exclude = append(cluster.Exclude, host(address))
			}
		}
	}
	cluster.Exclude = compact(cluster.Exclude)
	slices.Sort(cluster.ExcludePorts)
	cluster.ExcludePorts = slices.Compact(cluster.ExcludePorts)
	return cluster, nil
}

// maxNodes bounds the addresses of nodes that a gateway is told: its
// configuration has to fit into one environment variable (128 KiB on Linux).
const maxNodes = 2000

func (s *Survey) captureNodePorts(addresses []netip.Addr, ports [2]uint16) {
	switch {
	case ports == [2]uint16{}:
		return
	case len(addresses) > maxNodes:
		s.Warnings = append(s.Warnings, fmt.Sprintf("connections to node ports are not encrypted: the nodes have %d addresses, more than %d",
			len(addresses), maxNodes))
		return
	}
	s.Nodes, s.NodePorts = addresses, ports
}

// PlaintextFrom returns from where the gateway of pod accepts plaintext: from given,
// and from all addresses of pod's own node, whose kubelet probes it.
func (s *Survey) PlaintextFrom(pod *corev1.Pod, given []netip.Prefix) []netip.Prefix {
	list := slices.Clone(given)
	own := maps.Clone(s.nodes)
	maps.DeleteFunc(own, func(name string, _ *corev1.Node) bool { return name != pod.Spec.NodeName })
	for _, ip := range nodeAddresses(own, []corev1.Pod{*pod}) {
		if ip.Zone() == "" {
			list = append(list, host(ip))
		}
	}
	return compact(list)
}

func (s *Survey) readNodes(ctx context.Context, client kubernetes.Interface, optional bool) error {
	nodes := map[string]*corev1.Node{}
	err := pages.Each(ctx, metav1.ListOptions{}, client.CoreV1().Nodes().List, func(node *corev1.Node) { nodes[node.Name] = node })
	switch {
	case err == nil:
		s.nodes = nodes
	case !apierrors.IsForbidden(err):
		return fmt.Errorf("listing nodes for the ranges of pod addresses: %w", err)
	case !optional:
		return api.WithHint(fmt.Errorf("listing nodes for the ranges of pod addresses: %w", err),
			"name the ranges with --capture-cidr and --service-cidr, or ask for a role that may list nodes")
	}
	return nil
}

// nodeAddresses returns the addresses of nodes, and those that pods tell of their own.
func nodeAddresses(nodes map[string]*corev1.Node, pods []corev1.Pod) []netip.Addr {
	var found []netip.Addr
	add := func(text string) {
		// Host names do not parse and are no addresses.
		if ip, err := netip.ParseAddr(text); err == nil {
			found = append(found, ip.Unmap())
		}
	}
	for _, node := range nodes {
		for _, address := range node.Status.Addresses {
			add(address.Address)
		}
	}
	for i := range pods {
		add(pods[i].Status.HostIP)
		for _, hostIP := range pods[i].Status.HostIPs {
			add(hostIP.IP)
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return slices.Compact(found)
}

// findPods takes the ranges that nodes announce. Network plug-ins with an
// address management of their own leave some or all of them out, or hand out
// addresses outside of them; only then are the addresses of all pods read.
func (s *Survey) findPods(ctx context.Context, client kubernetes.Interface, targets []corev1.Pod, nodeAddresses []netip.Addr) error {
	complete := true
	for _, node := range s.nodes {
		ranges := node.Spec.PodCIDRs
		if len(ranges) == 0 && node.Spec.PodCIDR != "" {
			ranges = []string{node.Spec.PodCIDR}
		}
		complete = complete && (len(ranges) > 0 || virtualNode(node) != "")
		for _, text := range ranges {
			if prefix, err := netip.ParsePrefix(text); err == nil {
				s.Capture = append(s.Capture, prefix.Masked())
			}
		}
	}
	announced := setOf(s.Capture)
	for i := range targets {
		for _, ip := range installed.PodIPs(&targets[i]) {
			complete = complete && (announced.Contains(ip) || slices.Contains(nodeAddresses, ip))
		}
	}
	if complete {
		return nil
	}

	var guessed []netip.Prefix
	err := pages.Each(ctx, metav1.ListOptions{}, client.CoreV1().Pods(metav1.NamespaceAll).List, func(pod *corev1.Pod) {
		if pod.Spec.HostNetwork {
			return
		}
		for _, ip := range installed.PodIPs(pod) {
			if !announced.Contains(ip) && !slices.Contains(nodeAddresses, ip) {
				guessed = append(guessed, widen(ip, 24, 64))
			}
		}
	})
	if err != nil {
		return api.WithHint(fmt.Errorf("listing all pods, because nodes do not announce the addresses of theirs: %w", err),
			"name the ranges of pod addresses with --capture-cidr")
	}
	s.guess(guessed, "pod", "--capture-cidr")
	s.Capture = append(s.Capture, guessed...)
	if len(s.Capture) == 0 {
		return api.WithHint(errors.New("no range of pod addresses was found"), "name it with --capture-cidr")
	}
	return nil
}

// findServices takes the ServiceCIDR objects. Clusters that do not offer them
// only show the addresses that were given to Services.
func (s *Survey) findServices(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("listing ServiceCIDRs for the ranges of Service addresses: %w", err)
	}
	if err == nil {
		for _, object := range list.Items {
			for _, text := range object.Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(text); err == nil {
					s.Services = append(s.Services, prefix.Masked())
				}
			}
		}
	}
	if len(s.Services) > 0 {
		return nil
	}

	var guessed []netip.Prefix
	err = pages.Each(ctx, metav1.ListOptions{}, client.CoreV1().Services(metav1.NamespaceAll).List, func(service *corev1.Service) {
		for _, text := range service.Spec.ClusterIPs {
			// "None" of headless Services does not parse.
			if ip, err := netip.ParseAddr(text); err == nil {
				// A Service range has at most 20 host bits (the API server's
				// own limit), and in IPv4 usually 16.
				guessed = append(guessed, widen(ip.Unmap(), 16, 108))
			}
		}
	})
	if err != nil {
		return api.WithHint(fmt.Errorf("listing Services for the ranges of their addresses: %w", err),
			"name the ranges with --service-cidr, or ask for a role that may list servicecidrs.networking.k8s.io")
	}
	s.guess(guessed, "Service", "--service-cidr")
	s.Services = guessed
	return nil
}

func (s *Survey) guess(guessed []netip.Prefix, whose, flag string) {
	if len(guessed) == 0 {
		return
	}
	const shown = 4
	var list []string
	for _, prefix := range compact(guessed) {
		list = append(list, prefix.String())
	}
	if len(list) > shown {
		list = append(list[:shown], fmt.Sprintf("and %d more", len(list)-shown))
	}
	s.Warnings = append(s.Warnings, fmt.Sprintf("ranges of %s addresses were guessed from those in use: %s; %s names them exactly",
		whose, strings.Join(list, ", "), flag))
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
