//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// watchManifest is what users apply to have watch run in the cluster.
const watchManifest = "../../examples/watch-deployment.yaml"

// manifestObjects returns the Deployment of a manifest, and all rules of its roles.
func manifestObjects(t *testing.T, path string) (deployment appsv1.Deployment, rules []rbacv1.PolicyRule) {
	t.Helper()
	text := must.Get(os.ReadFile(path))(t)
	documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	defer documents.Close()
	buffer := make([]byte, len(text)+1)
	for {
		n, err := documents.Read(buffer)
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var kind struct{ Kind string }
		must.Do(t, sigsyaml.Unmarshal(buffer[:n], &kind))
		var role rbacv1.ClusterRole
		switch kind.Kind {
		case "Deployment":
			err = sigsyaml.UnmarshalStrict(buffer[:n], &deployment)
		case "ClusterRole", "Role":
			err = sigsyaml.Unmarshal(buffer[:n], &role)
		}
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, role.Rules...)
	}
	if deployment.Name == "" || len(rules) == 0 {
		t.Fatalf("%s has no Deployment or no roles", path)
	}
	return deployment, rules
}

// loadImage gives the nodes an image of a program that is on PATH.
func loadImage(t *testing.T, name, program string, options ...string) {
	t.Helper()
	path := must.Get(exec.LookPath(program))(t)
	archive := filepath.Join(t.TempDir(), program+".tar")
	cluster(t.Context(), t, append([]string{"image", "--name", name, "--binary", path, "-o", archive}, options...)...)
	cluster(t.Context(), t, "load", archive)
}

// TestWatchInCluster applies the example as it is: two replicas without
// privilege, of which one works, with the authority from a Secret. It runs alone,
// because it looks at all namespaces.
func TestWatchInCluster(t *testing.T) {
	deployment, rules := manifestObjects(t, watchManifest)
	for _, rule := range rules {
		for _, word := range append(append(append([]string{}, rule.Verbs...), rule.Resources...), rule.APIGroups...) {
			if word == "*" {
				t.Errorf("a role allows everything of something: %v", rule)
			}
		}
	}
	template := deployment.Spec.Template.Spec
	for _, c := range template.Containers {
		if s := c.SecurityContext; s == nil || s.Privileged != nil && *s.Privileged || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
			s.Capabilities == nil || len(s.Capabilities.Add) != 0 || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s has the security context %+v", c.Name, s)
		}
	}
	if template.HostNetwork || template.HostPID {
		t.Error("it runs in the node's namespaces")
	}

	loadImage(t, template.Containers[0].Image, "kubectl-gateway", "--entrypoint", "/kubectl-gateway", "--user", "65532")
	t.Cleanup(func() {
		out := runCommand(context.Background(), t, "", "kubectl", "delete", "-f", watchManifest, "--ignore-not-found")
		if out.code != 0 {
			t.Errorf("removing the example: %s", out.stderr)
		}
		runCommand(context.Background(), t, "", "kubectl", "-n", "kube-system", "delete", "secret", "kube-gateway-authority", "--ignore-not-found")
	})
	gateway(t, "init-ca", "--store=cluster")
	kubectl(t, "apply", "-f", watchManifest)
	home, name := deployment.Namespace, deployment.Name
	if home == "" {
		home = "default"
	}
	if deployment.Spec.Replicas == nil || *deployment.Spec.Replicas != 2 {
		kubectl(t, "-n", home, "scale", "deploy/"+name, "--replicas=2")
	}
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
