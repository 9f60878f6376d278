//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// bornReplicas is how many pods a Deployment has.
const bornReplicas = 20

// installAdmission installs the policy until the test ends. Such a test runs alone: the annotations of
// others' pods would ask for sidecars.
func installAdmission(t *testing.T, args ...string) {
	t.Helper()
	gateway(t, append([]string{"admission", "install"}, args...)...)
	t.Cleanup(func() {
		if out := runCommand(context.Background(), t, "", "kubectl-gateway", "admission", "remove"); out.code != 0 {
			t.Errorf("removing the policy: %s", out.stderr)
		}
		// The server forgets it a moment later, and the next test is to meet its own.
		awaitNoSidecars(t, "default", asking(podSpec("a", node1), "true"))
	})
}

// asking is a pod that asks for a gateway.
func asking(spec *corev1.Pod, value string) *corev1.Pod {
	spec.Annotations = map[string]string{annotation: value}
	return spec
}

// tried returns a pod as the server would create it.
func tried(t *testing.T, ns string, spec *corev1.Pod) corev1.Pod {
	t.Helper()
	out := runCommand(context.Background(), t, mustYAML(t, spec), "kubectl", "-n", ns, "create", "-f", "-", "--dry-run=server", "-o", "json")
	if out.code != 0 {
		t.Fatalf("trying to create a pod: %s", out.stderr)
	}
	return parse[corev1.Pod](t, out.stdout)
}

