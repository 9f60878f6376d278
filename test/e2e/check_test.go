//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/check"
)

// report runs check, which must end with the exit code that belongs to its report.
func report(t *testing.T, args ...string) *check.Report {
	t.Helper()
	out := tryGateway(t, append([]string{"check", "-o", "json"}, args...)...)
	var r check.Report
	if err := json.Unmarshal([]byte(out.stdout), &r); err != nil {
		t.Fatalf("check %v: exit %d: %v\n%s%s", args, out.code, err, out.stdout, out.stderr)
	}
	if (out.code != 0) != (r.Result == check.Error) || out.code > 1 {
		t.Errorf("check %v: exit %d with result %s", args, out.code, r.Result)
	}
	return &r
}

// problems returns the items of r that are no good.
func problems(r *check.Report) []check.Item {
	return slices.DeleteFunc(slices.Clone(r.Checks), func(i check.Item) bool { return i.Result == check.OK || i.Result == check.Skipped })
}

// item returns the first item of r with an id.
func item(t *testing.T, r *check.Report, id string) check.Item {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(i check.Item) bool { return i.ID == id })
	if i < 0 {
		t.Fatalf("the report has no %s: %+v", id, r)
	}
	return r.Checks[i]
}

// shell runs a command that check gave as advice, word for word.
func shell(t *testing.T, command string) {
	t.Helper()
	if out := runCommand(t.Context(), t, command, "sh", "-e"); out.code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", command, out.code, out.stdout, out.stderr)
	}
}

// noTestPods makes sure that no pod of a test of the image is left.
func noTestPods(t *testing.T, ns string) {
	t.Helper()
	await(t, "the pods of the image's test are gone", func() bool {
		return kubectl(t, "-n", ns, "get", "pods", "-l", "kubectl-gateway.github.io/check", "-o", "name") == ""
	})
}

// TestCheckGood checks a namespace, empty and with pods, before and after enable.
func TestCheckGood(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	// Whoever rotates the authority at the same time is no concern of this test.
	notOurs := func(i check.Item) bool { return i.ID == "authority-rotation" }
	for _, state := range []string{"without pods", "with pods", "with gateways"} {
		switch state {
		case "with pods":
			startPods(t, ns, podSpec("a", node1), podSpec("b", node2))
		case "with gateways":
			a, b := findPod(t, ns, "a"), findPod(t, ns, "b")
			enable(t, nil, a, b)
			a.talk(b.addr(portEcho), "hello")
			a.traffic("the connection was encrypted", func(traffic api.Traffic) bool { return traffic.Outbound.Encrypted > 0 })
		}
		r := report(t, "-n", ns)
		for _, i := range slices.DeleteFunc(problems(r), notOurs) {
			t.Errorf("%s: %+v", state, i)
		}
		if i := item(t, r, "image-pull"); i.Result != check.OK {
			t.Errorf("%s: the image was not tested: %+v", state, i)
		}
		if i := item(t, r, "policy-admission"); i.Result != check.OK {
			t.Errorf("%s: nothing was tried: %+v", state, i)
		}
		if i := item(t, r, "gateways-state"); (i.Result == check.OK) != (state == "with gateways") {
			t.Errorf("%s: %+v", state, i)
		}
		if i := item(t, r, "peers-plaintext"); state == "with gateways" && i.Result != check.OK {
			t.Errorf("%s: %+v", state, i)
		}
	}
	out := gateway(t, "-n", ns, "check", "pod/a", "-o", "short")
	if strings.Contains(out.stdout, "×") {
		t.Errorf("a named pod: %s", out.stdout)
	}
	if out := tryGateway(t, "-n", ns, "check", "pod/a", "pod/nobody"); out.code != 1 || !strings.Contains(out.stdout, `"nobody" not found`) {
		t.Errorf("a pod that is not there: exit %d\n%s", out.code, out.stdout)
	}
	noTestPods(t, ns)
}

