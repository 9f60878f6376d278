//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

const (
	policyManifest = "../../examples/admission-policy.yaml"
	// levelLabel is what the policy goes by, and enforceLabel what Pod Security does.
	levelLabel   = "kubectl-gateway.github.io/pod-security"
	enforceLabel = "pod-security.kubernetes.io/enforce"
)

// clientOf returns a client of the API server for a user, "" for an administrator.
func clientOf(t *testing.T, user string) kubernetes.Interface {
	t.Helper()
	config := must.Get(clientcmd.BuildConfigFromFlags("", os.Getenv(clientcmd.RecommendedConfigPathEnvVar)))(t)
	config.QPS, config.Burst = 100, 100
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	return must.Get(kubernetes.NewForConfig(config))(t)
}

// label sets labels of a namespace.
func label(t *testing.T, ns string, labels ...string) {
	t.Helper()
	kubectl(t, append([]string{"label", "namespace", ns, "--overwrite"}, labels...)...)
}

// guard applies the example of a policy as its first lines say, for a namespace, and waits until it is in
// force. It ends with the test.
func guard(t *testing.T, ns string) {
	t.Helper()
	atEnd(t, "delete", "-f", policyManifest, "--ignore-not-found")
	text := string(must.Get(os.ReadFile(policyManifest))(t))
	commands := regexp.MustCompile(`(?m)^#   (kubectl .*)$`).FindAllStringSubmatch(text, -1)
	if len(commands) != 3 {
		t.Fatalf("%s has %d commands", policyManifest, len(commands))
	}
	for _, c := range commands {
		shell(t, strings.NewReplacer("admission-policy.yaml", policyManifest, "namespace shop", "namespace "+ns).Replace(c[1]))
	}
	c := clientOf(t, "")
	eventually(t, "the policy is in force", func() error {
		pod := restricted("probe", node1)
		pod.Spec.Containers[0].SecurityContext.Privileged = new(true)
		pod.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil
		return refused(tryPod(t, c, ns, pod), "kube-gateway-pods", "baseline: privileged containers")
	})
}

// tryPod has the server try to create a pod.
func tryPod(t *testing.T, c kubernetes.Interface, ns string, pod *corev1.Pod) error {
	_, err := c.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// refused returns why err is no refusal with all of words.
func refused(err error, words ...string) error {
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			return fmt.Errorf("%q is not in %v", word, err)
		}
	}
	return nil
}

// TestPodPolicy runs through a gateway's life in a namespace whose policy admits nothing privileged
// but gateways. It runs alone, because a part of the policy is about all namespaces.
func TestPodPolicy(t *testing.T) {
	ns := namespace(t)
	older := podSpec("older", node2)
	older.Spec.HostNetwork, older.Spec.Containers[0].Command = true, []string{"/app", "sleep"}
	sidecar := podSpec("sidecar", node2)
	sidecar.Spec.InitContainers = []corev1.Container{{Name: installed.ContainerName, Image: sidecar.Spec.Containers[0].Image, Command: []string{"/app", "sleep"},
		RestartPolicy: new(corev1.ContainerRestartPolicyAlways), SecurityContext: &corev1.SecurityContext{Privileged: new(true)}}}
	apply(t, ns, mustYAML(t, older), mustYAML(t, sidecar))
	guard(t, ns)
	pods := startPods(t, ns, restricted("a", node1), restricted("b", node2))
	a, b := pods[0], pods[1]
	for _, name := range []string{"kube-gateway-pods", "kube-gateway-exec"} {
		eventually(t, "the server has checked the types of "+name, func() error {
			policy := get[admissionv1.ValidatingAdmissionPolicy](t, "validatingadmissionpolicy", name)
			if policy.Status.TypeChecking == nil {
				return fmt.Errorf("%+v", policy.Status)
			}
			for _, w := range policy.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s of %s: %s", w.FieldRef, name, w.Warning)
			}
			return nil
		})
	}

	enable(t, []string{"--delivery=secret"}, a)
	enable(t, []string{"--delivery=csr", "--mode=strict", "--on-failure=closed", "--metrics-addr=:18445"}, b)
	a.talk(b.addr(portEcho), "hello")
	gateway(t, "-n", ns, "rotate", a.String(), b.String())
	gateway(t, "-n", ns, "upgrade", a.String(), "--force")
	gateway(t, "-n", ns, "mode", b.String(), "permissive")
	gateway(t, "-n", ns, "verify", a.String(), b.String())
	if s := a.status(); s.State != "ready" {
		t.Errorf("status: %+v", s)
	}
	t.Run("containers", func(t *testing.T) { testGuardedContainers(t, a) })
	t.Run("pods", func(t *testing.T) { testGuardedPods(t, ns) })
	t.Run("images", func(t *testing.T) { testGuardedImages(t, ns, a.name) })
	t.Run("debug", func(t *testing.T) { testGuardedDebug(t, a) })
	t.Run("exec", func(t *testing.T) { testGuardedExec(t, a) })

	// A gateway that died is cleaned up after, and another image is named as the reason.
	killWhole(t, b)
	out := tryGateway(t, "-n", ns, "disable", b.String(), "--image=localhost/other:v1")
	if err := refused(fmt.Errorf("%s", out.stdout+out.stderr), "kube-gateway-pods", "kube-gateway-images", "--image"); out.code == 0 || err != nil {
		t.Errorf("exit %d: %v", out.code, err)
	}
	disable(t, nil, a, b)
	a.talk(b.addr(portEcho), "direct")
}

