package survey

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// Remark is what strict mode means for one pod, in one sentence, and what to do about it.
type Remark struct{ Text, Hint string }

func (r Remark) String() string { return r.Text + "; " + r.Hint }

// shownNames bounds the webhooks, and the addresses of the API server, that a remark names.
const shownNames = 3

// Strict returns whom strict mode affects who has no gateway, and connects to pod by its
// purpose: one remark for each of them. Ports that named admits plaintext to have none.
func (s *Survey) Strict(pod *corev1.Pod, named api.Coverage) []Remark {
	var list []Remark
	for _, served := range s.Serves(pod) {
		if !admits(named.PlaintextFrom, served.Ports) {
			list = append(list, s.serving(&served))
		}
	}
	add := func(ports api.Ports, hint, format string, args ...any) {
		if len(ports) > 0 && !admits(named.PlaintextFrom, ports) {
			list = append(list, Remark{fmt.Sprintf(format, args...), hint + mend(ports)})
		}
	}
	scraped := s.scraped(pod)
	add(scraped, "enable it, or let it in with ", "Prometheus scrapes it at %s (prometheus.io/scrape): strict mode refuses that without a gateway", portWords(scraped))
	exposed, services := s.exposed(pod)
	add(exposed, "let their addresses in with ", "Services lead to it from outside of the cluster (%s): strict mode refuses their clients and health checks at %s",
		lists.Words(services, shownNames), portWords(exposed))
	for _, c := range pod.Spec.Containers {
		for _, probe := range probes(&c) {
			if elsewhere(pod, probe.host) {
				add(onePort(probe.number(&c)), "let the source in with ", "the %s of container %s goes to %s: strict mode refuses it where it comes back from another address than the node's",
					probe.what, c.Name, probe.host)
			}
		}
	}
	return list
}

// StrictLines returns what Strict does, a line for each remark.
func (s *Survey) StrictLines(pod *corev1.Pod, named api.Coverage) []string {
	return lists.Texts(s.Strict(pod, named))
}

// StrictUnknown returns a line about what Strict does not know, none if it knows all.
func (s *Survey) StrictUnknown() []string {
	if len(s.unknown) == 0 {
		return nil
	}
	return []string{"strict mode may cut pods off that serve DNS, webhooks or aggregated APIs: what could not be read is " + strings.Join(s.unknown, ", ")}
}

// serving returns the remark about what is served.
func (s *Survey) serving(served *Served) Remark {
	what, from := "it serves the cluster's DNS (Service "+lists.Words(served.Services, shownNames)+")", "pods and nodes"
	hint := "others need " + mend(served.Ports)
	if served.Serving != DNS {
		noun := "webhooks"
		if served.Serving == API {
			noun = "aggregated APIs"
		}
		what = "it serves " + noun + " (" + lists.Words(served.Names, shownNames) + ")"
		if len(s.callers) == 0 {
			return Remark{what + ": strict mode refuses the API server, whose address is not known, at " + portWords(served.Ports), "let it in with " + mend(served.Ports)}
		}
		from = "the API server (" + lists.Join(s.callers, shownNames) + ")"
		hint = "if that connects from elsewhere, it needs " + mend(served.Ports)
	}
	return Remark{what + ": strict mode accepts plaintext of " + from + " at " + portWords(served.Ports), hint}
}

// mend is the flag that lets sources in.
func mend(ports api.Ports) string { return "--allow-plaintext-from=CIDR:" + ports.String() }

func portWords(ports api.Ports) string {
	if len(ports) == 1 && ports[0].First == ports[0].Last {
		return "port " + ports.String()
	}
	return "ports " + ports.String()
}

// admits reports whether somebody has been let in at every one of ports.
func admits(sources []api.Source, ports api.Ports) bool {
	for _, r := range ports {
		if !slices.ContainsFunc(sources, func(s api.Source) bool {
			return len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(p api.PortRange) bool { return p.First <= r.First && r.Last <= p.Last })
		}) {
			return false
		}
	}
	return true
}

// The customary annotations of pods and Services that Prometheus scrapes.
const (
	scrapeAnnotation = "prometheus.io/scrape"
	portAnnotation   = "prometheus.io/port"
)

// scraped returns the ports of pod that annotations have Prometheus scrape.
func (s *Survey) scraped(pod *corev1.Pod) (ports api.Ports) {
	add := func(annotations map[string]string, otherwise func() api.Ports) {
		if annotations[scrapeAnnotation] != "true" {
			return
		}
		named := api.Ports(nil)
		if port, err := strconv.ParseInt(annotations[portAnnotation], 10, 32); err == nil {
			named = onePort(int32(port))
		}
		if len(named) == 0 {
			named = otherwise()
		}
		ports = api.NewPorts(slices.Concat(ports, named)...)
	}
	add(pod.Annotations, func() (all api.Ports) {
		for _, declared := range installed.TCPPorts(pod.Spec.Containers) {
			all = append(all, onePort(declared.ContainerPort)...)
		}
		return all
	})
	for _, service := range s.leading[pod.Namespace] {
		if leads(service, pod) {
			add(service.Annotations, func() api.Ports { return allTargets(service, pod) })
		}
	}
	return ports
}

// exposed returns the ports of pod that Services open to the outside of the cluster, and
// those Services with their types.
func (s *Survey) exposed(pod *corev1.Pod) (ports api.Ports, services []string) {
	for _, service := range s.leading[pod.Namespace] {
		outside := service.Spec.Type == corev1.ServiceTypeLoadBalancer || service.Spec.Type == corev1.ServiceTypeNodePort
		if targets := allTargets(service, pod); outside && leads(service, pod) && len(targets) > 0 {
			ports = api.NewPorts(slices.Concat(ports, targets)...)
			services = append(services, string(service.Spec.Type)+" "+service.Name)
		}
	}
	return ports, unique(services)
}

func allTargets(service *corev1.Service, pod *corev1.Pod) (ports api.Ports) {
	for i := range service.Spec.Ports {
		if port := &service.Spec.Ports[i]; isTCP(port.Protocol) {
			ports = append(ports, targetPort(port, pod)...)
		}
	}
	return ports
}

// elsewhere reports whether host, of a probe, is another one than pod or its node.
func elsewhere(pod *corev1.Pod, host string) bool {
	if host == "" || host == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return true
	}
	node := slices.ContainsFunc(pod.Status.HostIPs, func(h corev1.HostIP) bool { return h.IP == host })
	return !ip.IsLoopback() && !node && !slices.Contains(installed.PodIPs(pod), ip.Unmap())
}
