//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const (
	// prometheusProgram is what 'make prometheus' builds.
	prometheusProgram = "../../bin/prometheus"
	// scrapeConfig is what users give to their Prometheus.
	scrapeConfig  = "../../examples/prometheus.yaml"
	dashboardFile = "../../examples/grafana-dashboard.json"
)

// metricsFlag has gateways serve metrics where the examples expect it.
var metricsFlag = fmt.Sprintf("--metrics-addr=:%d", api.MetricsPort)

// prometheus is a Prometheus in a pod of its own.
type prometheus struct{ *pod }

// startPrometheus starts one with the example's configuration, and scrapes every second.
// It finds pods by the API server, as the service account of its pod.
func startPrometheus(t *testing.T, ns string) *prometheus {
	t.Helper()
	program := must.Get(filepath.Abs(prometheusProgram))(t)
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v: 'make prometheus' builds it", err)
	}
	example := must.Get(os.ReadFile(scrapeConfig))(t)
	kubectl(t, "-n", ns, "create", "configmap", "prometheus", "--from-literal=prometheus.yml="+
		"global: {scrape_interval: 1s, scrape_timeout: 1s}\n"+string(example))
	kubectl(t, "-n", ns, "create", "serviceaccount", "prometheus")
	// The example looks for pods of all namespaces, so the role is one of the cluster.
	atEnd(t, "delete", "clusterrole,clusterrolebinding", ns, "--ignore-not-found")
	kubectl(t, "create", "clusterrole", ns, "--verb=get,list,watch", "--resource=pods")
	kubectl(t, "create", "clusterrolebinding", ns, "--clusterrole="+ns, "--serviceaccount="+ns+":prometheus")

	spec := podSpec("prometheus", node1)
	spec.Spec.ServiceAccountName = "prometheus"
	// The first container is where the test asks from.
	spec.Spec.Containers[0].Command = []string{"/app", "sleep"}
	file := corev1.HostPathFile
	spec.Spec.Volumes = []corev1.Volume{
		{Name: "program", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: program, Type: &file}}},
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "prometheus"}}}},
	}
	spec.Spec.Containers = append(spec.Spec.Containers, corev1.Container{
		Name: "prometheus", Image: appImage, ImagePullPolicy: corev1.PullNever,
		Command: []string{"/prometheus", "--config.file=/config/prometheus.yml", "--storage.tsdb.path=/tmp/data"},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "program", MountPath: "/prometheus", ReadOnly: true}, {Name: "config", MountPath: "/config", ReadOnly: true},
		},
		ReadinessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/-/ready", Port: intstr.FromInt32(9090)}},
			PeriodSeconds: 1,
		},
	})
	return &prometheus{startPods(t, ns, spec)[0]}
}

// series is what a query returns.
type series struct {
	Metric map[string]string
	Value  [2]any
}

func (s *series) value() string { return fmt.Sprint(s.Value[1]) }

// query asks Prometheus.
func (p *prometheus) query(expression string) ([]series, error) {
	p.t.Helper()
	r := p.app("get", "http://127.0.0.1:9090/api/v1/query?query="+url.QueryEscape(expression))
	var answer struct {
		Status, Error string
		Data          struct{ Result []series }
	}
	if err := json.Unmarshal([]byte(r.Received), &answer); err != nil {
		return nil, fmt.Errorf("%s: %v in %+v", expression, err, r)
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("%s: %s", expression, answer.Error)
	}
	return answer.Data.Result, nil
}

// await waits until a query returns one series, with that value.
func (p *prometheus) await(expression, value string) (found series) {
	p.t.Helper()
	eventually(p.t, expression+" is "+value, func() error {
		all, err := p.query(expression)
		if err == nil && (len(all) != 1 || all[0].value() != value) {
			err = fmt.Errorf("it is %+v", all)
		}
		if err == nil {
			found = all[0]
		}
		return err
	})
	return found
}

// dashboardQueries returns the dashboard's queries, as Grafana sends them.
func dashboardQueries(t *testing.T, ns string) (queries []string) {
	t.Helper()
	text := must.Get(os.ReadFile(dashboardFile))(t)
	var dashboard struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	must.Do(t, json.Unmarshal(text, &dashboard))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, strings.NewReplacer("$namespace", ns, "$pod", ".*", "$__rate_interval", "1m", "$__range", "1m").Replace(target.Expr))
		}
	}
	return queries
}