// testGuardedImages: a pod from before the label keeps what it may, but gets no other program for that. Everything else of it
// can be changed.
func testGuardedImages(t *testing.T, ns, good string) {
	c := clientOf(t, "")
	for _, test := range []struct{ pod, patch, want string }{
		{"older", `{"spec": {"containers": [{"name": "app", "image": "localhost/other:v1"}]}}`, "baseline: host namespaces"},
		{"sidecar", `{"spec": {"initContainers": [{"name": "kube-gateway", "image": "localhost/other:v1"}]}}`, "the name kube-gateway"},
		{"older", `{"metadata": {"labels": {"a": "b"}}}`, ""},
		{"sidecar", `{"metadata": {"annotations": {"a": "b"}}}`, ""},
		{good, `{"spec": {"containers": [{"name": "app", "image": "localhost/other:v1"}]}}`, ""},
	} {
		_, err := c.CoreV1().Pods(ns).Patch(t.Context(), test.pod, types.StrategicMergePatchType, []byte(test.patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if test.want != "" {
			err = refused(err, "kube-gateway-pods", test.want)
		}
		if err != nil {
			t.Errorf("%s of %s: %v", test.patch, test.pod, err)
		}
	}
}

// testGuardedContainers: of all that could be added to p, the gateway as the plugin makes it is admitted, and
// nothing that differs from it.
func testGuardedContainers(t *testing.T, p *pod) {
	c := clientOf(t, "")
	current := must.Get(c.CoreV1().Pods(p.namespace).Get(t.Context(), p.name, metav1.GetOptions{}))(t)
	try := func(change func(*corev1.EphemeralContainer)) error {
		container := current.Spec.EphemeralContainers[0].DeepCopy()
		container.Name = installed.NextName(current)
		change(container)
		_, err := installed.AddContainer(t.Context(), c, current, container, true)
		return err
	}
	older := must.Get(c.CoreV1().Pods(p.namespace).Get(t.Context(), "older", metav1.GetOptions{}))(t)
	_, err := installed.AddContainer(t.Context(), c, older, current.Spec.EphemeralContainers[0].DeepCopy(), true)
	if err := refused(err, "kube-gateway-pods", "the network of its node"); err != nil {
		t.Errorf("a pod with its node's network: %v", err)
	}
	for name, change := range map[string]func(*corev1.EphemeralContainer){
		"as it is": func(*corev1.EphemeralContainer) {},
		"tag":      func(c *corev1.EphemeralContainer) { c.Image = installed.ImageRepository + ":v1.2.3" },
		"digest": func(c *corev1.EphemeralContainer) {
			c.Image = installed.ImageRepository + "@sha256:" + strings.Repeat("a", 64)
		},
		"pulled":    func(c *corev1.EphemeralContainer) { c.ImagePullPolicy = corev1.PullAlways },
		"clean":     func(c *corev1.EphemeralContainer) { c.Args = []string{"clean"} },
		"next name": func(c *corev1.EphemeralContainer) { c.Name = "kube-gateway-17" },
	} {
		if err := try(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	env := func(name string, change func(*corev1.EnvVar)) func(*corev1.EphemeralContainer) {
		return func(c *corev1.EphemeralContainer) {
			for i := range c.Env {
				if c.Env[i].Name == name {
					change(&c.Env[i])
					return
				}
			}
			t.Fatalf("the gateway has no %s: %+v", name, c.Env)
		}
	}
	security := func(change func(*corev1.SecurityContext)) func(*corev1.EphemeralContainer) {
		return func(c *corev1.EphemeralContainer) { change(c.SecurityContext) }
	}
	const shape, image, user, environment = "neither mounts nor a command", "kube-gateway-images", "sets nothing else in its securityContext", "the gateway's environment"
	for name, c := range map[string]struct {
		words  string
		change func(*corev1.EphemeralContainer)
	}{
		"another name":      {"baseline: privileged containers", func(c *corev1.EphemeralContainer) { c.Name = "debugger" }},
		"a similar name":    {"baseline: privileged containers", func(c *corev1.EphemeralContainer) { c.Name = "kube-gateway-x" }},
		"another image":     {image, func(c *corev1.EphemeralContainer) { c.Image = appImage }},
		"a similar image":   {image, func(c *corev1.EphemeralContainer) { c.Image = installed.ImageRepository + "-evil:v1" }},
		"a deeper image":    {image, func(c *corev1.EphemeralContainer) { c.Image = installed.ImageRepository + "/evil:v1" }},
		"another registry":  {image, func(c *corev1.EphemeralContainer) { c.Image = "example.org/" + installed.ImageRepository + ":v1" }},
		"a command":         {shape, func(c *corev1.EphemeralContainer) { c.Command = []string{"/kube-gateway"} }},
		"another argument":  {"the gateway's arguments", func(c *corev1.EphemeralContainer) { c.Args = []string{"worker"} }},
		"one more argument": {"the gateway's arguments", func(c *corev1.EphemeralContainer) { c.Args = append(c.Args, "--material-fd=1") }},
		"no argument":       {"the gateway's arguments", func(c *corev1.EphemeralContainer) { c.Args = nil }},
		"a mount": {shape, func(c *corev1.EphemeralContainer) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: mountOf(current), MountPath: "/x"}}
		}},
		"a directory":        {shape, func(c *corev1.EphemeralContainer) { c.WorkingDir = "/proc" }},
		"a terminal":         {shape, func(c *corev1.EphemeralContainer) { c.Stdin, c.TTY = true, true }},
		"a target":           {shape, func(c *corev1.EphemeralContainer) { c.TargetContainerName = "app" }},
		"last words":         {"last words", func(c *corev1.EphemeralContainer) { c.TerminationMessagePath = "/kube-gateway" }},
		"a Secret of others": {environment, env("KUBE_GATEWAY_TLS_KEY", func(e *corev1.EnvVar) { e.ValueFrom.SecretKeyRef.Name = "database" })},
		"another key":        {environment, env("KUBE_GATEWAY_TLS_CERT", func(e *corev1.EnvVar) { e.ValueFrom.SecretKeyRef.Key = "tls.key" })},
		"a key in the open":  {environment, env("KUBE_GATEWAY_TLS_KEY", func(e *corev1.EnvVar) { e.ValueFrom, e.Value = nil, "key" })},
		"a configuration from a Secret": {environment, env("KUBE_GATEWAY_CONFIG", func(e *corev1.EnvVar) {
			e.Value, e.ValueFrom = "", &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "x", LocalObjectReference: corev1.LocalObjectReference{Name: "kube-gateway-x"}}}
		})},
		"an address of the pod": {environment, env("KUBE_GATEWAY_CA", func(e *corev1.EnvVar) {
			e.ValueFrom = &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}
		})},
		"another variable": {environment, func(c *corev1.EphemeralContainer) {
			c.Env = append(c.Env, corev1.EnvVar{Name: "GODEBUG", Value: "x=1"})
		}},
		"variables": {shape, func(c *corev1.EphemeralContainer) {
			c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}
		}},
		"another user":  {user, security(func(s *corev1.SecurityContext) { s.RunAsUser = new(int64(1000)) })},
		"another group": {user, security(func(s *corev1.SecurityContext) { s.RunAsGroup = new(int64(1000)) })},
		"no user":       {user, security(func(s *corev1.SecurityContext) { s.RunAsUser = nil })},
		"a capability": {user, security(func(s *corev1.SecurityContext) {
			s.Capabilities = &corev1.Capabilities{Add: []corev1.Capability{"BPF"}}
		})},
		"not privileged":    {user, security(func(s *corev1.SecurityContext) { s.Privileged = new(false) })},
		"no security":       {user, func(c *corev1.EphemeralContainer) { c.SecurityContext = nil }},
		"a read-only root":  {user, security(func(s *corev1.SecurityContext) { s.ReadOnlyRootFilesystem = new(true) })},
		"a debugger's root": {"restricted: runAsUser", debugger(func(c *corev1.EphemeralContainer) { c.SecurityContext.RunAsUser = new(int64(0)) })},
	} {
		if err := refused(try(c.change), "kube-gateway-pods", c.words); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who is no gateway is as Pod Security wants it.
	if err := try(debugger(func(*corev1.EphemeralContainer) {})); err != nil {
		t.Errorf("a debugger: %v", err)
	}
}

