package survey

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// claims is what a cluster says of addresses, to hold the word of one kubelet against. A pod's
// status is its kubelet's, which may say what it likes; it cannot change what others say.
type claims struct {
	// ranges are those that nodes announce for their pods, by name of the node.
	ranges map[string]*netipx.IPSet
	pods   map[netip.Addr][]Claim
	// nodes and services are names by address.
	nodes, services map[netip.Addr]string
	// within counts the addresses of each node's pods that lie in its ranges, astray the others.
	within, astray map[string]int
}

// Claim is a pod that has an address by the word of its kubelet.
type Claim struct {
	Node, Namespace, Name string
	UID                   types.UID
}

func newClaims(nodes map[string]*corev1.Node, read *read) claims {
	c := claims{ranges: map[string]*netipx.IPSet{}, pods: map[netip.Addr][]Claim{}, nodes: map[netip.Addr]string{}, services: map[netip.Addr]string{},
		within: map[string]int{}, astray: map[string]int{}}
	for name, node := range nodes {
		if ranges := podRanges(node); len(ranges) > 0 {
			c.ranges[name] = setOf(ranges)
		}
		for _, address := range node.Status.Addresses {
			if ip, err := netip.ParseAddr(address.Address); err == nil {
				c.nodes[ip.Unmap()] = name
			}
		}
	}
	for _, p := range read.pods {
		for _, ip := range p.ips {
			switch own := c.ranges[p.claim.Node]; {
			case own == nil:
			case own.Contains(ip):
				c.within[p.claim.Node]++
			default:
				c.astray[p.claim.Node]++
			}
			if !p.leaving {
				c.pods[ip] = append(c.pods[ip], p.claim)
			}
		}
	}
	for _, service := range read.services {
		for _, ip := range Addresses(service.Spec.ClusterIPs) {
			c.services[ip] = service.Namespace + "/" + service.Name
		}
	}
	return c
}

// followed reports whether pods have addresses of their nodes' ranges in this cluster, by the word
// of all nodes but one. Network plug-ins with an address management of their own may ignore ranges.
func (c *claims) followed(but string) bool {
	within := 0
	for node, n := range c.within {
		if node != but {
			within += n
		}
	}
	for node := range c.astray {
		if node != but {
			return false
		}
	}
	return within > 0
}

// vouched reports whether ip is one of node's pods, whatever others say: it lies in the range of node, and of no other one. A
// node can announce a range for itself where nobody hands them out: another one has to have a range as well.
func (c *claims) vouched(node string, ip netip.Addr) bool {
	own, handedOut := c.ranges[node], false
	if own == nil || !own.Contains(ip) {
		return false
	}
	for other, set := range c.ranges {
		if other != node && set.Contains(ip) {
			return false
		}
		handedOut = handedOut || other != node
	}
	return handedOut
}

// CheckClaims is CheckAddresses at present: another pod that had one of the addresses when the cluster was
// surveyed is read again.
func (s *Survey) CheckClaims(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	return s.CheckAddresses(pod, func(claim Claim, ip netip.Addr) bool {
		now, err := client.CoreV1().Pods(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
		if err != nil {
			return !apierrors.IsNotFound(err)
		}
		return now.UID == claim.UID && !installed.Leaving(now) && slices.Contains(installed.PodIPs(now), ip)
	})
}

// CheckAddresses returns why a certificate for the addresses of pod would vouch for those of somebody
// else, as far as the cluster shows that. still reports whether a pod still has an address that it had when the cluster
// was surveyed.
func (s *Survey) CheckAddresses(pod *corev1.Pod, still func(Claim, netip.Addr) bool) error {
	c := &s.claims
	for _, ip := range installed.PodIPs(pod) {
		if c.vouched(pod.Spec.NodeName, ip) {
			continue
		}
		for node, set := range c.ranges {
			if node != pod.Spec.NodeName && set.Contains(ip) && c.followed(pod.Spec.NodeName) {
				return api.WithHint(fmt.Errorf("the pod is on %s, and its address %v lies in the range of the pods of %s", pod.Spec.NodeName, ip, node),
					fmt.Sprintf("a certificate would let it pass for a pod there: find out what the kubelet of %s is doing", pod.Spec.NodeName))
			}
		}
		if node, ok := c.nodes[ip]; ok && node != pod.Spec.NodeName {
			return api.WithHint(fmt.Errorf("the pod's address %v is one of %s, by the word of that node", ip, node),
				fmt.Sprintf("one of the two is wrong: compare 'kubectl get node %s -o wide' and 'kubectl get pod %s -n %s -o wide'", node, pod.Name, pod.Namespace))
		}
		if service, ok := c.services[ip]; ok {
			return api.WithHint(fmt.Errorf("the pod's address %v is that of Service %s", ip, service),
				fmt.Sprintf("find out what the kubelet of %s is doing", pod.Spec.NodeName))
		}
		for _, other := range c.pods[ip] {
			if other.UID == pod.UID || other.Node == pod.Spec.NodeName || !still(other, ip) {
				continue
			}
			return api.WithHint(fmt.Errorf("pod/%s in namespace %s has the address %v as well, on %s", other.Name, other.Namespace, ip, other.Node),
				fmt.Sprintf("one of the two does not really have it: compare their nodes, %s and %s, and delete that pod", pod.Spec.NodeName, other.Node))
		}
	}
	return nil
}
