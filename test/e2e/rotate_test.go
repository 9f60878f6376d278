//go:build e2e

package e2e

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watchSecrets prints every Secret that appears in a namespace, after those that are there.
func watchSecrets(t *testing.T, ns string) *running {
	t.Helper()
	w := start(t, "kubectl", "-n", ns, "get", "secrets", "--watch", "-o", "name")
	// It works once it has seen one.
	kubectl(t, "-n", ns, "create", "secret", "generic", "sentinel-begin")
	w.says("secret/sentinel-begin\n")
	return w
}

// appeared returns the Secrets that a watch has seen, in the meantime too.
func appeared(t *testing.T, ns string, w *running) []string {
	t.Helper()
	kubectl(t, "-n", ns, "create", "secret", "generic", "sentinel-end")
	w.says("secret/sentinel-end\n")
	return slices.DeleteFunc(strings.Fields(w.stdout.String()), func(name string) bool { return strings.HasPrefix(name, "secret/sentinel-") })
}

// TestRotate renews certificates under traffic, by every way to name pods; and
// no key is ever in an object of the API server.
func TestRotate(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	seen := watchSecrets(t, ns)
	a := startPods(t, ns, podSpec("a", node1))[0]
	deployment(t, ns, "server", 2, node2)
	servers := podsOf(t, ns, "app=server")
	service := serviceOf(t, ns, "server")
	enable(t, []string{"--delivery=csr", "--mode=strict"}, append(servers, a)...)
	targets := []string{service}
	for _, p := range servers {
		targets = append(targets, p.addr(portTraffic))
	}
	l := startLoad(a, targets...)
	serials := func() map[string]string {
		found := map[string]string{}
		for _, p := range append(servers, a) {
			found[p.name] = p.status().Cert.Serial
		}
		return found
	}
	before := serials()
	for _, test := range []struct {
		args    []string
		renewed []*pod
	}{
		{[]string{"pod/a"}, []*pod{a}},
		{[]string{"deploy/server"}, servers},
		{[]string{"-l", "app=server"}, servers},
		{[]string{"--all", "--yes"}, append(servers, a)},
	} {
		out := gateway(t, append([]string{"-n", ns, "rotate"}, test.args...)...)
		after := serials()
		for _, p := range append(servers, a) {
			if changed := after[p.name] != before[p.name]; changed != slices.Contains(test.renewed, p) {
				t.Errorf("rotate %v: %s changed: %v; it says %s%s", test.args, p, changed, out.stdout, out.stderr)
			}
		}
		before = after
		l.more(10)
	}
	l.stopClean(servers...)
	if names := appeared(t, ns, seen); len(names) != 0 {
		t.Errorf("Secrets appeared: %v", names)
	}
	checkNoKey(t, ns)
}

// checkNoKey looks for a key in the pods and Secrets of a namespace.
func checkNoKey(t *testing.T, ns string) {
	t.Helper()
	for _, kind := range []string{"pods", "secrets", "configmaps", "events"} {
		text := kubectl(t, "-n", ns, "get", kind, "-o", "json")
		// In plain text and in base 64 ("-----BEGIN " and what follows).
		for _, sign := range []string{"PRIVATE KEY", "LS0tLS1CRUdJTiBQUklWQVRF", "LS0tLS1CRUdJTiBFQyBQUklWQVRF"} {
			if strings.Contains(text, sign) {
				t.Errorf("the %s of the namespace hold a key", kind)
			}
		}
	}
}

// deployment makes a Deployment of "app serve" and waits for it.
func deployment(t *testing.T, ns, name string, replicas int32, node string) {
	t.Helper()
	deploymentOf(t, ns, podSpec(name, node), replicas)
}

// deploymentOf makes a Deployment of pods like template, with its name, and waits for it.
func deploymentOf(t *testing.T, ns string, template *corev1.Pod, replicas int32) {
	t.Helper()
	apply(t, ns, mustYAML(t, &appsv1.Deployment{
		TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Name: template.Name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: template.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
		},
	}))
	rolledOut(t, ns, template.Name)
}

// rolledOut waits for the pods of a Deployment.
func rolledOut(t *testing.T, ns, name string) {
	t.Helper()
	kubectl(t, "-n", ns, "rollout", "status", "deploy/"+name, "--timeout="+patience.String())
}

// podsOf returns the pods that a selector selects and that are not leaving.
func podsOf(t *testing.T, ns, selector string) []*pod {
	t.Helper()
	list := get[corev1.PodList](t, "-n", ns, "pods", "-l", selector)
	var pods []*pod
	for _, object := range list.Items {
		if object.DeletionTimestamp == nil {
			pods = append(pods, podOf(t, &object))
		}
	}
	return pods
}

// serviceOf makes a Service of portTraffic of a Deployment.
func serviceOf(t *testing.T, ns, name string) string {
	t.Helper()
	return (&pod{t: t, namespace: ns, name: name}).clusterIP()
}
