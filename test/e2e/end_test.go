//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lingering is a pod whose application goes on after SIGTERM until it is told to
// exit.
func lingering(name, node string) *corev1.Pod {
	// Longer than any test waits: the end of the pod is not the kubelet's doing.
	grace := int64(10 * time.Minute / time.Second)
	spec := podSpec(name, node)
	spec.Spec.TerminationGracePeriodSeconds = &grace
	spec.Spec.Containers[0].Command = append(spec.Spec.Containers[0].Command, "--linger")
	return spec
}

// TestTermination deletes a pod whose application goes on to make and to serve
// connections: its gateway carries them until the application ends, and does not
// keep the pod any longer.
func TestTermination(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, lingering("a", node1), podSpec("b", node2))
	a, b := pods[0], pods[1]
	// The grace period is long.
	atEnd(t, "-n", ns, "delete", "pod", a.name, "--grace-period=0", "--force", "--ignore-not-found")
	enable(t, []string{"--mode=strict"}, a, b)
	// Services lose an endpoint that terminates: traffic is for pods' addresses.
	out := startLoad(a, b.addr(portTraffic))
	in := startLoad(b, a.addr(portTraffic))

	kubectl(t, "-n", ns, "delete", "pod", a.name, "--wait=false")
	await(t, "the application is told to end", func() bool {
		return strings.Contains(kubectl(t, "-n", ns, "logs", a.name, "-c", "app"), "lingering")
	})
	out.more(40)
	in.more(40)
	if !encrypted(t, a, b) {
		t.Error("the terminating pod speaks plaintext")
	}
	in.stopClean(a)
	out.stopClean(b)
	a.exitApp()
	eventually(t, "the pod has gone", func() error {
		out := runCommand(t.Context(), t, "", "kubectl", "-n", ns, "get", "pod", a.name, "-o", "jsonpath={.status.containerStatuses}{.status.ephemeralContainerStatuses}")
		if out.code == 0 {
			return errors.New(out.stdout)
		}
		return nil
	})
}

// exitApp ends the pod's application.
func (p *pod) exitApp() {
	p.t.Helper()
	// The command may be killed with the container that it runs in, before or after
	// its word has arrived.
	const killed = 128 + 9
	out := runCommand(p.t.Context(), p.t, "", "kubectl", "-n", p.namespace, "exec", p.name, "-c", "app", "--", "/app", "exit")
	if out.code != killed && !strings.Contains(out.stdout, "exiting") {
		p.t.Fatalf("ending the application of %s: exit %d, %s%s", p, out.code, out.stdout, out.stderr)
	}
}

// TestJob enables the pod of a Job, which completes as soon as its application
// has.
func TestJob(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	b := startPods(t, ns, podSpec("b", node2))[0]
	template := lingering("job", node1)
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	none := int32(0)
	job := &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{
			BackoffLimit: &none,
			Template:     corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels}, Spec: template.Spec},
		},
	}
	apply(t, ns, mustYAML(t, job))
	var a *pod
	eventually(t, "the Job's pod runs", func() error {
		list := get[corev1.PodList](t, "-n", ns, "pods", "-l", "job-name=job")
		if len(list.Items) != 1 || list.Items[0].Status.Phase != corev1.PodRunning {
			return fmt.Errorf("%d pods", len(list.Items))
		}
		a = findPod(t, ns, list.Items[0].Name)
		return nil
	})
	enable(t, []string{"--mode=strict"}, a, b)
	l := startLoad(a, b.addr(portTraffic))
	l.more(10)
	l.stopClean(b)
	a.exitApp()
	start := time.Now()
	kubectl(t, "-n", ns, "wait", "--for=condition=Complete", "job/job", "--timeout="+patience.String())
	t.Logf("the Job was complete %v after its application", time.Since(start).Round(100*time.Millisecond))
	object := get[corev1.Pod](t, "-n", ns, "pod", a.name)
	if object.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the pod is %s", object.Status.Phase)
	}
	for _, c := range object.Status.EphemeralContainerStatuses {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
			t.Errorf("the gateway ended as %+v", c.State)
		}
	}
}

// killSandbox kills the process that holds a pod's namespaces, as the restart of
// a node does; the kubelet then makes a new sandbox, with another address.
func killSandbox(t *testing.T, p *pod) {
	t.Helper()
	sandbox := processesIn(t, p, "comm", func(name string) bool { return strings.TrimSpace(name) == "pause" })
	if len(sandbox) == 0 {
		t.Fatalf("the sandbox of %s is not found", p)
	}
	kill(t, sandbox...)
}

// newSandbox kills the sandbox of a pod and returns the pod as it is in the next
// one.
func newSandbox(t *testing.T, p *pod) *pod {
	t.Helper()
	killSandbox(t, p)
	var again *pod
	eventually(t, "the pod runs in a new sandbox", func() error {
		object := get[corev1.Pod](t, "-n", p.namespace, "pod", p.name)
		again = findPod(t, p.namespace, p.name)
		if len(again.ips) == 0 || again.ips[0] == p.ips[0] {
			return fmt.Errorf("its addresses are %v", again.ips)
		}
		for _, c := range object.Status.ContainerStatuses {
			if !c.Ready || c.RestartCount == 0 {
				return fmt.Errorf("%+v", c)
			}
		}
		return nil
	})
	if again.uid != p.uid {
		t.Fatalf("another pod %s", again.uid)
	}
	return again
}

// TestNewSandbox shows that status sees that a pod lost its gateway with its
// sandbox, and that enable repairs it.
func TestNewSandbox(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	a.talk(b.addr(portEcho), "before")
	a = newSandbox(t, a)
	eventually(t, "status tells of the new sandbox", func() error {
		out := tryGateway(t, "-n", ns, "status", a.String())
		if text := out.stdout + out.stderr; !strings.Contains(text, "sandbox") || !strings.Contains(text, "kubectl gateway enable") {
			return errors.New(text)
		}
		return nil
	})
	enable(t, []string{"--mode=strict"}, a)
	a.talk(b.addr(portEcho), "after")
	b.talk(a.addr(portEcho), "after")
}
