//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// What users install watch in the cluster from.
const (
	watchBase  = "../../install/kustomize/watch"
	watchChart = "../../install/chart"
	// watchImage is the plugin's, as both have it.
	watchImage = "ghcr.io/kubectl-gateway/kubectl-gateway:dev"
	watchName  = "kube-gateway-watch"
	// helmProgram is what 'make helm' builds.
	helmProgram = "../../bin/helm"
)

// loadImage gives the nodes an image of a program that is on PATH.
func loadImage(t *testing.T, name, program string, options ...string) {
	t.Helper()
	path := must.Get(exec.LookPath(program))(t)
	archive := filepath.Join(t.TempDir(), program+".tar")
	cluster(t.Context(), t, append([]string{"image", "--name", name, "--binary", path, "-o", archive}, options...)...)
	cluster(t.Context(), t, "load", archive)
}

// prepareWatch makes what watch in the cluster needs until the test ends.
func prepareWatch(t *testing.T) {
	t.Helper()
	loadImage(t, watchImage, "kubectl-gateway", "--entrypoint", "/kubectl-gateway", "--user", "65532")
	atEnd(t, "-n", "kube-system", "delete", "secret", "kube-gateway-authority", "--ignore-not-found")
	gateway(t, "init-ca", "--store=cluster")
}

// TestWatchInCluster applies the Kustomize base as it is: two replicas without
// privilege, of which one works, with the authority from a Secret. It runs alone,
// because it looks at all namespaces.
func TestWatchInCluster(t *testing.T) {
	prepareWatch(t)
	t.Cleanup(func() {
		out := runCommand(context.Background(), t, "", "kubectl", "delete", "-k", watchBase, "--ignore-not-found", "--timeout="+patience.String())
		if out.code != 0 {
			t.Errorf("removing the base: %s", out.stderr)
		}
	})
	kubectl(t, "apply", "-k", watchBase)
	const home, name = "kube-gateway", watchName
	kubectl(t, "-n", home, "rollout", "status", "deploy/"+name, "--timeout="+patience.String())
	leader := func() (string, error) {
		out := runCommand(t.Context(), t, "", "kubectl", "-n", home, "get", "lease", "kube-gateway-watch", "-o", "jsonpath={.spec.holderIdentity}")
		holder := strings.TrimSpace(out.stdout)
		if out.code != 0 || holder == "" {
			return "", fmt.Errorf("no leader: %s", out.stderr)
		}
		list := get[corev1.PodList](t, "-n", home, "pods")
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil && strings.HasPrefix(holder, p.Name) {
				return p.Name, nil
			}
		}
		return "", fmt.Errorf("the leader %s is gone", holder)
	}
	awaitLeader := func(other string) (name string) {
		eventually(t, "a leader that is not "+other, func() (err error) {
			if name, err = leader(); err == nil && name == other {
				err = errors.New("it leads still")
			}
			return err
		})
		return name
	}

	ns := namespace(t)
	kubectl(t, "annotate", "namespace", ns, annotation+"=true")
	a, b := twoPods(t, ns)
	awaitGateways(t, ns, "test=e2e", 2, true)
	first := awaitLeader("")
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic), b.clusterIP())
	kubectl(t, "-n", home, "delete", "pod", first, "--wait=false")
	second := awaitLeader(first)
	t.Logf("%s took over from %s", second, first)
	startPods(t, ns, podSpec("late", node1))
	awaitGateways(t, ns, "app=late", 1, true)
	checkContainers(t, ns, "test=e2e", 3, 1)
	checkNoKey(t, ns)
	annotate(t, "default", "namespace/"+ns, "")
	awaitGateways(t, ns, "test=e2e", 3, false)
	l.more(10)
	l.stopClean(b)
}

