package survey

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const (
	definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?limit=50"
	apiServicesPath = "/apis/apiregistration.k8s.io/v1/apiservices?limit=50"
)

func dnsService() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns", Labels: map[string]string{"k8s-app": "kube-dns"}},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.10"}, Selector: map[string]string{"k8s-app": "kube-dns"}, Ports: []corev1.ServicePort{
			{Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromString("dns")},
			{Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("dns-tcp")}, {Port: 9153, Protocol: corev1.ProtocolTCP}}}}
}

func dnsPod() *corev1.Pod {
	pod := podAt("coredns", "10.244.0.53")
	pod.Namespace, pod.Labels = "kube-system", map[string]string{"k8s-app": "kube-dns"}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "dns", ContainerPort: 5300, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: 5301, Protocol: corev1.ProtocolTCP}}
	return pod
}

// hookService leads to the pods of namespace shop with the label app=hook.
func hookService(name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "hook"}, Ports: ports}}
}

func hookPod(name, node string, ips ...string) *corev1.Pod {
	pod := podAt(name, ips...)
	pod.Spec.NodeName, pod.Labels = node, map[string]string{"app": "hook"}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "https", ContainerPort: 9443}}
	return pod
}

func at(namespace, name string, port ...int32) admissionv1.WebhookClientConfig {
	r := &admissionv1.ServiceReference{Namespace: namespace, Name: name}
	if len(port) > 0 {
		r.Port = &port[0]
	}
	return admissionv1.WebhookClientConfig{Service: r}
}

// hooks are a validating webhook at port 443 of Service shop/hook, and a mutating one at
// port 8443.
func hooks() []runtime.Object {
	url := "https://elsewhere.example"
	return []runtime.Object{
		&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionv1.ValidatingWebhook{
			{Name: "policy.example.com", ClientConfig: at("shop", "hook")}, {Name: "other.example.com", ClientConfig: at("other", "hook")},
			{Name: "url.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: &url}}}},
		&admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionv1.MutatingWebhook{
			{Name: "defaults.example.com", ClientConfig: at("shop", "hook", 8443)}, {Name: "nowhere.example.com", ClientConfig: at("shop", "hook", 1)}}},
	}
}

func apiServerSlice(addresses ...string) *discoveryv1.EndpointSlice {
	port := int32(6443)
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: addresses}}, Ports: []discoveryv1.EndpointPort{{Port: &port}}}
}

func ports(list ...uint16) (p api.Ports) {
	for _, port := range list {
		p = append(p, api.PortRange{First: port, Last: port})
	}
	return api.NewPorts(p...)
}

func run(t *testing.T, c *fakecluster.Cluster) *Survey {
	t.Helper()
	return must.Get(Run(t.Context(), c, nil, api.Coverage{}))(t)
}

