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
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// containerdOf returns a client of the container runtime of a node, which it reaches through the
// files that the runtime sees.
func containerdOf(t *testing.T, node string) *http.Client {
	t.Helper()
	config := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), node, "containerd.toml")
	for _, dir := range must.Get(filepath.Glob("/proc/[0-9]*"))(t) {
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if words := strings.Split(string(command), "\x00"); filepath.Base(words[0]) != "containerd" || !strings.Contains(string(command), config) {
			continue
		}
		socket := filepath.Join(dir, "root/run/containerd/containerd.sock")
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
	t.Fatalf("containerd of %s is not found", node)
	return nil
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

// TestForgottenContainer removes the container of a gateway that was disabled from the runtime: the
// kubelet starts it again, and it ends as it did before. The next gateway is not disturbed.
func TestForgottenContainer(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--delivery=csr", "--mode=strict"}, a, b)
	startsAgain := func(name string) {
		t.Helper()
		before := gatewayContainer(t, a, name)
		forget(t, node1, before.ContainerID)
		eventually(t, "the kubelet starts the container again, and it ends", func() error {
			s := gatewayContainer(t, a, name)
			if ended := s.State.Terminated; s.ContainerID == before.ContainerID || ended == nil || ended.ExitCode != 0 || ended.Message != api.DisabledMessage {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
	}
	gateway(t, "-n", ns, "disable", a.String())
	startsAgain("kube-gateway")
	if out := gateway(t, "-n", ns, "status", a.String()); !strings.Contains(out.stdout, "disabled") {
		t.Errorf("status: %s", out.stdout)
	}

	enable(t, []string{"--delivery=csr", "--mode=strict"}, a)
	startsAgain("kube-gateway")
	a.talk(b.addr(portEcho), "hello")
	if s := a.status(); s.State != api.Ready || s.Traffic.Outbound.Encrypted != 1 {
		t.Errorf("%s, %+v", s.State, s.Traffic.Outbound)
	}
}

// TestRestartAllContainers: the kubelet restarts a pod in place, all containers but the ephemeral
// ones. The gateway goes on, and carries the traffic of the new containers.
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
	if after := gatewayContainer(t, a, "kube-gateway"); after.ContainerID != before.ContainerID || after.State.Running == nil {
		t.Errorf("the gateway's container was %+v, and is %+v", before, after)
	}
	if !encrypted(t, a, b) {
		t.Error("the restarted pod speaks plaintext")
	}
	if s := a.status(); s.State != api.Ready || s.Traffic.Outbound.Encrypted < 2 || s.Traffic.Outbound.Plaintext != 0 {
		t.Errorf("%s, %+v", s.State, s.Traffic.Outbound)
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