// debugger makes a container one of kubectl debug --profile=restricted, which is then changed.
func debugger(change func(*corev1.EphemeralContainer)) func(*corev1.EphemeralContainer) {
	return func(c *corev1.EphemeralContainer) {
		*c = corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debugger", Image: appImage, SecurityContext: restricted("x", node1).Spec.Containers[0].SecurityContext,
		}}
		change(c)
	}
}

// mountOf returns a volume of pod that can be mounted.
func mountOf(pod *corev1.Pod) string { return pod.Spec.Volumes[0].Name }

// testGuardedPods: of pods, the policy admits what Pod Security admits, at both levels.
func testGuardedPods(t *testing.T, guarded string) {
	c := clientOf(t, "")
	judged := namespace(t)
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	security := func(change func(*corev1.SecurityContext)) func(*corev1.Pod) {
		return container(func(c *corev1.Container) { change(c.SecurityContext) })
	}
	podSecurity := func(change func(*corev1.PodSecurityContext)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(p.Spec.SecurityContext) }
	}
	volume := func(source corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}} }
	}
	get := &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80), Host: "10.0.0.1"}
	changes := map[string]func(*corev1.Pod){
		"restricted": func(*corev1.Pod) {},
		"ordinary":   func(p *corev1.Pod) { *p = *podSpec("probe", node1) },
		"init": func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{*p.Spec.Containers[0].DeepCopy()}
			p.Spec.InitContainers[0].Name = "init"
			p.Spec.InitContainers[0].SecurityContext.Capabilities = nil
		},
		"hostNetwork":     func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"hostPID":         func(p *corev1.Pod) { p.Spec.HostPID = true },
		"hostIPC":         func(p *corev1.Pod) { p.Spec.HostIPC = true },
		"privileged":      security(func(s *corev1.SecurityContext) { s.Privileged, s.AllowPrivilegeEscalation = new(true), nil }),
		"capability":      security(func(s *corev1.SecurityContext) { s.Capabilities.Add = []corev1.Capability{"NET_ADMIN"} }),
		"own capability":  security(func(s *corev1.SecurityContext) { s.Capabilities.Add = []corev1.Capability{"CHOWN"} }),
		"bind":            security(func(s *corev1.SecurityContext) { s.Capabilities.Add = []corev1.Capability{"NET_BIND_SERVICE"} }),
		"no drop":         security(func(s *corev1.SecurityContext) { s.Capabilities.Drop = []corev1.Capability{"CHOWN"} }),
		"escalation":      security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = nil }),
		"root":            security(func(s *corev1.SecurityContext) { s.RunAsUser = new(int64(0)) }),
		"root by default": podSecurity(func(s *corev1.PodSecurityContext) { s.RunAsUser, s.RunAsNonRoot = new(int64(0)), nil }),
		"may be root":     security(func(s *corev1.SecurityContext) { s.RunAsNonRoot = new(false) }),
		"no user":         podSecurity(func(s *corev1.PodSecurityContext) { s.RunAsNonRoot = nil }),
		"own non-root": func(p *corev1.Pod) {
			p.Spec.SecurityContext.RunAsNonRoot, p.Spec.Containers[0].SecurityContext.RunAsNonRoot = nil, new(true)
		},
		"no seccomp": podSecurity(func(s *corev1.PodSecurityContext) { s.SeccompProfile = nil }),
		"unconfined": podSecurity(func(s *corev1.PodSecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		}),
		"unconfined container": security(func(s *corev1.SecurityContext) {
			s.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
		}),
		"AppArmor": security(func(s *corev1.SecurityContext) {
			s.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
		}),
		"AppArmor by annotation": func(p *corev1.Pod) {
			p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/app": "unconfined"}
		},
		"AppArmor of the runtime": security(func(s *corev1.SecurityContext) {
			s.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
		}),
		"SELinux":      podSecurity(func(s *corev1.PodSecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Type: "spc_t"} }),
		"SELinux user": security(func(s *corev1.SecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{User: "root"} }),
		"SELinux type": security(func(s *corev1.SecurityContext) { s.SELinuxOptions = &corev1.SELinuxOptions{Type: "container_t"} }),
		"sysctl":       podSecurity(func(s *corev1.PodSecurityContext) { s.Sysctls = []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}} }),
		"safe sysctl": podSecurity(func(s *corev1.PodSecurityContext) {
			s.Sysctls = []corev1.Sysctl{{Name: "net.ipv4.tcp_keepalive_time", Value: "60"}}
		}),
		"hostPort": container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}} }),
		"port":     container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 80}} }),
		"probe of a host": container(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}
		}),
		"hook of a host": container(func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: get}}
		}),
		"probe": container(func(c *corev1.Container) {
			c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: get.Port}}}
		}),
		"hostPath": volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}),
		"emptyDir": volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
		"nfs":      volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "a", Path: "/"}}),
	}
	admitted := map[string]int{}
	for _, level := range []string{"restricted", "baseline"} {
		label(t, guarded, levelLabel+"="+level)
		label(t, judged, enforceLabel+"="+level)
		ordinary := podSpec("probe", node1)
		eventually(t, "the policy goes by the level "+level, func() error {
			err := tryPod(t, c, guarded, ordinary)
			if other := tryPod(t, c, judged, ordinary); (err == nil) != (level == "baseline") || (other == nil) != (level == "baseline") {
				return fmt.Errorf("%v, Pod Security: %v", err, other)
			}
			return nil
		})
		for name, change := range changes {
			pod := restricted("probe", node1)
			change(pod)
			err, other := tryPod(t, c, guarded, pod), tryPod(t, c, judged, pod)
			if (err == nil) != (other == nil) {
				t.Errorf("%s, %s: %v, Pod Security: %v", level, name, err, other)
			}
			if err == nil {
				admitted[level]++
			} else if err := refused(err, "kube-gateway-pods"); err != nil {
				t.Errorf("%s, %s: %v", level, name, err)
			}
		}
	}
	if admitted["restricted"] == 0 || admitted["baseline"] <= admitted["restricted"] || admitted["baseline"] == len(changes) {
		t.Errorf("admitted of %d: %v", len(changes), admitted)
	}
	label(t, guarded, levelLabel+"=restricted")
	pod := restricted("probe", node1)
	eventually(t, "no other container can have the gateway's name", func() error {
		pod.Spec.Containers[0].Name = "kube-gateway"
		return refused(tryPod(t, c, guarded, pod), "the name kube-gateway")
	})
}