// TestCheckPodSecurity follows the advice for a namespace that admits no privileged
// container.
func TestCheckPodSecurity(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"empty", "pods"} {
		t.Run(state, func(t *testing.T) {
			ns := namespace(t)
			if state == "pods" {
				// Pods from before the label stay.
				startPods(t, ns, podSpec("a", node1))
			}
			kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
			r := report(t, "-n", ns)
			found := problems(r)
			if r.Result != check.Error || len(found) != 1 || found[0].ID != "policy-pod-security" {
				t.Fatalf("problems: %+v", found)
			}
			if i := item(t, r, "image-pull"); i.Result != check.OK {
				t.Errorf("the image is tested at every level: %+v", i)
			}
			command := found[0].Command
			shell(t, command)
			if left := problems(report(t, "-n", ns)); len(left) > 0 {
				t.Errorf("after %s: %+v", command, left)
			}
			noTestPods(t, ns)
		})
	}
}

// TestCheckPermissions follows the advice for a user without any right.
func TestCheckPermissions(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	startPods(t, ns, podSpec("a", node1))
	const user = "check-limited@example.org"
	as := []string{"-n", ns, "--as=" + user}
	r := report(t, as...)
	if i := item(t, r, "permissions-enable"); i.Result != check.Error || !strings.Contains(i.Detail, "patch pods/ephemeralcontainers") {
		t.Errorf("a user without rights: %+v", i)
	}
	var commands []string
	for _, i := range problems(r) {
		if i.Category == check.Permissions && !slices.Contains(commands, i.Command) {
			commands = append(commands, i.Command)
		}
	}
	if len(commands) != 3 {
		t.Fatalf("%d commands: %q", len(commands), commands)
	}
	t.Cleanup(func() {
		for _, command := range commands {
			// The test's own context is done by now. What is in the namespace goes with it.
			runCommand(context.Background(), t, strings.Replace(command, "kubectl apply", "kubectl delete --ignore-not-found", 1), "sh")
		}
	})
	for _, command := range commands {
		shell(t, command)
	}
	// The authorizer learns of roles a moment later.
	r = report(t, append(as, "--wait", patience.String())...)
	for _, i := range problems(r) {
		t.Errorf("after the advice: %+v", i)
	}
	if i := item(t, r, "policy-admission"); i.Result != check.OK {
		t.Errorf("nothing was tried: %+v", i)
	}
	if i := item(t, r, "image-pull"); i.Result != check.Skipped {
		t.Errorf("this user may make no pods: %+v", i)
	}
	// What the roles allow is enough for the real thing.
	gateway(t, append(as, "enable", "pod/a")...)
	gateway(t, append(as, "status", "pod/a")...)
	gateway(t, append(as, "disable", "pod/a")...)
}

// TestCheckWaits solves a problem while check waits, and interrupts it once.
func TestCheckWaits(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=baseline")
	waiting := func() *running {
		r := start(t, "kubectl-gateway", "-n", ns, "check", "--wait", patience.String(), "--image-test=false")
		r.says("for: policy-pod-security")
		return r
	}
	r := waiting()
	if err := r.interrupt(); err == nil || r.cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted: %v\n%s%s", err, &r.stdout, &r.stderr)
	}
	r = waiting()
	kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
	if err := r.wait(); err != nil {
		t.Errorf("the problem was solved: %v\n%s%s", err, &r.stdout, &r.stderr)
	}
}

// TestCheckImage has an image that no node has, and a Ctrl-C during the test.
func TestCheckImage(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	missing := report(t, "-n", ns, "--image=localhost/there-is-none:v1", "--image-pull-policy=Never")
	if i := item(t, missing, "image-pull"); i.Result != check.Error || !strings.Contains(i.Detail, "ErrImageNeverPull") {
		t.Errorf("an image that is not there: %+v", i)
	}
	if i := item(t, report(t, "-n", ns, "--image="+appImage, "--image-pull-policy=Never"), "image-pull"); i.Result != check.Error {
		t.Errorf("an image that is no gateway's: %+v", i)
	}
	noTestPods(t, ns)

	// The pause image never ends, whatever its arguments.
	r := start(t, "kubectl-gateway", "-n", ns, "check", "--image=localhost/pause:1", "--image-pull-policy=Never")
	await(t, "the pod of the test runs", func() bool {
		list := get[corev1.PodList](t, "-n", ns, "pods")
		return len(list.Items) > 0 && list.Items[0].Status.Phase == corev1.PodRunning
	})
	if err := r.interrupt(); err == nil || r.cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("interrupted: %v\n%s", err, &r.stderr)
	}
	noTestPods(t, ns)
}
