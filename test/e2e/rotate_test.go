//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// secretWatch records every Secret that appears in a namespace.
type secretWatch struct {
	cancel func()
	done   chan struct{}
	mu     sync.Mutex
	seen   map[string]bool
}

// watchSecrets begins with the Secrets that are there.
func watchSecrets(t *testing.T, ns string) *secretWatch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &secretWatch{cancel: cancel, done: make(chan struct{}), seen: map[string]bool{}}
	cmd := exec.CommandContext(ctx, "kubectl", "-n", ns, "get", "secrets", "--watch", "-o", "name")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(w.done)
		defer cmd.Wait() // ended by us
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			w.mu.Lock()
			w.seen[strings.TrimSpace(lines.Text())] = true
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() { cancel(); <-w.done })
	// It works once it has seen one.
	kubectl(t, "-n", ns, "create", "secret", "generic", "sentinel-begin")
	w.await(t, "sentinel-begin")
	return w
}

func (w *secretWatch) await(t *testing.T, name string) {
	t.Helper()
	eventually(t, "the watch sees Secret "+name, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.seen["secret/"+name] {
			return errNotSeen
		}
		return nil
	})
}

// stop returns the Secrets that appeared, in the meantime too.
func (w *secretWatch) stop(t *testing.T, ns string) []string {
	t.Helper()
	kubectl(t, "-n", ns, "create", "secret", "generic", "sentinel-end")
	w.await(t, "sentinel-end")
	w.cancel()
	<-w.done
	var names []string
	for name := range w.seen {
		if !strings.HasPrefix(name, "secret/sentinel-") {
			names = append(names, name)
		}
	}
	return names
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
			renewed := false
			for _, r := range test.renewed {
				renewed = renewed || r == p
			}
			if changed := after[p.name] != before[p.name]; changed != renewed {
				t.Errorf("rotate %v: %s changed: %v; it says %s%s", test.args, p, changed, out.stdout, out.stderr)
			}
		}
		before = after
		l.more(10)
	}
	l.stopClean(servers...)
	if appeared := seen.stop(t, ns); len(appeared) != 0 {
		t.Errorf("Secrets appeared: %v", appeared)
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
	template := podSpec(name, node)
	text, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"replicas": replicas, "selector": map[string]any{"matchLabels": template.Labels},
			"template": map[string]any{"metadata": map[string]any{"labels": template.Labels}, "spec": template.Spec},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if out := runCommand(t.Context(), t, string(text), "kubectl", "-n", ns, "apply", "-f", "-"); out.code != 0 {
		t.Fatalf("creating the Deployment: %s", out.stderr)
	}
	kubectl(t, "-n", ns, "rollout", "status", "deploy/"+name, "--timeout="+patience.String())
}

// podsOf returns the pods that a selector selects and that are not leaving.
func podsOf(t *testing.T, ns, selector string) []*pod {
	t.Helper()
	var list corev1.PodList
	get(t, &list, "-n", ns, "pods", "-l", selector)
	var pods []*pod
	for _, object := range list.Items {
		if object.DeletionTimestamp == nil {
			pods = append(pods, findPod(t, ns, object.Name))
		}
	}
	return pods
}

// serviceOf makes a Service of portTraffic of a Deployment.
func serviceOf(t *testing.T, ns, name string) string {
	t.Helper()
	return (&pod{t: t, namespace: ns, name: name}).clusterIP()
}