// helm runs Helm.
func helm(t *testing.T, args ...string) string {
	t.Helper()
	out := runCommand(t.Context(), t, "", must.Get(filepath.Abs(helmProgram))(t), args...)
	if out.code != 0 {
		t.Fatalf("helm %v: exit %d\n%s%s", args, out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// fingerprint is that of an authority, as a policy has it.
var fingerprint = regexp.MustCompile(`\\"roots\\*":\[\\*"([0-9a-f]{64})`)

// TestHelm installs the chart, with the policy for new pods: one is born with a gateway, which watch certifies, and
// watch tells of it. It can be upgraded, and leaves nothing. It runs alone, because it looks at all namespaces.
func TestHelm(t *testing.T) {
	prepareWatch(t)
	home, ns := namespace(t), namespace(t)
	const release = "kube-gateway"
	policy := gateway(t, "admission", "install", "--dry-run=client", "-o", "yaml").stdout
	root := fingerprint.FindStringSubmatch(policy)
	if root == nil {
		t.Fatalf("no fingerprint in\n%s", policy)
	}
	t.Cleanup(func() {
		runCommand(context.Background(), t, "", must.Get(filepath.Abs(helmProgram))(t), "-n", home, "uninstall", release, "--ignore-not-found", "--timeout="+patience.String())
	})
	notes := helm(t, "-n", home, "install", release, watchChart, "--wait", "--timeout="+patience.String(),
		"--set=replicas=1,admission.enabled=true,admission.roots={"+root[1]+"}")
	if !strings.Contains(notes, "init-ca --store=cluster") {
		t.Errorf("Helm says\n%s", notes)
	}

	// What it installs is what the plugin would, but for whose it is.
	for line := range strings.Lines(tryGateway(t, "admission", "diff", "--exempt-namespace="+home).stdout) {
		if (line[0] == '+' || line[0] == '-') && !strings.HasPrefix(line, "+++") && !strings.HasPrefix(line, "---") && !strings.Contains(line, "app.kubernetes.io/managed-by") {
			t.Errorf("the policy differs from the plugin's: %s", line)
		}
	}
	spec := asking(podSpec("a", node1), "true")
	eventually(t, "the policy is in force", func() error {
		if object := tried(t, ns, spec); initNames(&object) != "kube-gateway" {
			return fmt.Errorf("init containers %q", initNames(&object))
		}
		return nil
	})
	a := startPods(t, ns, spec)[0]
	if s := a.status(); s.State != api.Ready || !s.Sidecar || s.Mode != api.Strict {
		t.Errorf("the gateway says %+v", s)
	}

	upgraded := helm(t, "-n", home, "upgrade", release, watchChart, "--reuse-values", "--set=gateway.mode=strict")
	if !strings.Contains(upgraded, "REVISION: 2") {
		t.Errorf("Helm says\n%s", upgraded)
	}
	eventually(t, "watch tells of the gateway", func() error {
		var said string
		for _, p := range get[corev1.PodList](t, "-n", home, "pods").Items {
			said += runCommand(t.Context(), t, "", "kubectl", "get", "--raw", "/api/v1/namespaces/"+home+"/pods/"+p.Name+":8080/proxy/metrics").stdout
		}
		for _, want := range []string{`leader 1`, `pods{state="ready"} [1-9]`, `certificates{left="[0-9]+d"} [1-9]`, `last_sync_timestamp_seconds [1-9]`, `steps_total{result="done",step="ask"} [1-9]`} {
			if !regexp.MustCompile(`(?m)^kubectl_gateway_watch_` + want).MatchString(said) {
				return fmt.Errorf("no %s in\n%s", want, said)
			}
		}
		return nil
	})

	helm(t, "-n", home, "uninstall", release)
	for _, object := range []string{"clusterrole/" + watchName, "clusterrolebinding/" + watchName, "mutatingadmissionpolicy/kube-gateway", "mutatingadmissionpolicybinding/kube-gateway"} {
		if out := runCommand(t.Context(), t, "", "kubectl", "get", object); out.code == 0 || !strings.Contains(out.stderr, "NotFound") {
			t.Errorf("%s is left: %s%s", object, out.stdout, out.stderr)
		}
	}
	for _, where := range []string{home, "kube-system"} {
		if out := kubectl(t, "-n", where, "get", "role,rolebinding", "-o", "name"); strings.Contains(out, watchName) {
			t.Errorf("in %s there is %s", where, out)
		}
	}
}
