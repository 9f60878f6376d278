package check

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// portDNS is the port of lookups. A policy that opens nothing else is about the cluster's
// name server, and not about peers.
const portDNS = 53

// rule is what a policy allows in one direction: traffic to or from peers, on ports.
type rule struct {
	ports []networkingv1.NetworkPolicyPort
	peers []networkingv1.NetworkPolicyPeer
}

func checkNetworkPolicies(ctx context.Context, f *facts) []Item {
	if f.Wire == api.WireInband {
		return ok("--wire=inband needs no port of its own")
	}
	pods, _ := f.found()
	cluster, err := f.survey()
	if err != nil {
		cluster = &survey.Survey{}
	}
	var list []Item
	seen := 0
	for _, namespace := range f.namespaces() {
		policies, err := f.Client.NetworkingV1().NetworkPolicies(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return unread("network policies", err)
		}
		seen += len(policies.Items)
		for _, direction := range []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress} {
			for i := range policies.Items {
				list = append(list, filtering(&policies.Items[i], direction, policies.Items, pods, cluster.Found.Capture)...)
			}
		}
		for i := range policies.Items {
			list = append(list, unbinding(&policies.Items[i], policies.Items, pods, cluster.Found.Capture)...)
		}
	}
	return orOK(list, "%d looked at; those of network plug-ins are not", seen)
}

// filtering returns a finding if policy allows connections between pods and their peers,
// and neither it nor another policy of all allows those between their gateways.
func filtering(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType, all []networkingv1.NetworkPolicy, pods []corev1.Pod, capture []netip.Prefix) []Item {
	var affected []string
	var open []rule
	for i := range pods {
		pod := &pods[i]
		if !selects(policy, direction, pod) || usesInband(pod) {
			continue
		}
		allowed := allRules(all, direction, pod)
		blocked := false
		for _, r := range rules(policy, direction) {
			if r.opens(capture) && !slices.ContainsFunc(allowed, func(other rule) bool { return other.covers(r) }) {
				blocked = true
				if !slices.ContainsFunc(open, func(o rule) bool { return apiequality.Semantic.DeepEqual(o.peers, r.peers) }) {
					open = append(open, r)
				}
			}
		}
		if blocked {
			affected = append(affected, nameOf(pod))
		}
	}
	if len(affected) == 0 {
		return nil
	}
	what := "lets peers in, but not to"
	if direction == networkingv1.PolicyTypeEgress {
		what = "lets the pods out, but not to"
	}
	command, err := apply(companion(policy, direction, open))
	if err != nil {
		return []Item{failed(Error, err)}
	}
	return []Item{{Result: Warning, Objects: affected, Command: command,
		Detail: fmt.Sprintf("network policy %s %s port %d, where gateways meet: such connections fail in strict mode, and are plaintext in permissive mode",
			policy.Name, what, api.PeerPort),
		Hint: "'enable --wire=inband' needs no port of its own; or allow it for the same peers, who then reach every port of the pods unless identity rules with ports say otherwise"}}
}

// unbinding returns a finding if policy lets peers in to some ports alone, and another rule of all
// lets the same peers in to the port of gateways, through which they reach every port.
func unbinding(policy *networkingv1.NetworkPolicy, all []networkingv1.NetworkPolicy, pods []corev1.Pod, capture []netip.Prefix) []Item {
	var affected []string
	for i := range pods {
		pod := &pods[i]
		if !selects(policy, networkingv1.PolicyTypeIngress, pod) || usesInband(pod) || hasPortRules(pod) {
			continue
		}
		gateways := allRules(all, networkingv1.PolicyTypeIngress, pod)
		binds := func(r rule) bool {
			return len(r.ports) > 0 && !r.onlyGateways() && r.opens(capture) &&
				!slices.ContainsFunc(gateways, func(other rule) bool { return len(other.ports) == 0 && other.covers(r) })
		}
		if slices.ContainsFunc(rules(policy, networkingv1.PolicyTypeIngress), func(r rule) bool {
			return binds(r) && slices.ContainsFunc(gateways, func(other rule) bool { return other.covers(r) })
		}) {
			affected = append(affected, nameOf(pod))
		}
	}
	if len(affected) == 0 {
		return nil
	}
	return []Item{{Result: Warning, Objects: affected,
		Detail: fmt.Sprintf("network policy %s lets peers in to some ports alone, but they are let in to port %d, too, where gateways meet: peers with gateways reach every port",
			policy.Name, api.PeerPort),
		Hint: "identity rules with ports take the policy's place: 'kubectl gateway allow POD ns/NAMESPACE/sa/ACCOUNT:PORT'; or 'enable --wire=inband' needs no port of its own"}}
}