func TestServes(t *testing.T) {
	objects := append(hooks(), node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"), dnsService(),
		hookService("hook", corev1.ServicePort{Port: 443, TargetPort: intstr.FromString("https")}, corev1.ServicePort{Port: 8443}, corev1.ServicePort{Port: 1, TargetPort: intstr.FromString("nothing")}),
		hookService("converter", corev1.ServicePort{Port: 443, TargetPort: intstr.FromInt32(9444)}),
		hookService("metrics", corev1.ServicePort{Port: 4443, TargetPort: intstr.FromInt32(4443)}, corev1.ServicePort{Port: 443, Protocol: corev1.ProtocolUDP}))
	c := fakecluster.New(t, objects...)
	c.Plain = map[string]string{
		definitionsPath: `{"metadata":{"continue":"more"},"items":[{"metadata":{"name":"plain.example.com"},"spec":{"conversion":{"strategy":"None"}}}]}`,
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions?continue=more&limit=50": `{"items":[{"metadata":{"name":"foos.example.com"},` +
			`"spec":{"conversion":{"strategy":"Webhook","webhook":{"clientConfig":{"service":{"namespace":"shop","name":"converter"}}}}}}]}`,
		apiServicesPath: `{"items":[{"metadata":{"name":"v1."},"spec":{}},
			{"metadata":{"name":"v1beta1.metrics.k8s.io"},"spec":{"service":{"namespace":"shop","name":"metrics","port":4443}}},
			{"metadata":{"name":"v1.udp.example.com"},"spec":{"service":{"namespace":"shop","name":"metrics"}}}]}`,
	}
	s := run(t, c)
	elsewhere := hookPod("hook", "a", "10.244.0.9")
	elsewhere.Namespace = "other"
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want []Served
	}{
		"DNS": {dnsPod(), []Served{{Serving: DNS, Services: []string{"kube-system/kube-dns"}, Ports: ports(5301)}}},
		"webhooks and an API": {hookPod("hook", "a", "10.244.0.9"), []Served{
			{Serving: API, Names: []string{"v1beta1.metrics.k8s.io"}, Services: []string{"shop/metrics"}, Ports: ports(4443)},
			{Serving: Webhook, Names: []string{"conversion of foos.example.com", "defaults.example.com", "policy.example.com"},
				Services: []string{"shop/converter", "shop/hook"}, Ports: ports(8443, 9443, 9444)}}},
		"the label in another namespace": {elsewhere, nil},
		"no label":                       {podAt("web", "10.244.0.10"), nil},
	} {
		expect.Equal(t, name, test.want, s.Serves(test.pod))
	}
}

// TestServersThatMayNotBeRead: what is forbidden is no error, and said once.
func TestServersThatMayNotBeRead(t *testing.T) {
	c := fakecluster.New(t, append(hooks(), node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"),
		hookService("hook", corev1.ServicePort{Port: 443}, corev1.ServicePort{Port: 8443}))...)
	c.Forbid("list", "validatingwebhookconfigurations")
	s := run(t, c)
	unknown := []string{"strict mode may cut pods off that serve DNS, webhooks or aggregated APIs: what could not be read is " +
		`webhooks and aggregated APIs (validatingwebhookconfigurations.admissionregistration.k8s.io is forbidden: no role)`}
	expect.Equal(t, "unknown", unknown, s.StrictUnknown())
	expect.Equal(t, "warnings", nil, s.Warnings)
	want := []Served{{Serving: Webhook, Names: []string{"defaults.example.com"}, Services: []string{"shop/hook"}, Ports: ports(8443)}}
	expect.Equal(t, "what it serves", want, s.Serves(hookPod("hook", "a", "10.244.0.9")))
}

