package survey

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// agent is the value of a label of the pods through which the API server of a hosted
// control plane connects (sigs.k8s.io/apiserver-network-proxy).
const agent = "konnectivity-agent"

func isAgent(pod *corev1.Pod) bool {
	return pod.Namespace == metav1.NamespaceSystem && (pod.Labels["k8s-app"] == agent || pod.Labels["app"] == agent)
}

// tunnelAnnotations name, on a node, the addresses that its connections to pods of other
// nodes come from, if those are not addresses of the node.
func tunnelAnnotations() []string {
	return []string{
		"projectcalico.org/IPv4IPIPTunnelAddr", "projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/IPv6VXLANTunnelAddr",
		"network.cilium.io/ipv4-cilium-host", "network.cilium.io/ipv6-cilium-host",
	}
}

// findCallers takes where the API server connects from: its endpoints, the agents of a hosted
// control plane, and all addresses of the nodes that either are on.
func (s *Survey) findCallers(read *read) {
	s.callers, s.callerNodes = slices.Concat(read.agents, lists.Map(s.apiServer, netip.AddrPort.Addr)), map[string]bool{}
	own := slices.Clone(s.callers)
	for name, node := range s.nodes {
		if !slices.ContainsFunc(own, func(ip netip.Addr) bool { return slices.Contains(s.addresses[name], ip) }) {
			continue
		}
		s.callerNodes[name] = true
		s.callers = append(s.callers, s.addresses[name]...)
		for _, ip := range tunnels(node) {
			if !slices.ContainsFunc(read.pods, func(p pod) bool { return slices.Contains(p.ips, ip) }) {
				s.callers = append(s.callers, ip)
			}
		}
	}
	s.callers = sorted(s.callers)
}

// tunnels returns the addresses of node's tunnel to other nodes. That of flannel is the
// first address of the node's range, which no pod gets.
func tunnels(node *corev1.Node) []netip.Addr {
	annotated := lists.Map(tunnelAnnotations(), func(key string) string { return node.Annotations[key] })
	return append(Addresses(annotated), lists.Map(podRanges(node), netip.Prefix.Addr)...)
}

// accepted returns the sources that have to reach what pod serves when it captures capture,
// and the ports of it that the node's side of the pod's network has to reach.
func (s *Survey) accepted(pod *corev1.Pod, capture []netip.Prefix) (sources []api.Source, probes api.Ports) {
	for _, served := range s.Serves(pod) {
		from := lists.Map(s.callers, host)
		local := s.callerNodes[pod.Spec.NodeName] || slices.ContainsFunc(hostIPs(pod), func(ip netip.Addr) bool { return slices.Contains(s.callers, ip) })
		if served.Serving == DNS {
			from, local = slices.Concat(capture, few(s.Found.Nodes)), true
		}
		sources = append(sources, lists.Map(from, func(r netip.Prefix) api.Source { return api.Source{From: r, Ports: served.Ports} })...)
		if local {
			probes = api.NewPorts(slices.Concat(probes, served.Ports)...)
		}
	}
	return sources, probes
}

// manyNodes is how many ranges of addresses of nodes are named one by one.
const manyNodes = 256

// few returns ranges with all of ips, wider ones if there would be too many.
func few(ips []netip.Addr) []netip.Prefix {
	if ranges := compact(lists.Map(ips, host)); len(ranges) <= manyNodes {
		return ranges
	}
	return compact(lists.Map(ips, func(ip netip.Addr) netip.Prefix { return widen(ip, 24, 64) }))
}