// hasPortRules reports whether the pod's gateway was given identity rules about ports.
func hasPortRules(pod *corev1.Pod) bool {
	config := configOf(pod)
	return slices.ContainsFunc(slices.Concat(config.Allow, config.Deny), func(pattern string) bool { return strings.Contains(pattern, ":") })
}

// onlyGateways reports whether r is about the port of gateways and nothing else.
func (r rule) onlyGateways() bool {
	return !slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
		return tcp(p) && (p.Port == nil || p.Port.Type == intstr.String || p.EndPort != nil || p.Port.IntVal != api.PeerPort)
	})
}

// usesInband reports whether the wire of the pod's gateway is inband.
func usesInband(pod *corev1.Pod) bool { return configOf(pod).Wire == api.WireInband }

// configOf returns what the pod's gateway was given, nothing if the pod has none or that is not known.
func configOf(pod *corev1.Pod) *api.Config {
	if current, ok := installed.Current(pod); ok && current.Phase != installed.Terminated {
		if config, err := installed.ConfigOf(pod, current.Name); err == nil {
			return config
		}
	}
	return &api.Config{}
}

func selects(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType, pod *corev1.Pod) bool {
	if policy.Namespace != pod.Namespace || pod.Spec.HostNetwork {
		return false
	}
	types := policy.Spec.PolicyTypes
	if len(types) == 0 {
		// These are the server's defaults, for objects that the server did not see.
		types = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(policy.Spec.Egress) > 0 {
			types = append(types, networkingv1.PolicyTypeEgress)
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	return err == nil && slices.Contains(types, direction) && selector.Matches(labels.Set(pod.Labels))
}

func rules(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) []rule {
	if direction == networkingv1.PolicyTypeEgress {
		return lists.Map(policy.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) rule { return rule{r.Ports, r.To} })
	}
	return lists.Map(policy.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) rule { return rule{r.Ports, r.From} })
}

// allRules are what those of policies that select pod allow in one direction.
func allRules(policies []networkingv1.NetworkPolicy, direction networkingv1.PolicyType, pod *corev1.Pod) (list []rule) {
	for n := range policies {
		if selects(&policies[n], direction, pod) {
			list = append(list, rules(&policies[n], direction)...)
		}
	}
	return list
}

func tcp(p networkingv1.NetworkPolicyPort) bool {
	return p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP
}

// reaches reports whether r covers the port of gateways. Gateways declare no port, so a
// named port is never theirs.
func (r rule) reaches() bool {
	return len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
		switch {
		case !tcp(p):
			return false
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			return false
		case p.EndPort != nil:
			return p.Port.IntVal <= api.PeerPort && api.PeerPort <= *p.EndPort
		}
		return p.Port.IntVal == api.PeerPort
	})
}

// opens reports whether r allows TCP to or from peers that may be pods with gateways.
func (r rule) opens(capture []netip.Prefix) bool {
	application := len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool {
		return tcp(p) && (p.Port == nil || p.Port.Type == intstr.String || p.Port.IntVal != portDNS)
	})
	pods := len(r.peers) == 0 || slices.ContainsFunc(r.peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock == nil {
			return true
		}
		block, err := netip.ParsePrefix(p.IPBlock.CIDR)
		return err != nil || slices.ContainsFunc(capture, block.Overlaps)
	})
	return application && pods
}

// covers reports whether r allows the peers of other to reach the port of gateways.
func (r rule) covers(other rule) bool {
	if !r.reaches() {
		return false
	}
	if len(r.peers) == 0 {
		return true
	}
	return len(other.peers) > 0 && !slices.ContainsFunc(other.peers, func(p networkingv1.NetworkPolicyPeer) bool {
		return !slices.ContainsFunc(r.peers, func(q networkingv1.NetworkPolicyPeer) bool { return apiequality.Semantic.DeepEqual(p, q) })
	})
}

// companion is a policy that allows connections between the gateways of the same pods and
// peers, and nothing else.
func companion(policy *networkingv1.NetworkPolicy, direction networkingv1.PolicyType, open []rule) *networkingv1.NetworkPolicy {
	ports := []networkingv1.NetworkPolicyPort{{Protocol: new(corev1.ProtocolTCP), Port: new(intstr.FromInt32(api.PeerPort))}}
	// An object's name has at most 253 characters (RFC 1123).
	name := policy.Name[:min(len(policy.Name), 220)] + "-gateway"
	if direction == networkingv1.PolicyTypeEgress {
		name += "-egress"
	}
	out := &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: policy.Namespace},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: policy.Spec.PodSelector, PolicyTypes: []networkingv1.PolicyType{direction}},
	}
	for _, r := range open {
		if direction == networkingv1.PolicyTypeEgress {
			out.Spec.Egress = append(out.Spec.Egress, networkingv1.NetworkPolicyEgressRule{Ports: ports, To: r.peers})
			continue
		}
		out.Spec.Ingress = append(out.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{Ports: ports, From: r.peers})
	}
	return out
}
