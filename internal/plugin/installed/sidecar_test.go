package installed

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// born is a pod whose sidecar is in a state, and was in another one before its container was started again.
func born(t *testing.T, now, before corev1.ContainerState) *corev1.Pod {
	t.Helper()
	pod := fakecluster.NewPod("p")
	container := must.Get(Sidecar("gateway:v1", corev1.PullIfNotPresent, &api.Config{TrustDomain: "td", Mode: api.Strict, OnFailure: api.FailClosed},
		[]string{"aa"}, 0))(t)
	pod.Spec.InitContainers = []corev1.Container{{Name: "job", Image: "job"}, *container}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: now, LastTerminationState: before}}
	return pod
}

// Words for the states of containers.
func up() corev1.ContainerState       { return fakecluster.Running(nil, nil) }
func disabled() corev1.ContainerState { return fakecluster.Terminated(0, api.DisabledMessage) }
func handed() corev1.ContainerState   { return fakecluster.Terminated(0, api.HandedOverMessage) }
func killed() corev1.ContainerState   { return fakecluster.Terminated(137, "") }

// TestSidecarsAreGateways in every state of their containers, which the kubelet starts again.
func TestSidecarsAreGateways(t *testing.T) {
	for _, c := range []struct {
		name        string
		now, before corev1.ContainerState
		phase       Phase
		disabled    bool
	}{
		{"not started", corev1.ContainerState{}, corev1.ContainerState{}, Waiting, false},
		{"runs", up(), corev1.ContainerState{}, Running, false},
		{"was killed and runs again", up(), killed(), Running, false},
		{"was killed", killed(), corev1.ContainerState{}, Terminated, false},
		{"was disabled", disabled(), corev1.ContainerState{}, Terminated, true},
		{"was disabled and idles", up(), disabled(), Terminated, true},
		{"has handed over and idles", up(), handed(), Terminated, true},
		{"was disabled and waits to idle", fakecluster.Waiting("CrashLoopBackOff", ""), disabled(), Terminated, true},
		{"died twice and waits", fakecluster.Waiting("CrashLoopBackOff", ""), killed(), Waiting, false},
	} {
		all := Gateways(born(t, c.now, c.before))
		if len(all) != 1 || !all[0].Sidecar || all[0].Phase != c.phase || all[0].Disabled() != c.disabled {
			t.Errorf("%s: %+v", c.name, all)
		}
	}
}

// TestSidecarAndSuccessor: an ephemeral container follows a sidecar, and has another name.
func TestSidecarAndSuccessor(t *testing.T) {
	pod := born(t, up(), handed())
	expect.Equal(t, "name of the next one", "kube-gateway-2", NextName(pod))
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{ephemeral("kube-gateway-2", "gateway:v2", "{}")}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway-2", State: up()}}
	current, _ := Current(pod)
	expect.Equal(t, "current gateway", "kube-gateway-2", current.Name)
	if SidecarRuns(pod) {
		t.Error("the sidecar is not the pod's gateway any more")
	}
}

// TestConfigOfSidecar: the pod completes what was written before there was one.
func TestConfigOfSidecar(t *testing.T) {
	pod := born(t, up(), corev1.ContainerState{})
	config := must.Get(ConfigOf(pod, "kube-gateway"))(t)
	want := &api.Config{
		Version: api.ConfigVersion, TrustDomain: "td", Mode: api.Strict, OnFailure: api.FailClosed, Wire: api.WireAuto, Sidecar: true, Number: 1,
		Pod:    api.PodRef{Namespace: "shop", Name: "p", UID: "uid-p", ServiceAccount: "web", Node: "node-1"},
		PodIPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244:1::7")},
	}
	expect.Equal(t, "configuration", want, config)
	// The next sandbox has other addresses, and its gateway as well.
	pod.Status.PodIP, pod.Status.PodIPs = "10.244.1.8", nil
	if err := CheckAddresses(pod, "kube-gateway"); err != nil {
		t.Error(err)
	}
}

// TestStaticPodsHaveNoGateways, whatever their node says that it runs there: it is in any namespace that it likes.
func TestStaticPodsHaveNoGateways(t *testing.T) {
	pod := born(t, up(), corev1.ContainerState{})
	pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	if gateway, ok := Current(pod); ok {
		t.Errorf("%+v", gateway)
	}
}

// TestSidecarFailures: the kubelet starts a sidecar again, so that its death is no end.
func TestSidecarFailures(t *testing.T) {
	for name, c := range map[string]struct {
		now     corev1.ContainerState
		hopeful bool
	}{
		"killed": {killed(), true}, "disabled": {disabled(), false}, "runs": {up(), true},
	} {
		pod := born(t, c.now, corev1.ContainerState{})
		gateway, _ := Current(pod)
		expect.Equal(t, name+", hopeful", c.hopeful, Hopeful(pod, gateway))
	}
}

func TestSidecarWaits(t *testing.T) {
	for name, after := range map[string]time.Duration{"strict": 0, "permissive": time.Minute} {
		container := must.Get(Sidecar("gateway:v1", "", &api.Config{}, nil, after))(t)
		want := []string{"/kube-gateway", "ctl", "started", "--wait=5s"}
		if after > 0 {
			want = append(want, "--pass-after=1m0s")
		}
		expect.Equal(t, name+" probe", want, container.StartupProbe.Exec.Command)
	}
}