// testGuardedDebug: kubectl debug works as far as its profile is one for the namespace, for pods that have or
// had a gateway as for others.
func testGuardedDebug(t *testing.T, p *pod) {
	debug := func(profile string) output {
		return runCommand(t.Context(), t, "", "kubectl", "-n", p.namespace, "debug", p.name, "--profile="+profile,
			"--image="+appImage, "--image-pull-policy=Never", "--custom="+customDebug(t), "--", "/app", "sleep")
	}
	for _, profile := range []string{"sysadmin", "netadmin", "general"} {
		if out := debug(profile); out.code == 0 || !strings.Contains(out.stderr, "kube-gateway-pods") {
			t.Errorf("%s: exit %d, %s", profile, out.code, out.stderr)
		}
	}
	if out := debug("restricted"); out.code != 0 {
		t.Errorf("restricted: %s", out.stderr)
	}
}

// testGuardedExec: in a gateway's container its own commands can be executed, and nothing else. In others, all tests
// execute what they like.
func testGuardedExec(t *testing.T, p *pod) {
	current, _ := installed.Current(new(get[corev1.Pod](t, "-n", p.namespace, "pod", p.name)))
	try := func(command ...string) output {
		return runCommand(t.Context(), t, "", "kubectl", append([]string{"-n", p.namespace, "exec", p.name, "-c", current.Name, "--"}, command...)...)
	}
	for _, command := range []string{"/kube-gateway version", "/kube-gateway ctl status"} {
		if out := try(strings.Fields(command)...); out.code != 0 {
			t.Errorf("%s: %s", command, out.stderr)
		}
	}
	for command, words := range map[string]string{
		"/kube-gateway":                                   "only the gateway's own commands",
		"/kube-gateway supervise":                         "only the gateway's own commands",
		"/kube-gateway worker":                            "only the gateway's own commands",
		"/kube-gateway clean":                             "only the gateway's own commands",
		"/proc/1/root/bin/sh -c /kube-gateway ctl status": "only the gateway's own commands",
		"/kube-gateway ctl status --control-socket=/x":    "the gateway's control socket",
		"/kube-gateway ctl status -control-socket /x":     "the gateway's control socket",
		"/kube-gateway probe --socket=/x listen ::":       "the gateway's control socket",
	} {
		if out := try(strings.Fields(command)...); out.code == 0 || !strings.Contains(out.stderr, "kube-gateway-exec") || !strings.Contains(out.stderr, words) {
			t.Errorf("%s: exit %d, %s%s", command, out.code, out.stdout, out.stderr)
		}
	}
}

