package edges

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// Names maps the addresses of a cluster to what has them.
type Names struct {
	// exact holds pods and Services by their addresses, nodes the nodes by theirs.
	exact map[netip.Addr]Endpoint
	nodes map[netip.Addr]Endpoint
	// nodePorts holds Services by the ports that they have on every node.
	nodePorts map[uint16]Endpoint
	// workloads are by pod. gateways holds the pods that have one.
	workloads map[endpointKey]Endpoint
	gateways  map[endpointKey]bool
}

// ReadNames lists the pods and Services of the cluster, once each. A user without the
// right to do that gets the names in the namespaces of pods, or at least the names of
// pods. Notes say so. The error is that of a server that does not answer.
func ReadNames(ctx context.Context, client kubernetes.Interface, pods []corev1.Pod) (names *Names, notes []string, err error) {
	names = newNames()
	namespaces := sets.New(lists.Map(pods, func(pod corev1.Pod) string { return pod.Namespace })...)
	for _, kind := range []struct {
		what string
		list func(namespace string) error
	}{
		{"Services", func(namespace string) error {
			return pages.Each(ctx, metav1.ListOptions{}, client.CoreV1().Services(namespace).List, names.addService)
		}},
		{"pods", func(namespace string) error {
			return pages.Each(ctx, metav1.ListOptions{}, client.CoreV1().Pods(namespace).List, names.addPod)
		}},
	} {
		err := kind.list(metav1.NamespaceAll)
		if apierrors.IsForbidden(err) {
			notes = append(notes, kind.what+" of other namespaces are shown by their addresses: listing them is not allowed")
			for _, ns := range sets.List(namespaces) {
				if err = kind.list(ns); err != nil {
					break
				}
			}
			if apierrors.IsForbidden(err) {
				notes[len(notes)-1] = kind.what + " are shown by their addresses: listing them is not allowed"
				err = nil
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("listing %s: %w", kind.what, err)
		}
	}
	for i := range pods {
		names.addPod(&pods[i])
	}
	return names, notes, nil
}

func newNames() *Names {
	return &Names{
		exact: map[netip.Addr]Endpoint{}, nodes: map[netip.Addr]Endpoint{}, nodePorts: map[uint16]Endpoint{},
		workloads: map[endpointKey]Endpoint{}, gateways: map[endpointKey]bool{},
	}
}

func (n *Names) addPod(pod *corev1.Pod) {
	// Another pod may have the address of one that has ended.
	if installed.Finished(pod) {
		return
	}
	for _, ip := range pod.Status.HostIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && pod.Spec.NodeName != "" {
			n.nodes[addr.Unmap()] = Endpoint{Kind: "node", Name: pod.Spec.NodeName, Address: addr.Unmap()}
		}
	}
	if pod.Spec.HostNetwork {
		return
	}
	for _, ip := range installed.PodIPs(pod) {
		e := Endpoint{Kind: "pod", Namespace: pod.Namespace, Name: pod.Name, Address: ip}
		n.exact[ip] = e
		n.workloads[e.key()] = workloadOf(pod)
		if installed.Runs(pod) {
			n.gateways[e.key()] = true
		}
	}
}

func (n *Names) addService(service *corev1.Service) {
	e := Endpoint{Kind: "svc", Namespace: service.Namespace, Name: service.Name}
	for _, e.Address = range slices.Concat(survey.Addresses(service.Spec.ClusterIPs), survey.ExternalAddresses(service)) {
		n.exact[e.Address] = e
	}
	for _, port := range service.Spec.Ports {
		if port.NodePort > 0 {
			n.nodePorts[uint16(port.NodePort)] = e
		}
	}
}

// source returns the endpoint that connects from ip.
func (n *Names) source(ip netip.Addr) Endpoint {
	ip = ip.Unmap()
	return cmp.Or(n.exact[ip], n.nodes[ip], Endpoint{Address: ip})
}

// destination returns the endpoint that is reached at a port.
func (n *Names) destination(at netip.AddrPort) Endpoint {
	e := n.source(at.Addr())
	if e.Kind == "node" {
		if service, ok := n.nodePorts[at.Port()]; ok {
			service.Address = at.Addr().Unmap()
			return service
		}
	}
	return e
}

// HasGateway reports whether e is a pod with a gateway that runs.
func (n *Names) HasGateway(e *Endpoint) bool { return n.gateways[e.key()] }

// workload returns the workload of the pod e, or e if it has none.
func (n *Names) workload(e Endpoint) Endpoint {
	w, ok := n.workloads[e.key()]
	if !ok {
		return e
	}
	w.Address = e.Address
	return w
}

// workloadOf returns the workload of a pod: its Deployment, whose ReplicaSet is named
// after it and the hash of the template, or its owner, or the pod itself.
func workloadOf(pod *corev1.Pod) Endpoint {
	e := Endpoint{Kind: "pod", Namespace: pod.Namespace, Name: pod.Name}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return e
	}
	e.Name = owner.Name
	e.Kind = cmp.Or(map[string]string{"ReplicaSet": "rs", "StatefulSet": "sts", "DaemonSet": "ds"}[owner.Kind], strings.ToLower(owner.Kind))
	hash := pod.Labels["pod-template-hash"]
	if deployment, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" && e.Kind == "rs" {
		e.Kind, e.Name = "deploy", deployment
	}
	return e
}