// TestPrometheus: a real Prometheus finds a gateway's metrics by the example, and the
// dashboard's queries have answers. A pod in strict mode turns it away until it has a
// gateway itself.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	start := time.Now()
	ns := namespace(t)
	p := startPrometheus(t, ns)
	t.Logf("Prometheus is ready after %v", time.Since(start))
	web, peer, other := podSpec("web", node2), podSpec("peer", node1), podSpec("other", node2)
	web.Annotations = map[string]string{annotation: "true"}
	// More targets for one pod.
	web.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: portHTTP}, {ContainerPort: portEcho}}
	second := web.Spec.Containers[0]
	second.Name, second.Command, second.Ports = "second", []string{"/app", "sleep"}, nil
	web.Spec.Containers = append(web.Spec.Containers, second)
	pods := startPods(t, ns, web, peer, other)
	enable(t, []string{metricsFlag}, pods[0])
	enable(t, nil, pods[1])
	for range 3 {
		pods[1].talk(pods[0].addr(portEcho), "hello")
		pods[0].talk(pods[1].addr(portEcho), "hello")
		pods[0].talk(pods[2].addr(portEcho), "in plaintext")
	}
	if addr := pods[0].status().MetricsAddr; addr != ":18445" {
		t.Errorf("the status says %q", addr)
	}

	// Of everything in the namespace there is one target.
	up := fmt.Sprintf("up{namespace=%q}", ns)
	target := p.await(up, "1").Metric
	if want := pods[0].addr(api.MetricsPort); target["instance"] != want || target["pod"] != "web" || target["job"] != "kube-gateway" {
		t.Errorf("the target is %v", target)
	}
	info := p.await(fmt.Sprintf("kube_gateway_info{namespace=%q}", ns), "1").Metric
	if info["pod"] != "web" || info["mode"] != "permissive" || !strings.HasSuffix(info["identity"], "/ns/"+ns+"/sa/default") {
		t.Errorf("the gateway is %v", info)
	}
	p.await(fmt.Sprintf(`kube_gateway_connections_total{namespace=%q,direction="inbound",result="encrypted"}`, ns), "3")
	p.await(fmt.Sprintf(`kube_gateway_connections_total{namespace=%q,direction="outbound",result="plaintext"}`, ns), "3")

	empty := 0
	for _, query := range dashboardQueries(t, ns) {
		// What compares shows something only where something is wrong, and memory only where the
		// nodes have its controller.
		if strings.HasSuffix(query, "> 0") || strings.HasSuffix(query, "* 0.3") || strings.Contains(query, "kube_gateway_memory_") {
			if _, err := p.query(query); err != nil {
				t.Error(err)
			}
			empty++
			continue
		}
		eventually(t, "an answer to "+query, func() error {
			answer, err := p.query(query)
			if err == nil && len(answer) == 0 {
				err = errors.New("there is none")
			}
			return err
		})
	}
	if empty > 10 {
		t.Errorf("%d queries may be without an answer", empty)
	}

	// Strict: a port like every other.
	gateway(t, "-n", ns, "mode", "pod/web", "strict")
	p.await(up, "0")
	if r := p.app("get", "http://"+pods[0].addr(api.MetricsPort)+"/metrics"); r.Error == "" {
		t.Errorf("a plaintext scrape: %+v", r)
	}
	enable(t, nil, p.pod)
	p.await(up, "1")
	p.await(fmt.Sprintf("kube_gateway_info{namespace=%q,mode=%q}", ns, "strict"), "1")
	c := gateway(t, "-n", ns, "tail", "pod/web", "--no-follow", "-o", "json").stdout
	if !slices.ContainsFunc(strings.Split(c, "\n"), func(line string) bool {
		return strings.Contains(line, fmt.Sprintf(":%d\"", api.MetricsPort)) && strings.Contains(line, "/sa/prometheus") && strings.Contains(line, `"encrypted":true`)
	}) {
		t.Errorf("no encrypted scrape in\n%s", c)
	}
	// And the rules about identities hold for it.
	gateway(t, "-n", ns, "allow", "pod/web", "ns/"+ns+"/sa/default")
	p.await(up, "0")
	gateway(t, "-n", ns, "allow", "pod/web", "ns/"+ns+"/sa/prometheus")
	p.await(up, "1")

	gateway(t, "-n", ns, "disable", "pod/web")
	p.await(up, "0")
	t.Logf("all of it took %v", time.Since(start))
}