// TestPodSecurityExemption adds a gateway in a namespace that is restricted by Pod Security itself, by the one
// user that the API server's configuration exempts: the policy keeps that user from adding anything else.
func TestPodSecurityExemption(t *testing.T) {
	for _, name := range []string{"pod-security-exemption.yaml", "audit-policy.yaml"} {
		if example, used := must.Get(os.ReadFile("../../examples/"+name))(t), must.Get(os.ReadFile("../cluster/templates/"+name))(t); string(example) != string(used) {
			t.Errorf("the cluster has another %s", name)
		}
	}
	const user = "system:serviceaccount:kube-gateway:kube-gateway-watch"
	ns := namespace(t)
	guard(t, ns)
	label(t, ns, enforceLabel+"=restricted")
	kubectl(t, "create", "clusterrolebinding", ns, "--clusterrole=cluster-admin", "--user="+user)
	atEnd(t, "delete", "clusterrolebinding", ns)
	a := startPods(t, ns, restricted("a", node1))[0]
	if out := tryGateway(t, "-n", ns, "enable", a.String()); out.code == 0 || !strings.Contains(out.stdout+out.stderr, "violates PodSecurity") {
		t.Errorf("another user: exit %d, %s%s", out.code, out.stdout, out.stderr)
	}
	awaitKubectl(t, "the user may list nodes", "auth", "can-i", "list", "nodes", "--as="+user)
	gateway(t, "-n", ns, "enable", a.String(), "--as="+user)
	gateway(t, "-n", ns, "status", a.String())
	exempt := clientOf(t, user)
	pod := restricted("probe", node1)
	pod.Spec.HostNetwork = true
	if err := refused(tryPod(t, exempt, ns, pod), "kube-gateway-pods", "baseline: host namespaces"); err != nil {
		t.Errorf("the exempt user: %v", err)
	}
	if err := refused(tryPod(t, clientOf(t, ""), ns, pod), "violates PodSecurity"); err != nil {
		t.Errorf("another user: %v", err)
	}
	gateway(t, "-n", ns, "disable", a.String())
}

