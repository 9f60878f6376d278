//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// The nodes of the test cluster.
const (
	node1 = "node-1"
	node2 = "node-2"
)

// appImage is the image of test/e2e/app.
const appImage = "localhost/e2e-app:latest"

// pod is one running application.
type pod struct {
	t         *testing.T
	namespace string
	name      string
	uid       string
	// ips are the addresses of the pod, the primary one first.
	ips []netip.Addr
}

// podSpec is a pod that runs "app serve" on node.
func podSpec(name, node string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name, "test": "e2e"}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "app", Image: appImage, ImagePullPolicy: corev1.PullNever, Command: []string{"/app", "serve"},
			}},
		},
	}
}

// startPods creates pods and waits until they are ready.
func startPods(t *testing.T, ns string, specs ...*corev1.Pod) []*pod {
	t.Helper()
	createPods(t, ns, specs...)
	var pods []*pod
	for _, s := range specs {
		eventually(t, "pod/"+s.Name+" is ready", func() error {
			status := get[corev1.Pod](t, "-n", ns, "pod", s.Name).Status
			if !slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			}) {
				return fmt.Errorf("it is %+v", status)
			}
			return nil
		})
		pods = append(pods, findPod(t, ns, s.Name))
	}
	return pods
}

// createPods creates pods at once.
func createPods(t *testing.T, ns string, specs ...*corev1.Pod) {
	t.Helper()
	pods := client(t).CoreV1().Pods(ns)
	for _, s := range specs {
		must.Get(pods.Create(t.Context(), s, metav1.CreateOptions{}))(t)
	}
}

func mustYAML(t *testing.T, object any) string {
	t.Helper()
	text := must.Get(yaml.Marshal(object))(t)
	return string(text)
}

func findPod(t *testing.T, ns, name string) *pod {
	t.Helper()
	object := get[corev1.Pod](t, "-n", ns, "pod", name)
	return podOf(t, &object)
}

func podOf(t *testing.T, object *corev1.Pod) *pod {
	p := &pod{t: t, namespace: object.Namespace, name: object.Name, uid: string(object.UID)}
	for _, ip := range object.Status.PodIPs {
		p.ips = append(p.ips, netip.MustParseAddr(ip.IP))
	}
	return p
}

// twoPods starts pod a on one node and pod b on the other.
func twoPods(t *testing.T, ns string) (a, b *pod) {
	t.Helper()
	pods := startPods(t, ns, podSpec("a", node1), podSpec("b", node2))
	return pods[0], pods[1]
}

func (p *pod) String() string { return "pod/" + p.name }

// addr returns the address of a port of the pod, in its primary family.
func (p *pod) addr(port uint16) string { return netip.AddrPortFrom(p.ips[0], port).String() }

// url returns the base URL of the pod's HTTP server.
func (p *pod) url() string { return "http://" + p.addr(portHTTP) }

// Ports of the test application.
const (
	portEcho        = 9000
	portServerFirst = 9001
	portCount       = 9002
	portHTTP        = 9080
	portGRPC        = 9090
)

// appResult is what a client of the test application prints.
type appResult = appreport.Result

// app runs a client of the test application in the pod's own container.
func (p *pod) app(args ...string) appResult {
	p.t.Helper()
	return parse[appResult](p.t, p.appCommand(args...))
}

// appCommand runs a command in the pod's own container, and returns its output. It is
// what kubectl exec does, without a process for each of hundreds of commands.
func (p *pod) appCommand(args ...string) string {
	p.t.Helper()
	var stdout bytes.Buffer
	ref := remote.Ref{Namespace: p.namespace, Pod: p.name, Container: "app"}
	if err := reach(p.t).Runner.Run(p.t.Context(), ref, nil, &stdout, append([]string{"/app"}, args...)...); err != nil {
		p.t.Fatalf("%s in %s: %v\n%s", strings.Join(args, " "), p, err, &stdout)
	}
	return stdout.String()
}

// reach reaches the containers of pods as the plugin does.
func reach(t *testing.T) *remote.Client {
	t.Helper()
	return remote.NewClient(clusterConfig(t), client(t))
}

// awaitApp runs a client of the test application until it succeeds.
func awaitApp(t *testing.T, what string, run func(...string) appResult, args ...string) {
	t.Helper()
	eventually(t, what, func() error {
		if r := run(args...); r.Error != "" {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

// talk sends text to address, which must echo it.
func (p *pod) talk(address, text string) appResult {
	p.t.Helper()
	r := p.app("talk", address, text)
	if r.Error != "" || r.Received != text+"\n" {
		p.t.Fatalf("%s to %s: received %q, error %q", p, address, r.Received, r.Error)
	}
	return r
}

// enable adds gateways to the pods.
func enable(t *testing.T, flags []string, pods ...*pod) output {
	t.Helper()
	args := append([]string{"-n", pods[0].namespace, "enable"}, flags...)
	for _, p := range pods {
		args = append(args, p.String())
	}
	return gateway(t, args...)
}

// status reads what the pod's gateway says of itself, as the verb does.
func (p *pod) status() api.Status {
	p.t.Helper()
	collector := status.Collector{Gateways: reach(p.t), Now: time.Now}
	list := must.Get(collector.Collect(p.t.Context(), []corev1.Pod{get[corev1.Pod](p.t, "-n", p.namespace, "pod", p.name)}))(p.t)
	if len(list.Items) != 1 || list.Items[0].Status == nil {
		p.t.Fatalf("status of %s: %+v", p, list.Items)
	}
	return *list.Items[0].Status
}

// traffic returns the counters of the pod's gateway once condition accepts
// them: a connection is counted when it is decided, not when it is asked for.
func (p *pod) traffic(what string, condition func(api.Traffic) bool) api.Traffic {
	p.t.Helper()
	var traffic api.Traffic
	eventually(p.t, what, func() error {
		traffic = p.status().Traffic
		if !condition(traffic) {
			return fmt.Errorf("counters are %+v", traffic)
		}
		return nil
	})
	return traffic
}
