//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// daemonOf returns the process of a daemon of a node.
func daemonOf(t *testing.T, node, program string) int {
	t.Helper()
	// Its configuration is in a folder of the node.
	config := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), node) + "/"
	for _, dir := range must.Get(filepath.Glob("/proc/[0-9]*"))(t) {
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if words := strings.Split(string(command), "\x00"); filepath.Base(words[0]) == program && strings.Contains(string(command), config) {
			return must.Get(strconv.Atoi(filepath.Base(dir)))(t)
		}
	}
	t.Fatalf("%s of %s is not found", program, node)
	return 0
}

// filesOf returns the folder in which the files of a node are, as its container runtime sees them.
func filesOf(t *testing.T, node string) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/root", daemonOf(t, node, "containerd"))
}

// containerdOf returns a client of the container runtime of a node.
func containerdOf(t *testing.T, node string) *http.Client {
	t.Helper()
	socket := filepath.Join(filesOf(t, node), "run/containerd/containerd.sock")
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		Protocols: new(http.Protocols),
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// forget has the runtime of a node remove a container that has ended, by the one call of gRPC that
// this takes.
func forget(t *testing.T, node, containerID string) {
	t.Helper()
	_, id, _ := strings.Cut(containerID, "://")
	// RemoveContainerRequest has the ID as its field 1.
	message := append([]byte{1<<3 | 2, byte(len(id))}, id...)
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	request := must.Get(http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://containerd/runtime.v1.RuntimeService/RemoveContainer", bytes.NewReader(frame)))(t)
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	response := must.Get(containerdOf(t, node).Do(request))(t)
	defer response.Body.Close()
	must.Get(io.Copy(io.Discard, response.Body))(t)
	if status := response.Trailer.Get("Grpc-Status") + response.Header.Get("Grpc-Status"); status != "0" {
		t.Fatalf("removing container %s: %s %v %v", id, response.Status, response.Header, response.Trailer)
	}
}

// gatewayContainer returns the state of a gateway's container.
func gatewayContainer(t *testing.T, p *pod, name string) corev1.ContainerStatus {
	t.Helper()
	for _, s := range get[corev1.Pod](t, "-n", p.namespace, "pod", p.name).Status.EphemeralContainerStatuses {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("%s has no container %s", p, name)
	return corev1.ContainerStatus{}
}

// startsForgotten removes the container of a gateway of p that has ended from the runtime, and waits
// until the kubelet has started it again and it has ended with these last words.
func startsForgotten(t *testing.T, p *pod, name, words string) {
	t.Helper()
	before := gatewayContainer(t, p, name)
	forget(t, node1, before.ContainerID)
	eventually(t, "the kubelet starts the container again, and it ends", func() error {
		// It looks at a pod that has changed, and at others within minutes.
		kubectl(t, "-n", p.namespace, "annotate", "pod", p.name, fmt.Sprint("now=", time.Now().UnixNano()), "--overwrite")
		s := gatewayContainer(t, p, name)
		if ended := s.State.Terminated; s.ContainerID == before.ContainerID || ended == nil || (ended.ExitCode == 0) != (words == api.DisabledMessage) || !strings.Contains(ended.Message, words) {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// saysDisabled fails the test unless status calls the gateway of p disabled.
func saysDisabled(t *testing.T, p *pod) {
	t.Helper()
	if out := gateway(t, "-n", p.namespace, "status", p.String()); !strings.Contains(out.stdout, "disabled") {
		t.Errorf("status: %s", out.stdout)
	}
}

// TestForgottenContainer removes the container of a gateway that was disabled from the runtime: the
// kubelet starts it again, and it ends as it did before, also with the Secret that it came with. The
// next gateway is not disturbed, and ends likewise once it has died.
func TestForgottenContainer(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict", "--delivery=secret", "--keep-secret"}, a)
	enable(t, []string{"--mode=strict", "--delivery=csr"}, b)
	kept := secrets(t, ns)[0]
	kept.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
	kept.ResourceVersion, kept.UID = "", ""
	gateway(t, "-n", ns, "disable", a.String())
	noSecrets(t, ns)
	apply(t, ns, mustYAML(t, &kept))
	startsForgotten(t, a, "kube-gateway", api.DisabledMessage)
	saysDisabled(t, a)

	enable(t, []string{"--mode=strict", "--delivery=csr"}, a)
	startsForgotten(t, a, "kube-gateway", api.DisabledMessage)
	a.talk(b.addr(portEcho), "hello")
	if s := a.status(); s.State != api.Ready || s.Traffic.Outbound.Encrypted != 1 {
		t.Errorf("%s, %+v", s.State, s.Traffic.Outbound)
	}
	// One that has died does not come back either: the API server would refuse all that the kubelet says
	// of the pod.
	killWhole(t, a)
	eventually(t, "the kubelet sees the death", func() error {
		if s := gatewayContainer(t, a, "kube-gateway-2"); s.State.Terminated == nil {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	startsForgotten(t, a, "kube-gateway-2", "started its container again")
	checkSaysDead(t, a)
	enable(t, []string{"--mode=strict", "--delivery=csr"}, a)
	a.talk(b.addr(portEcho), "hello")
	gateway(t, "-n", ns, "disable", a.String())
	noSecrets(t, ns)
	startsForgotten(t, a, "kube-gateway-3", api.DisabledMessage)
	saysDisabled(t, a)
}

// TestForgottenContainerWithoutSecret is the same once the Secret is gone, and the kubelet, which
// remembers Secrets that cannot change, was started anew. It runs alone, because it kills the kubelet.
func TestForgottenContainerWithoutSecret(t *testing.T) {
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--delivery=secret"}, a, b)
	gateway(t, "-n", ns, "disable", a.String())
	noSecrets(t, ns)
	kill(t, daemonOf(t, node1, "kubelet"))
	startsForgotten(t, a, "kube-gateway", api.DisabledMessage)
	saysDisabled(t, a)
	enable(t, []string{"--delivery=secret"}, a)
	a.talk(b.addr(portEcho), "hello")
	if s := a.status(); s.State != api.Ready || s.Traffic.Outbound.Encrypted != 1 {
		t.Errorf("%s, %+v", s.State, s.Traffic.Outbound)
	}
}

// TestRestartAllContainers: the kubelet restarts a pod in place, all containers but the ephemeral
// ones. The gateway goes on, and carries the traffic of the new containers; one that has ended does
// not come back.
func TestRestartAllContainers(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	spec := podSpec("a", node1)
	never := corev1.ContainerRestartPolicyNever
	spec.Spec.Containers[0].RestartPolicy = &never
	spec.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{0}},
	}}
	other := spec.Spec.Containers[0]
	other.Name, other.RestartPolicy, other.RestartPolicyRules, other.Command = "other", nil, nil, []string{"/app", "sleep"}
	spec.Spec.Containers = append(spec.Spec.Containers, other)
	pods := startPods(t, ns, spec, podSpec("b", node2))
	a, b := pods[0], pods[1]
	enable(t, []string{"--mode=strict"}, a, b)
	a.talk(b.addr(portEcho), "before")
	before := gatewayContainer(t, a, "kube-gateway")
	running := func() map[string]string {
		ids := map[string]string{}
		for _, s := range get[corev1.Pod](t, "-n", ns, "pod", a.name).Status.ContainerStatuses {
			if s.State.Running != nil {
				ids[s.Name] = s.ContainerID
			}
		}
		return ids
	}
	restart := func() {
		t.Helper()
		old := running()
		a.exitApp()
		eventually(t, "all containers were restarted", func() error {
			for name, id := range old {
				if now := running()[name]; now == "" || now == id {
					return fmt.Errorf("%s is %q", name, now)
				}
			}
			return nil
		})
	}
	restart()
	if after := gatewayContainer(t, a, "kube-gateway"); after.ContainerID != before.ContainerID || after.State.Running == nil {
		t.Errorf("the gateway's container was %+v, and is %+v", before, after)
	}
	if !encrypted(t, a, b) {
		t.Error("the restarted pod speaks plaintext")
	}
	if s := a.status(); s.State != api.Ready || s.Traffic.Outbound.Encrypted < 2 || s.Traffic.Outbound.Plaintext != 0 {
		t.Errorf("%s, %+v", s.State, s.Traffic.Outbound)
	}
	// One that has ended stays so.
	gateway(t, "-n", ns, "mode", b.String(), "permissive")
	gateway(t, "-n", ns, "disable", a.String())
	restart()
	if s := gatewayContainer(t, a, "kube-gateway"); s.ContainerID != before.ContainerID || s.State.Terminated == nil || s.State.Terminated.Message != api.DisabledMessage {
		t.Errorf("the container of the gateway that has ended is %+v", s)
	}
	if encrypted(t, a, b) {
		t.Error("a gateway that was disabled encrypts")
	}
}

// restricted is a pod that Pod Security admits at its strictest level.
func restricted(name, node string) *corev1.Pod {
	spec := podSpec(name, node)
	yes, no, user := true, false, int64(1000)
	spec.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	spec.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	return spec
}

// TestDebugAfterDisable: Pod Security judges all containers of a pod, and the container of a
// disabled gateway stays in its list. It is in the way of further ephemeral containers once the
// namespace is restricted again.
func TestDebugAfterDisable(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, restricted("a", node1), restricted("other", node1))
	a, other := pods[0], pods[1]
	enable(t, nil, a)
	kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
	debug := func(p *pod) output {
		return runCommand(t.Context(), t, "", "kubectl", "-n", ns, "debug", p.name, "--profile=restricted", "--image="+appImage,
			"--image-pull-policy=Never", "--custom="+customDebug(t), "--", "/app", "sleep")
	}
	if out := debug(other); out.code != 0 {
		t.Fatalf("a pod that never had a gateway: %s", out.stderr)
	}
	// This needs no new container.
	gateway(t, "-n", ns, "disable", a.String())
	out := debug(a)
	for _, words := range []string{`violates PodSecurity "restricted`, `container "kube-gateway" must not set securityContext.privileged=true`} {
		if out.code == 0 || !strings.Contains(out.stderr, words) {
			t.Errorf("exit %d, %q is not in %s", out.code, words, out.stderr)
		}
	}
}

// customDebug writes what makes the image's root an ordinary user, and returns the file's path.
func customDebug(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "custom.json")
	must.Do(t, os.WriteFile(path, []byte(`{"securityContext":{"runAsUser":1000}}`), 0o600))
	return path
}

// TestClosedInARestrictedNamespace: a gateway that fails closed died, and its namespace admits no
// privileged container any more. The errors say what that means, and their advice helps.
func TestClosedInARestrictedNamespace(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--on-failure=closed"}, a)
	killWhole(t, a)
	if r := a.app("talk", b.addr(portEcho), "x"); !r.NotPermitted {
		t.Errorf("the pod is not closed: %+v", r)
	}
	kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=restricted")
	checkSaysDead(t, a)
	for _, verb := range []string{"disable", "enable"} {
		out := tryGateway(t, "-n", ns, verb, a.String())
		for _, words := range []string{"kube-gateway died and fails closed", "violates PodSecurity", "kubectl label namespace " + ns, "kubectl delete pod a -n " + ns} {
			if text := out.stdout + out.stderr; out.code == 0 || !strings.Contains(text, words) {
				t.Errorf("%s: exit %d, %q is not in %s", verb, out.code, words, text)
			}
		}
	}
	kubectl(t, "label", "namespace", ns, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
	gateway(t, "-n", ns, "disable", a.String())
	a.talk(b.addr(portEcho), "open again")
}