// initNames returns the names of a pod's init containers.
func initNames(object *corev1.Pod) string {
	var names []string
	for _, c := range object.Spec.InitContainers {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

// awaitSidecars waits until the server gives a pod like spec a sidecar, and nothing else before its containers.
func awaitSidecars(t *testing.T, what, ns string, spec *corev1.Pod) {
	t.Helper()
	awaitInit(t, what, ns, spec, "kube-gateway")
}

// awaitNoSidecars waits until the policy is gone, which has given a pod of ns a gateway.
func awaitNoSidecars(t *testing.T, ns string, spec *corev1.Pod) {
	t.Helper()
	awaitInit(t, "the policy is gone", ns, spec, "")
}

// awaitInit waits until a pod of ns is created with these init containers.
func awaitInit(t *testing.T, what, ns string, spec *corev1.Pod, want string) {
	t.Helper()
	eventually(t, what, func() error {
		if object := tried(t, ns, spec); initNames(&object) != want {
			return fmt.Errorf("init containers %q", initNames(&object))
		}
		return nil
	})
}

// sidecar returns the status of a pod's sidecar, which is zero before there is one.
func sidecar(object *corev1.Pod) corev1.ContainerStatus {
	for _, s := range object.Status.InitContainerStatuses {
		if s.Name == "kube-gateway" {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

// TestAdmissionPolicy looks at which pods the policy changes, and how.
func TestAdmissionPolicy(t *testing.T) {
	ns := namespace(t)
	if out := tryGateway(t, "admission", "show"); out.code != 1 {
		t.Errorf("nothing is installed: exit %d, %s", out.code, out.stdout)
	}
	installAdmission(t, "--requests=cpu=1m,memory=16Mi", "--limits=memory=256Mi")
	if out := tryGateway(t, "admission", "diff", "--requests=cpu=1m,memory=16Mi", "--limits=memory=256Mi"); out.code != 0 || out.stdout != "" {
		t.Errorf("behind the installation there is a difference: exit %d\n%s%s", out.code, out.stdout, out.stderr)
	}
	if out := tryGateway(t, "admission", "diff", "--mode=permissive"); out.code != 1 || !strings.Contains(out.stdout, "+  failurePolicy: Ignore") {
		t.Errorf("what would change: exit %d\n%s%s", out.code, out.stdout, out.stderr)
	}
	if out := gateway(t, "admission", "show"); !strings.Contains(out.stdout, "strict") {
		t.Errorf("show says %s", out.stdout)
	}
	// The binding comes into force a moment later.
	awaitSidecars(t, "the policy is in force", ns, asking(podSpec("a", node1), "true"))

	withInit := asking(podSpec("a", node1), "true")
	withInit.Spec.InitContainers = []corev1.Container{{Name: "first", Image: appImage, Command: []string{"/app"}}}
	once := tried(t, ns, withInit)
	again := *withInit
	again.Spec = once.Spec
	network := asking(podSpec("a", node1), "true")
	network.Spec.HostNetwork = true
	for _, c := range []struct {
		name, ns string
		spec     *corev1.Pod
		want     string
	}{
		{"in front of others", ns, withInit, "kube-gateway first"},
		{"once", ns, &again, "kube-gateway first"},
		{"the pod says no", ns, asking(podSpec("a", node1), "false"), ""},
		{"nobody asks", ns, podSpec("a", node1), ""},
		{"the node's network", ns, network, ""},
		{"kube-system", "kube-system", asking(podSpec("a", node1), "true"), ""},
	} {
		if object := tried(t, c.ns, c.spec); initNames(&object) != c.want {
			t.Errorf("%s: init containers %q, want %q", c.name, initNames(&object), c.want)
		}
	}
	got := once.Spec.InitContainers[0]
	if got.RestartPolicy == nil || *got.RestartPolicy != corev1.ContainerRestartPolicyAlways || got.Resources.Limits.Memory().String() != "256Mi" ||
		got.SecurityContext.Privileged == nil || !*got.SecurityContext.Privileged || got.StartupProbe == nil {
		t.Errorf("the sidecar is %+v", got)
	}
	annotate(t, "default", "namespace/"+ns, "true")
	awaitSidecars(t, "the namespace asks", ns, podSpec("a", node1))
	if object := tried(t, ns, asking(podSpec("a", node1), "false")); initNames(&object) != "" {
		t.Errorf("the pod's own word does not count: %q", initNames(&object))
	}
	gateway(t, "admission", "remove")
	awaitNoSidecars(t, ns, podSpec("a", node1))
}

// TestAdmissionModes tries what annotations say of the mode with every policy: they tighten always, and loosen where that is
// allowed. What nobody can read is strict.
func TestAdmissionModes(t *testing.T) {
	ns := namespace(t)
	const key = annotation + "/mode"
	said := []string{"", "strict", " permissive\n", "permisive"}
	var pods string
	for i, mode := range said {
		spec := asking(podSpec(fmt.Sprintf("a-%d", i), node1), "true")
		if mode != "" {
			spec.Annotations[key] = mode
		}
		pods += "---\n" + mustYAML(t, spec)
	}
	// modes has a letter for each pod: the mode of its sidecar.
	modes := func(t *testing.T) (letters string) {
		out := runCommand(t.Context(), t, pods, "kubectl", "-n", ns, "create", "-f", "-", "--dry-run=server", "-o", "json")
		if out.code != 0 {
			t.Fatalf("trying to create pods: %s", out.stderr)
		}
		for decoder := json.NewDecoder(strings.NewReader(out.stdout)); decoder.More(); {
			var pod corev1.Pod
			if err := decoder.Decode(&pod); err != nil {
				t.Fatal(err)
			}
			if initNames(&pod) != "kube-gateway" {
				return "no sidecars"
			}
			c := pod.Spec.InitContainers[0]
			config := parse[api.Config](t, c.Env[0].Value)
			waits := !strings.Contains(strings.Join(c.StartupProbe.Exec.Command, " "), "--pass-after=")
			if strict := config.Mode == api.Strict; strict != waits || strict != (config.OnFailure == api.FailClosed) {
				t.Errorf("mode %s with on-failure %s, and the probe %q", config.Mode, config.OnFailure, c.StartupProbe.Exec.Command)
			}
			letters += string(config.Mode[:1])
		}
		return letters
	}
	// By what the namespace says, in the order of said.
	for flags, want := range map[string][4]string{
		"--mode=strict":                              {"ssss", "ssss", "ssss", "ssss"},
		"--mode=strict --annotations=namespaces":     {"ssss", "ssss", "psps", "ssss"},
		"--mode=strict --annotations=all":            {"ssps", "ssps", "psps", "ssps"},
		"--mode=permissive":                          {"psps", "ssss", "psps", "ssss"},
		"--mode=permissive --annotations=namespaces": {"psps", "ssss", "psps", "ssss"},
		"--mode=permissive --annotations=all":        {"psps", "ssps", "psps", "ssps"},
	} {
		t.Run(flags, func(t *testing.T) {
			installAdmission(t, strings.Fields(flags)...)
			if out := tryGateway(t, append([]string{"admission", "diff"}, strings.Fields(flags)...)...); out.code != 0 {
				t.Errorf("behind the installation there is a difference: exit %d\n%s%s", out.code, out.stdout, out.stderr)
			}
			for i, mode := range said {
				word := key + "=" + mode
				if mode == "" {
					word = key + "-"
				}
				kubectl(t, "annotate", "--overwrite", "namespace/"+ns, word)
				// The server knows the policy and the annotation a moment later.
				eventually(t, fmt.Sprintf("the namespace says %q", mode), func() error {
					if got := modes(t); got != want[i] {
						return fmt.Errorf("pods that say %q get %s, want %s", said, got, want[i])
					}
					return nil
				})
			}
		})
	}
}

// TestAdmissionWaits creates a strict pod where no watch is: it waits and says for what, enable helps it on, and
// its gateway is that of any pod from then on: it outlives its death, and ends when it is disabled.
func TestAdmissionWaits(t *testing.T) {
	ns := namespace(t)
	installAdmission(t)
	spec := asking(podSpec("a", node1), "true")
	awaitSidecars(t, "the policy is in force", ns, spec)
	apply(t, ns, mustYAML(t, spec))
	eventually(t, "describe says what the pod waits for", func() error {
		said := kubectl(t, "-n", ns, "describe", "pod", "a")
		if !strings.Contains(said, "waits for its first certificate") || !strings.Contains(said, "kubectl gateway watch") {
			return errors.New(said)
		}
		return nil
	})
	object := get[corev1.Pod](t, "-n", ns, "pod", "a")
	if len(object.Status.ContainerStatuses) != 1 || object.Status.ContainerStatuses[0].State.Waiting == nil || object.Status.Phase != corev1.PodPending {
		t.Errorf("the application does not wait: %+v", object.Status)
	}
	a := findPod(t, ns, "a")
	if s := a.status(); s.State != api.Uncertified || !s.Sidecar || s.Mode != api.Strict {
		t.Errorf("the gateway says %+v", s)
	}
	enable(t, nil, a)
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/a", "--timeout="+patience.String())
	enable(t, nil, a) // once more changes nothing
	if object = get[corev1.Pod](t, "-n", ns, "pod", "a"); len(object.Spec.EphemeralContainers) != 0 {
		t.Errorf("another gateway was added: %+v", object.Spec.EphemeralContainers)
	}

	// The kubelet starts it again: its settings are kept, and it waits for a certificate.
	gateway(t, "-n", ns, "allow", "pod/a", "ns/"+ns+"/sa/*")
	killWhole(t, a)
	eventually(t, "the gateway is started again", func() error {
		object := get[corev1.Pod](t, "-n", ns, "pod", "a")
		if s := sidecar(&object); s.RestartCount != 1 || s.State.Running == nil {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	b := startPods(t, ns, podSpec("b", node2))[0]
	if r := a.app("talk", b.addr(portEcho), "canary"); r.Error == "" {
		t.Error("without its gateway the strict pod is open")
	}
	enable(t, []string{"--mode=strict"}, a, b)
	if s := a.status(); s.State != api.Ready || len(s.Allow) != 1 {
		t.Errorf("behind its restart the gateway says %+v", s)
	}
	a.talk(b.addr(portEcho), "canary")
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/a", "--timeout="+patience.String())

	if out := gateway(t, "-n", ns, "disable", "pod/a"); !strings.Contains(out.stdout+out.stderr, "stays until the pod is replaced") {
		t.Errorf("disable says %s%s", out.stdout, out.stderr)
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/a", "--timeout="+patience.String())
	if out := gateway(t, "-n", ns, "status", "pod/a"); !strings.Contains(out.stdout, "disabled") {
		t.Errorf("status says %s", out.stdout)
	}
	if out := gateway(t, "-n", ns, "disable", "pod/a"); !strings.Contains(out.stdout+out.stderr, "already disabled") {
		t.Errorf("disable again says %s%s", out.stdout, out.stderr)
	}
	plain := startPods(t, ns, podSpec("plain", node2))[0]
	a.talk(plain.addr(portEcho), "in plaintext")
	enable(t, nil, a)
	if object = get[corev1.Pod](t, "-n", ns, "pod", "a"); len(object.Spec.EphemeralContainers) != 1 {
		t.Errorf("%d gateways were added to a pod whose sidecar was disabled", len(object.Spec.EphemeralContainers))
	}
}

// TestSidecarIsUpgraded: an ephemeral container takes over with its settings, and the sidecar is idle.
func TestSidecarIsUpgraded(t *testing.T) {
	const version = "v0.9.5"
	image := gatewayImage(t, topDir(t), version)
	ns := namespace(t)
	installAdmission(t)
	spec := asking(podSpec("a", node1), "true")
	awaitSidecars(t, "the policy is in force", ns, spec)
	apply(t, ns, mustYAML(t, spec))
	a, b := findPod(t, ns, "a"), startPods(t, ns, podSpec("b", node2))[0]
	enable(t, []string{"--mode=strict"}, a, b)
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/a", "--timeout="+patience.String())
	gateway(t, "-n", ns, "allow", "pod/a", "ns/"+ns+"/sa/*")
	tryVerbs(t, a, b)
	l := startLoadWith(a, []string{shortLife}, b.addr(portTraffic))
	upgrade(t, []string{"--image=" + image}, a)
	l.more(10)
	l.stopClean(b)
	if s := a.status(); s.Version != version || s.Sidecar || s.State != api.Ready || s.Mode != api.Strict || len(s.Allow) != 1 {
		t.Errorf("behind an upgrade the gateway says %+v", s)
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/a", "--timeout="+patience.String())
	gateway(t, "-n", ns, "disable", "pod/a")
	a.talk(startPods(t, ns, podSpec("plain", node2))[0].addr(portEcho), "in plaintext")
}

// tryVerbs has verbs look at a strict pod with a sidecar, and change it.
func tryVerbs(t *testing.T, a, b *pod) {
	t.Helper()
	ns := a.namespace
	gateway(t, "-n", ns, "mode", a.String(), "permissive")
	if s := a.status(); s.Mode != api.Permissive {
		t.Errorf("mode: the gateway says %+v", s)
	}
	gateway(t, "-n", ns, "mode", a.String(), "strict")
	before := a.status().Cert.Serial
	gateway(t, "-n", ns, "rotate", a.String())
	if s := a.status(); s.Mode != api.Strict || s.Cert.Serial == before {
		t.Errorf("rotate: the gateway says %+v", s)
	}
	gateway(t, "-n", ns, "check", a.String())
	if r, code := verified(t, "-n", ns, "verify", a.String(), b.String()); code != 0 {
		t.Errorf("verify: exit %d, %+v", code, r)
	}
	eventually(t, "tail shows a connection of a sidecar", func() error {
		if out := gateway(t, "-n", ns, "tail", a.String(), "--no-follow"); !strings.Contains(out.stdout, " encrypted ") {
			return errors.New(out.stdout)
		}
		return nil
	})
}

// firstWords is a pod that connects to address from the first moment of its init container and of its application.
func firstWords(name, node, address string) *corev1.Pod {
	spec := podSpec(name, node)
	app := &spec.Spec.Containers[0]
	spec.Spec.InitContainers = []corev1.Container{{Name: "init", Image: app.Image, ImagePullPolicy: app.ImagePullPolicy,
		Command: []string{"/app", "talk", address, "canary-init"}}}
	app.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
		Exec: &corev1.ExecAction{Command: []string{"/app", "talk", address, "canary-main"}}}}
	return spec
}

// graceful has a pod end as it does in production: Services and clients forget it before its application ends.
func graceful(spec *corev1.Pod) *corev1.Pod {
	spec.Spec.TerminationGracePeriodSeconds = new(int64(60))
	app := &spec.Spec.Containers[0]
	app.Lifecycle.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 10}}
	app.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(portHTTP)}}}
	return spec
}

// TestBornEncrypted has a watch certify the pods of a Deployment as they are created: not one packet of theirs is
// plaintext, and no request fails while a rollout replaces all of them. A Job with a sidecar completes.
func TestBornEncrypted(t *testing.T) {
	ns := namespace(t)
	installAdmission(t)
	annotate(t, "default", "namespace/"+ns, "true")
	awaitSidecars(t, "the policy is in force", ns, podSpec("a", node1))
	startWatch(t, "-n", ns)
	pods := startPods(t, ns, podSpec("server", node2), podSpec("client", node2))
	server, client := pods[0], pods[1]
	wire := record(t)

	// In the cluster that the next test has to itself nothing of this one is about to end.
	t.Cleanup(func() {
		for _, what := range []string{"deploy,rs --all --cascade=orphan", "pods --all --grace-period=1"} {
			args := append([]string{"-n", ns, "delete"}, strings.Fields(what)...)
			if out := runCommand(context.Background(), t, "", "kubectl", args...); out.code != 0 {
				t.Errorf("kubectl delete %s: %s", what, out.stderr)
			}
		}
	})
	web := graceful(firstWords("web", node1, server.addr(portEcho)))
	start := time.Now()
	deploymentOf(t, ns, web, bornReplicas)
	t.Logf("%d pods with sidecars were ready after %v", bornReplicas, time.Since(start).Round(100*time.Millisecond))
	l := startLoadWith(client, []string{shortLife}, serviceOf(t, ns, "web"))
	old := podsOf(t, ns, "app=web")
	kubectl(t, "-n", ns, "rollout", "restart", "deploy/web")
	rolledOut(t, ns, "web")
	for _, p := range old {
		kubectl(t, "-n", ns, "wait", "--for=delete", p.String(), "--timeout="+patience.String())
	}
	l.more(10)
	l.stopClean(podsOf(t, ns, "app=web")...)

	job := firstWords("job", node1, server.addr(portEcho))
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	job.Spec.Containers[0].Lifecycle = nil
	job.Spec.Containers[0].Command = []string{"/app", "talk", server.addr(portEcho), "canary-job"}
	none := int32(0)
	apply(t, ns, mustYAML(t, &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}, ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec: batchv1.JobSpec{BackoffLimit: &none, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: job.Labels}, Spec: job.Spec}},
	}))
	kubectl(t, "-n", ns, "wait", "--for=condition=Complete", "job/job", "--timeout="+patience.String())

	wire.stop()
	if wire.contains("canary-") {
		t.Error("a new pod spoke plaintext")
	}
	if n := wire.count(fmt.Sprintf("tcp and tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack = 0 and dst host %s and dst port %d", server.ips[0], portEcho)); n != 0 {
		t.Errorf("%d connections of new pods went past their gateways", n)
	}
	if wire.count(tlsData) == 0 {
		t.Error("there is no TLS on the wire")
	}
	// Each pod of both generations, and the Job, spoke twice.
	server.traffic("the first words of all pods arrived encrypted", func(tr api.Traffic) bool {
		return tr.Inbound.Encrypted >= 2*(2*bornReplicas+1) && tr.Inbound.Plaintext == 0
	})
	client.traffic("nothing went in plaintext", func(tr api.Traffic) bool { return tr.Outbound.Encrypted > 0 && tr.Outbound.Plaintext == 0 })
	for _, p := range podsOf(t, ns, "app=web") {
		if object := get[corev1.Pod](t, "-n", ns, "pod", p.name); len(object.Spec.EphemeralContainers) != 0 {
			t.Errorf("%s got another gateway", p)
		}
	}
}
