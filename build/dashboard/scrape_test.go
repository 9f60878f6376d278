package dashboard

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"
	"go.yaml.in/yaml/v3"
	kubeyaml "sigs.k8s.io/yaml"
)

const (
	monitoringFile = "../../install/kustomize/monitoring/monitoring.yaml"
	prometheusFile = "../../examples/prometheus.yaml"
)

// rules reads relabeling rules as Prometheus does.
func rules(t *testing.T, text []byte) []*relabel.Config {
	t.Helper()
	var all []*relabel.Config
	if err := yaml.Unmarshal(text, &all); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, rule := range all {
		if err := rule.Validate(model.UTF8Validation); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// operatorRules are those that the operator puts before the own ones of a PodMonitor.
const operatorRules = `
- {source_labels: [job], target_label: __tmp_prometheus_job_name}
- {source_labels: [__meta_kubernetes_pod_phase], regex: (Failed|Succeeded), action: drop}
- {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
- {source_labels: [__meta_kubernetes_pod_container_name], target_label: container}
- {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
`

// podMonitor returns the PodMonitor called name.
func podMonitor(t *testing.T, name string) monitoring.PodMonitor {
	t.Helper()
	text, err := os.ReadFile(monitoringFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(text), "\n---\n") {
		var m monitoring.PodMonitor
		if !strings.Contains(document, "\nkind: PodMonitor\n") {
			continue
		}
		if err := kubeyaml.UnmarshalStrict([]byte(document), &m); err != nil {
			t.Fatal(err)
		}
		if m.Name != name {
			continue
		}
		if m.Kind != monitoring.PodMonitorsKind || m.APIVersion != monitoring.SchemeGroupVersion.String() {
			t.Errorf("it is a %s of %s", m.Kind, m.APIVersion)
		}
		if ep := m.Spec.PodMetricsEndpoints; len(ep) != 1 || ep[0].PortNumber != nil || ep[0].FilterRunning != nil || ep[0].Path != "/metrics" || len(m.Spec.PodTargetLabels) != 0 {
			t.Fatalf("%+v", m.Spec)
		}
		return m
	}
	t.Fatalf("there is no PodMonitor %s", name)
	panic("unreachable")
}

// gatewayRules returns the rules that come of the PodMonitor for gateways.
func gatewayRules(t *testing.T) []*relabel.Config {
	t.Helper()
	m := podMonitor(t, "kube-gateway")
	ep := m.Spec.PodMetricsEndpoints[0]
	// Everything else would be a rule of the operator's that is not among those above.
	if !m.Spec.NamespaceSelector.Any || len(m.Spec.Selector.MatchLabels)+len(m.Spec.Selector.MatchExpressions) != 0 || ep.Port != nil {
		t.Fatalf("%+v", m.Spec)
	}
	all := rules(t, []byte(operatorRules+"- {target_label: job, replacement: kube-gateway/kube-gateway}\n"))
	for _, r := range ep.RelabelConfigs {
		// The operator writes what is set, under Prometheus' names.
		rule := map[string]any{}
		if len(r.SourceLabels) > 0 {
			rule["source_labels"] = r.SourceLabels
		}
		for name, value := range map[string]string{"target_label": r.TargetLabel, "regex": r.Regex, "action": strings.ToLower(r.Action)} {
			if value != "" {
				rule[name] = value
			}
		}
		if r.Replacement != nil {
			rule["replacement"] = *r.Replacement
		}
		written, err := yaml.Marshal([]any{rule})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rules(t, written)...)
	}
	return all
}

// watchRules returns the rules that come of the PodMonitor for watch.
func watchRules(t *testing.T) []*relabel.Config {
	t.Helper()
	m := podMonitor(t, "kube-gateway-watch")
	ep, labels := m.Spec.PodMetricsEndpoints[0], m.Spec.Selector.MatchLabels
	if m.Spec.NamespaceSelector.Any || len(labels) != 1 || len(ep.RelabelConfigs) != 0 || ep.Port == nil {
		t.Fatalf("%+v", m.Spec)
	}
	return rules(t, fmt.Appendf(nil, `%s
- {source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_name], regex: %s, action: keep}
- {source_labels: [__meta_kubernetes_pod_container_port_name], regex: %s, action: keep}
- {target_label: endpoint, replacement: %[3]s}
- {target_label: job, replacement: kube-gateway/kube-gateway-watch}
`, operatorRules, labels["app.kubernetes.io/name"], *ep.Port))
}

// prometheusRules returns the rules of a job of the example without the operator.
func prometheusRules(t *testing.T, job string) []*relabel.Config {
	t.Helper()
	text, err := os.ReadFile(prometheusFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		ScrapeConfigs []struct {
			JobName        string    `yaml:"job_name"`
			RelabelConfigs yaml.Node `yaml:"relabel_configs"`
		} `yaml:"scrape_configs"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.ScrapeConfigs) != 2 {
		t.Fatalf("%+v, %v", file, err)
	}
	for _, c := range file.ScrapeConfigs {
		if c.JobName != job {
			continue
		}
		written, err := yaml.Marshal(&c.RelabelConfigs)
		if err != nil {
			t.Fatal(err)
		}
		return rules(t, written)
	}
	t.Fatalf("there is no job %s", job)
	return nil
}

// pod is what Prometheus finds targets for.
type pod struct {
	name, ip, phase string
	annotations     map[string]string
	// app is a label.
	app string
	// containers are names with the ports that each declares.
	containers []container
}

type container struct {
	name  string
	ports []int
	init  bool
}

// portName is that of a container's port.
func portName(port int) string {
	if port == 8080 {
		return "health"
	}
	return fmt.Sprint("p", port)
}

// targets returns the labels of the targets that Prometheus finds for a pod (role pod):
// one for each port of each container, or for the container if it declares none. It
// does not look at ephemeral containers.
func (p *pod) targets() (all []labels.Labels) {
	for _, c := range p.containers {
		found := map[string]string{
			"__meta_kubernetes_namespace": "shop", "__meta_kubernetes_pod_name": p.name, "__meta_kubernetes_pod_ip": p.ip,
			"__meta_kubernetes_pod_phase": p.phase, "__meta_kubernetes_pod_ready": "true", "__meta_kubernetes_pod_node_name": "node-1",
			"__meta_kubernetes_pod_label_app_kubernetes_io_name": p.app, "__meta_kubernetes_pod_labelpresent_app_kubernetes_io_name": "true",
			"__meta_kubernetes_pod_container_name": c.name, "__meta_kubernetes_pod_container_init": strconv.FormatBool(c.init),
			"__meta_kubernetes_pod_container_id": "containerd://" + c.name,
			"__address__":                        p.ip, "__scheme__": "http", "__metrics_path__": "/metrics", "job": "kube-gateway",
		}
		for name, value := range p.annotations {
			name = strings.NewReplacer(".", "_", "-", "_", "/", "_").Replace(name)
			found["__meta_kubernetes_pod_annotation_"+name], found["__meta_kubernetes_pod_annotationpresent_"+name] = value, "true"
		}
		if len(c.ports) == 0 {
			all = append(all, labels.FromMap(found))
		}
		for _, port := range c.ports {
			found["__address__"] = net.JoinHostPort(p.ip, strconv.Itoa(port))
			found["__meta_kubernetes_pod_container_port_number"] = strconv.Itoa(port)
			found["__meta_kubernetes_pod_container_port_name"] = portName(port)
			all = append(all, labels.FromMap(found))
		}
	}
	return all
}

// scraped returns what Prometheus scrapes of the targets: those that rules keep, once
// each, without the labels that are gone then.
func scraped(targets []labels.Labels, rules []*relabel.Config) (all []string) {
	for _, target := range targets {
		b := labels.NewBuilder(target)
		if !relabel.ProcessBuilder(b, rules...) {
			continue
		}
		b.Range(func(l labels.Label) {
			if strings.HasPrefix(l.Name, "__meta_") || strings.HasPrefix(l.Name, "__tmp_") {
				b.Del(l.Name)
			}
		})
		if text := b.Labels().String(); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return all
}

// TestTargets: of each pod with a gateway there is one target, at the gateway's port,
// with the labels that the dashboard asks for; other pods have none.
func TestTargets(t *testing.T) {
	yes := map[string]string{"kube-gateway.io": "true"}
	several := []container{
		{name: "app", ports: []int{8080, 9090}}, {name: "sidecar", ports: []int{15090}}, {name: "quiet"}, {name: "prepare", init: true},
	}
	for _, c := range []struct {
		pod     pod
		address string
	}{
		{pod{"one", "10.244.1.7", "Running", yes, "web", []container{{name: "app"}}}, "10.244.1.7:18445"},
		{pod{"several", "10.244.1.8", "Running", yes, "web", several}, "10.244.1.8:18445"},
		{pod{"six", "fd00:10:244::7", "Running", yes, "web", several}, "[fd00:10:244::7]:18445"},
		{pod{"short", "::7", "Running", yes, "web", several}, "[::7]:18445"},
		{pod{"none", "10.244.1.9", "Running", nil, "web", several}, ""},
		{pod{"not", "10.244.1.10", "Running", map[string]string{"kube-gateway.io": "false"}, "web", several}, ""},
		{pod{"other", "10.244.1.11", "Running", map[string]string{"kube-gateway.io/x": "true", "example.org": "true"}, "web", several}, ""},
		{pod{"done", "10.244.1.12", "Succeeded", yes, "web", several}, ""},
	} {
		for name, set := range map[string]struct {
			rules []*relabel.Config
			job   string
		}{
			"podmonitor": {gatewayRules(t), "kube-gateway/kube-gateway"}, "prometheus": {prometheusRules(t, "kube-gateway"), "kube-gateway"},
		} {
			var want []string
			if c.address != "" {
				want = []string{fmt.Sprintf(`{__address__=%q, __metrics_path__="/metrics", __scheme__="http", job=%q, namespace="shop", pod=%q}`,
					c.address, set.job, c.pod.name)}
			}
			if got := scraped(c.pod.targets(), set.rules); !slices.Equal(got, want) {
				t.Errorf("%s, pod %s:\n%s\ninstead of\n%s", name, c.pod.name, strings.Join(got, "\n"), want)
			}
		}
	}
}

// TestTargetsOfWatch: each replica is a target, with the labels that the dashboard asks for.
// Without the operator the job has its name before any rule.
func TestTargetsOfWatch(t *testing.T) {
	replica := pod{name: "watch", ip: "10.244.1.7", phase: "Running", app: "kube-gateway-watch", containers: []container{{name: "watch", ports: []int{8080}}}}
	other := replica
	other.app = "web"
	const want = `{__address__="10.244.1.7:8080", __metrics_path__="/metrics", __scheme__="http", %sjob="%s", namespace="shop", pod="watch"}`
	for name, set := range map[string]struct {
		rules []*relabel.Config
		want  string
	}{
		"podmonitor": {watchRules(t), fmt.Sprintf(want, `container="watch", endpoint="health", `, "kube-gateway/kube-gateway-watch")},
		"prometheus": {prometheusRules(t, "kube-gateway-watch"), fmt.Sprintf(want, "", "kube-gateway")},
	} {
		if got := scraped(replica.targets(), set.rules); !slices.Equal(got, []string{set.want}) {
			t.Errorf("%s:\n%s\ninstead of\n%s", name, strings.Join(got, "\n"), set.want)
		}
		if got := scraped(other.targets(), set.rules); len(got) != 0 {
			t.Errorf("%s: another pod is a target: %s", name, got)
		}
	}
}
