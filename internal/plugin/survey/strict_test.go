package survey

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

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