// TestServersKeepWorking: strict mode accepts the plaintext of those that what a pod serves
// is for, at its ports, and nobody else's.
func TestServersKeepWorking(t *testing.T) {
	calico := node("a", "192.168.1.1", "10.244.0.0/24")
	calico.Annotations = map[string]string{"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.0.77", "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.0.9"}
	konnectivity := podAt("konnectivity-agent", "10.244.2.4")
	konnectivity.Namespace, konnectivity.Labels = "kube-system", map[string]string{"k8s-app": "konnectivity-agent"}
	impostor := podAt("impostor", "10.244.2.5")
	impostor.Labels = konnectivity.Labels
	// Another pod may have its address by now.
	before := podAt("konnectivity-agent-before", "10.244.2.6")
	before.Namespace, before.Labels, before.Status.Phase = konnectivity.Namespace, konnectivity.Labels, corev1.PodFailed
	hook := hookPod("hook", "b", "10.244.0.9")
	hook.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8081)}}}
	s := run(t, fakecluster.New(t, append(hooks(), calico, node("b", "192.168.1.2", "10.244.2.0/24"), serviceCIDR("10.96.0.0/16"), dnsService(),
		apiServerSlice("192.168.1.1", "203.0.113.9"), konnectivity, impostor, before, hook,
		hookService("hook", corev1.ServicePort{Port: 443, TargetPort: intstr.FromString("https")}, corev1.ServicePort{Port: 8443}))...))
	for name, test := range map[string]struct {
		pod             *corev1.Pod
		sources, probes string
	}{
		"DNS": {dnsPod(), "[10.244.0.0/24:5301 10.244.2.0/24:5301 192.168.1.1/32:5301 192.168.1.2/32:5301]", "5301"},
		"webhooks on another node": {hook,
			"[10.244.0.0/32:8443,9443 10.244.0.77/32:8443,9443 10.244.2.4/32:8443,9443 192.168.1.1/32:8443,9443 192.168.1.2/32:8081 203.0.113.9/32:8443,9443]", "8081"},
		"webhooks beside the API server": {hookPod("hook", "a", "10.244.0.9"),
			"[10.244.0.0/32:8443,9443 10.244.0.77/32:8443,9443 10.244.2.4/32:8443,9443 192.168.1.1/32:8443,9443 203.0.113.9/32:8443,9443]", "8443,9443"},
		"anything else": {podAt("web", "10.244.0.10"), "[]", ""},
	} {
		c := s.For(test.pod, api.Coverage{})
		if got := fmt.Sprint(c.PlaintextFrom); got != test.sources || c.Probes.String() != test.probes {
			t.Errorf("%s: plaintext from %s and the node's side to %q, want %s and %q", name, got, c.Probes, test.sources, test.probes)
		}
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDNSOfManyNodes: ever so many nodes are named by few ranges.
func TestDNSOfManyNodes(t *testing.T) {
	var ips []netip.Addr
	for i := range 1000 {
		ips = append(ips, netip.AddrFrom4([4]byte{192, 168, byte(i / 100), byte(i%100*2 + 1)}))
	}
	if got := few(ips[:manyNodes]); len(got) != manyNodes || got[0].Bits() != 32 {
		t.Errorf("%d nodes have %d ranges: %v", manyNodes, len(got), got)
	}
	got := few(ips)
	for _, ip := range ips {
		if !slices.ContainsFunc(got, func(r netip.Prefix) bool { return r.Contains(ip) }) {
			t.Errorf("%v lacks %v", got, ip)
		}
	}
	if len(got) > 10 {
		t.Errorf("%d nodes have %d ranges", len(ips), len(got))
	}
}

// TestStrict: each kind of caller without a gateway is one line, which names it and the
// flag that lets it in.
func TestStrict(t *testing.T) {
	cluster := func(more ...runtime.Object) []runtime.Object {
		return append(append(hooks(), node("a", "192.168.1.1", "10.244.0.0/24"), serviceCIDR("10.96.0.0/16"), dnsService(),
			hookService("hook", corev1.ServicePort{Port: 443, TargetPort: intstr.FromString("https")}, corev1.ServicePort{Port: 8443})), more...)
	}
	exposed := func(kind corev1.ServiceType, name string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec: corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": "web"}, Ports: ports}}
	}
	scrape := exposed(corev1.ServiceTypeClusterIP, "metrics", corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(9102)}, corev1.ServicePort{Port: 80, Protocol: corev1.ProtocolUDP})
	scrape.Annotations = map[string]string{"prometheus.io/scrape": "true"}
	web := func(change func(*corev1.Pod)) *corev1.Pod {
		pod := podAt("web", "10.244.0.7")
		pod.Labels = map[string]string{"app": "web"}
		pod.Status.HostIPs = []corev1.HostIP{{IP: "192.168.1.1"}}
		if change != nil {
			change(pod)
		}
		return pod
	}
	probe := func(host string) *corev1.Pod {
		return web(func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "health", ContainerPort: 8080}}
			p.Spec.Containers[0].LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: host, Port: intstr.FromString("health")}}}
		})
	}
	for name, test := range map[string]struct {
		objects []runtime.Object
		pod     *corev1.Pod
		named   string
		want    string
	}{
		"nothing": {cluster(), web(nil), "", ""},
		"DNS": {cluster(), dnsPod(), "",
			"it serves the cluster's DNS (Service kube-system/kube-dns): strict mode accepts plaintext of pods and nodes at port 5301; others need --allow-plaintext-from=CIDR:5301"},
		"webhooks": {cluster(apiServerSlice("192.168.1.1", "203.0.113.9")), hookPod("hook", "a", "10.244.0.9"), "",
			"it serves webhooks (defaults.example.com, policy.example.com): strict mode accepts plaintext of the API server (10.244.0.0, 192.168.1.1, 203.0.113.9) at ports 8443,9443; " +
				"if that connects from elsewhere, it needs --allow-plaintext-from=CIDR:8443,9443"},
		"webhooks of a hidden API server": {cluster(), hookPod("hook", "a", "10.244.0.9"), "",
			"it serves webhooks (defaults.example.com, policy.example.com): strict mode refuses the API server, whose address is not known, at ports 8443,9443; " +
				"let it in with --allow-plaintext-from=CIDR:8443,9443"},
		"webhooks that somebody was let in to": {cluster(), hookPod("hook", "a", "10.244.0.9"), "10.0.0.0/8:8000-9500", ""},
		"scraped by the pod's annotation": {cluster(), web(func(p *corev1.Pod) {
			p.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
		}), "10.0.0.0/8:9091",
			"Prometheus scrapes it at port 9090 (prometheus.io/scrape): strict mode refuses that without a gateway; enable it, or let it in with --allow-plaintext-from=CIDR:9090"},
		"scraped at every port": {cluster(), web(func(p *corev1.Pod) {
			p.Annotations = map[string]string{"prometheus.io/scrape": "true"}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 1}, {ContainerPort: 3}, {ContainerPort: 5, Protocol: corev1.ProtocolUDP}}
		}), "",
			"Prometheus scrapes it at ports 1,3 (prometheus.io/scrape): strict mode refuses that without a gateway; enable it, or let it in with --allow-plaintext-from=CIDR:1,3"},
		"scraped by a Service's annotation": {cluster(scrape), web(nil), "",
			"Prometheus scrapes it at port 9102 (prometheus.io/scrape): strict mode refuses that without a gateway; enable it, or let it in with --allow-plaintext-from=CIDR:9102"},
		"scraping is allowed": {cluster(scrape), web(nil), "10.0.0.0/8", ""},
		"exposed": {cluster(exposed(corev1.ServiceTypeLoadBalancer, "public", corev1.ServicePort{Port: 80, TargetPort: intstr.FromInt32(8080)}),
			exposed(corev1.ServiceTypeNodePort, "also", corev1.ServicePort{Port: 81}), exposed(corev1.ServiceTypeClusterIP, "inside", corev1.ServicePort{Port: 82})), web(nil), "",
			"Services lead to it from outside of the cluster (LoadBalancer public, NodePort also): strict mode refuses their clients and health checks at ports 81,8080; " +
				"let their addresses in with --allow-plaintext-from=CIDR:81,8080"},
		"a probe of another host": {cluster(), probe("203.0.113.80"), "",
			"the livenessProbe of container app goes to 203.0.113.80: strict mode refuses it where it comes back from another address than the node's; let the source in with --allow-plaintext-from=CIDR:8080"},
		"a probe by name":     {cluster(), probe("web.example"), "10.0.0.0/8", ""},
		"a probe of the node": {cluster(), probe("192.168.1.1"), "", ""},
		"a probe of loopback": {cluster(), probe("127.0.0.1"), "", ""},
		"a probe of the pod":  {cluster(), probe("10.244.0.7"), "", ""},
		"an ordinary probe":   {cluster(), probe(""), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := run(t, fakecluster.New(t, test.objects...))
			var named api.Coverage
			if test.named != "" {
				source := must.Get(api.ParseSource(test.named))(t)
				named.PlaintextFrom = []api.Source{source}
			}
			var got []string
			for _, remark := range s.Strict(test.pod, named) {
				got = append(got, remark.String())
			}
			expect.Equal(t, "remarks", test.want, strings.Join(got, "\n"))
			if unknown := s.StrictUnknown(); len(unknown) != 0 {
				t.Errorf("unknown: %q", unknown)
			}
		})
	}
}
