package survey

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// The DNS of the cluster is what Services of this label in this namespace lead to, whatever
// program it is.
const (
	dnsLabel = "k8s-app"
	dnsValue = "kube-dns"
	dnsPort  = 53
)

// findEndpoints takes the addresses that lead to a pod besides those of pods and Services, and
// those that are not captured by default: the API server, and the cluster's DNS over TCP. Nobody's word
// about addresses of pods is taken: their certificates would not be asked for any more.
func (s *Survey) findEndpoints(read *read) {
	var leads endpoints
	pass := func(ip netip.Addr, port int32) {
		s.Found.Pass = append(s.Found.Pass, netip.AddrPortFrom(ip, uint16(port)))
	}
	add := func(ip netip.Addr, port int32, kind, namespace, name string) {
		to := netip.AddrPortFrom(ip, uint16(port))
		if s.isOfPods(ip) {
			leads.foreign = append(leads.foreign, fmt.Sprintf("%v (%s %s/%s)", to, kind, namespace, name))
			return
		}
		leads.add(namespace, to)
	}
	for _, service := range read.services {
		for _, port := range service.Spec.Ports {
			if !isTCP(port.Protocol) {
				continue
			}
			for _, ip := range ExternalAddresses(service) {
				add(ip, port.Port, "Service", service.Namespace, service.Name)
			}
			if isAPIServer(service) || isDNS(service) && port.Port == dnsPort {
				for _, ip := range Addresses(service.Spec.ClusterIPs) {
					pass(ip, port.Port)
				}
			}
		}
	}
	for _, slice := range read.apiServer {
		for _, port := range slice.Ports {
			for _, endpoint := range slice.Endpoints {
				for _, ip := range Addresses(endpoint.Addresses) {
					if port.Port != nil && len(s.claims.pods[ip]) == 0 {
						pass(ip, *port.Port)
						s.apiServer = append(s.apiServer, netip.AddrPortFrom(ip, uint16(*port.Port)))
					}
				}
			}
		}
	}
	for _, p := range read.pods {
		for _, port := range p.hostPorts {
			ips := s.addresses[p.claim.Node]
			if ip, err := netip.ParseAddr(port.HostIP); err == nil && !ip.Unmap().IsUnspecified() {
				ips = Addresses([]string{port.HostIP})
			}
			for _, ip := range ips {
				add(ip, port.HostPort, "pod", p.claim.Namespace, p.claim.Name)
			}
		}
	}
	s.Found.Endpoints, s.Found.Pass = leads.fair(maxEndpoints), sorted(s.Found.Pass)
	if n := len(leads.all); n > maxEndpoints {
		s.Warnings = append(s.Warnings, fmt.Sprintf("%d external addresses and host ports lead to pods, and only %d of them are captured", n, maxEndpoints))
	}
	if len(leads.foreign) > 0 {
		slices.Sort(leads.foreign)
		s.Warnings = append(s.Warnings, "external addresses and host ports at addresses of pods do not count: "+lists.Words(leads.foreign, maxNamed))
	}
	for _, unread := range []struct {
		err  error
		what string
	}{
		{read.servicesErr, "external addresses of Services are not captured, and the API server and DNS over TCP do not pass: listing Services"},
		{read.apiServerErr, "addresses of the API server may be captured: reading its EndpointSlices"},
		{read.podsErr, "host ports are not captured: listing all pods"},
	} {
		if unread.err != nil {
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s: %v", unread.what, unread.err))
		}
	}
}

// isOfPods reports whether a pod has the address, or may get it.
func (s *Survey) isOfPods(ip netip.Addr) bool {
	if len(s.claims.pods[ip]) > 0 {
		return true
	}
	for _, set := range s.claims.ranges {
		if set.Contains(ip) {
			return !slices.Contains(s.Found.Nodes, ip)
		}
	}
	return false
}

// endpoints are what leads to pods, by the namespace that says so. The zero value is none.
type endpoints struct {
	all sets.Set[netip.AddrPort]
	by  map[string]sets.Set[netip.AddrPort]
	// foreign describes what does not count.
	foreign []string
}

func (e *endpoints) add(namespace string, to netip.AddrPort) {
	if e.by == nil {
		e.all, e.by = sets.New[netip.AddrPort](), map[string]sets.Set[netip.AddrPort]{}
	}
	if e.by[namespace] == nil {
		e.by[namespace] = sets.New[netip.AddrPort]()
	}
	e.all.Insert(to)
	e.by[namespace].Insert(to)
}

// fair returns at most so many, of each namespace as many, so that none takes the room of others.
func (e *endpoints) fair(most int) []netip.AddrPort {
	if len(e.all) <= most {
		return sorted(e.all.UnsortedList())
	}
	chosen := sets.New[netip.AddrPort]()
	namespaces := slices.Sorted(maps.Keys(e.by))
	shares := lists.Map(namespaces, func(n string) []netip.AddrPort { return sorted(e.by[n].UnsortedList()) })
	for round := 0; ; round++ {
		for _, list := range shares {
			if len(chosen) == most {
				return sorted(chosen.UnsortedList())
			}
			if round < len(list) {
				chosen.Insert(list[round])
			}
		}
	}
}

func isAPIServer(service *corev1.Service) bool {
	return service.Namespace == metav1.NamespaceDefault && service.Name == "kubernetes"
}

func isDNS(service *corev1.Service) bool {
	return service.Namespace == metav1.NamespaceSystem && service.Labels[dnsLabel] == dnsValue
}

// ExternalAddresses returns the addresses of a Service that do not come from its range.
func ExternalAddresses(service *corev1.Service) []netip.Addr {
	texts := slices.Clone(service.Spec.ExternalIPs)
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		texts = append(texts, ingress.IP)
	}
	return Addresses(texts)
}

// Addresses leaves out what is no address that can be captured: "None" of headless Services,
// host names, loopback.
func Addresses(texts []string) (list []netip.Addr) {
	for _, text := range texts {
		ip, err := netip.ParseAddr(text)
		if ip = ip.Unmap(); err == nil && ip.Zone() == "" && !ip.IsLoopback() && !ip.IsUnspecified() {
			list = append(list, ip)
		}
	}
	return list
}

// hostIPs returns the addresses of the node of pod.
func hostIPs(pod *corev1.Pod) []netip.Addr {
	return Addresses(append(lists.Map(pod.Status.HostIPs, func(h corev1.HostIP) string { return h.IP }), pod.Status.HostIP))
}

// sorted sorts list in place, and returns it without repetitions.
func sorted[T interface {
	comparable
	Compare(T) int
}](list []T) []T {
	slices.SortFunc(list, T.Compare)
	return slices.Compact(list)
}