// event is what matters of a line of the API server's audit log.
type event struct {
	Verb, UserAgent, RequestURI string
	ObjectRef                   struct{ Resource, Namespace, Name, Subresource string }
	RequestObject               any
}

// audited returns the events of the plugin in a namespace, as "verb resource/subresource".
func audited(t *testing.T, ns string) map[string][]event {
	t.Helper()
	found := map[string][]event{}
	text := must.Get(os.ReadFile(filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), "control-plane", "audit.log")))(t)
	lines := strings.Split(string(text), "\n")
	for _, line := range lines[:len(lines)-1] {
		// The cluster's other tests make most of them.
		if !strings.Contains(line, ns) {
			continue
		}
		e := parse[event](t, line)
		if e.ObjectRef.Namespace != ns || !strings.HasPrefix(e.UserAgent, "kubectl-gateway/") {
			continue
		}
		what := strings.TrimSuffix(e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Subresource, "/")
		found[what] = append(found[what], e)
	}
	return found
}

// TestAuditLog finds in the API server's audit log what the page about security says of it.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	expect := func(verb string, events map[string]string) map[string][]event {
		t.Helper()
		var found map[string][]event
		eventually(t, "the events of "+verb, func() error {
			found = audited(t, ns)
			for what, uri := range events {
				if !slices.ContainsFunc(found[what], func(e event) bool { return strings.Contains(e.RequestURI, uri) }) {
					return fmt.Errorf("no %s with %q in %+v", what, uri, found[what])
				}
			}
			return nil
		})
		return found
	}
	enable(t, []string{"--delivery=secret"}, a)
	found := expect("enable", map[string]string{
		"create secrets": "/secrets", "delete secrets": "/secrets/kube-gateway-a-", "patch pods/ephemeralcontainers": "fieldManager=kubectl-gateway",
	})
	for _, e := range found["patch pods/ephemeralcontainers"] {
		if text := fmt.Sprint(e.RequestObject); !strings.Contains(text, installed.ImageRepository) || strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("the container in the log is %s", text)
		}
	}
	for _, e := range found["create secrets"] {
		if e.RequestObject != nil {
			t.Error("the log has a Secret")
		}
	}
	// What the page says of a gateway can be asked for as it says.
	page := string(must.Get(os.ReadFile("../../docs/SECURITY.md"))(t))
	commands := regexp.MustCompile("`kubectl (get pod POD -o jsonpath='[^']+')` \\|").FindAllStringSubmatch(page, -1)
	if len(commands) != 4 {
		t.Errorf("the page has %d commands", len(commands))
	}
	for _, c := range commands {
		out := runCommand(t.Context(), t, "kubectl -n "+ns+" "+strings.Replace(c[1], "POD", "a", 1), "sh", "-e")
		if out.code != 0 || out.stdout == "" && !strings.Contains(c[1], "annotations") {
			t.Errorf("%s: exit %d, %s%s", c[1], out.code, out.stdout, out.stderr)
		}
	}
	gateway(t, "-n", ns, "mode", a.String(), "strict")
	expect("mode", map[string]string{"get pods/exec": "command=ctl&command=mode&command=strict"})
	gateway(t, "-n", ns, "rotate", a.String())
	expect("rotate", map[string]string{"get pods/exec": "command=ctl&command=renew"})
	gateway(t, "-n", ns, "status", a.String())
	expect("status", map[string]string{"get pods/portforward": "/pods/a/portforward"})
	gateway(t, "-n", ns, "disable", a.String())
	found = expect("disable", map[string]string{"get pods/exec": "command=ctl&command=disable"})
	documented := []string{"create secrets", "delete secrets", "get pods/exec", "get pods/portforward", "patch pods/ephemeralcontainers"}
	for what := range found {
		if !slices.Contains(documented, what) {
			t.Errorf("%s is not documented", what)
		}
	}
}
