package survey

import (
	"context"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
)

// read is what a survey reads of the cluster. What cannot be read has an error.
type read struct {
	nodes           map[string]*corev1.Node
	nodesErr        error
	serviceCIDRs    []*networkingv1.ServiceCIDR
	serviceCIDRsErr error
	services        []*corev1.Service
	servicesErr     error
	// apiServer holds the EndpointSlices of the API server.
	apiServer    []*discoveryv1.EndpointSlice
	apiServerErr error
	pods         []pod
	// agents holds the addresses of pods through which the API server connects.
	agents  []netip.Addr
	podsErr error
	// calls are the Services that the API server connects to.
	calls    []call
	callsErr error
}

// pod is what matters of a pod that has a network of its own.
type pod struct {
	claim     Claim
	ips       []netip.Addr
	hostPorts []corev1.ContainerPort // of TCP
	// leaving means that its addresses are about to be free.
	leaving bool
}

// readAll reads everything at once.
func readAll(ctx context.Context, client kubernetes.Interface) *read {
	r := &read{nodes: map[string]*corev1.Node{}}
	var reading sync.WaitGroup
	all := metav1.ListOptions{}
	reading.Go(func() {
		r.nodesErr = pages.Each(ctx, all, client.CoreV1().Nodes().List, func(node *corev1.Node) { r.nodes[node.Name] = node })
	})
	reading.Go(func() {
		r.serviceCIDRsErr = pages.Each(ctx, all, client.NetworkingV1().ServiceCIDRs().List,
			func(cidr *networkingv1.ServiceCIDR) { r.serviceCIDRs = append(r.serviceCIDRs, cidr) })
	})
	reading.Go(func() {
		r.servicesErr = pages.Each(ctx, all, client.CoreV1().Services(metav1.NamespaceAll).List,
			func(service *corev1.Service) { r.services = append(r.services, service) })
	})
	reading.Go(func() {
		r.apiServerErr = pages.Each(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"},
			client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List,
			func(slice *discoveryv1.EndpointSlice) { r.apiServer = append(r.apiServer, slice) })
	})
	reading.Go(func() {
		r.podsErr = pages.Each(ctx, all, client.CoreV1().Pods(metav1.NamespaceAll).List, func(p *corev1.Pod) {
			if installed.Finished(p) {
				return
			}
			if isAgent(p) {
				r.agents = append(r.agents, installed.PodIPs(p)...)
			}
			if !p.Spec.HostNetwork {
				r.pods = append(r.pods, pod{claim: Claim{Node: p.Spec.NodeName, Namespace: p.Namespace, Name: p.Name, UID: p.UID},
					ips: installed.PodIPs(p), hostPorts: HostPorts(p), leaving: p.DeletionTimestamp != nil})
			}
		})
	})
	reading.Go(func() { r.calls, r.callsErr = readCalls(ctx, client) })
	reading.Wait()
	return r
}

// HostPorts returns the TCP ports of p that its node has as well.
func HostPorts(p *corev1.Pod) (ports []corev1.ContainerPort) {
	for _, port := range installed.TCPPorts(p.Spec.Containers) {
		if port.HostPort != 0 {
			ports = append(ports, port)
		}
	}
	return ports
}
