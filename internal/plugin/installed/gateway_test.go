package installed

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func ephemeral(name, image, config string) corev1.EphemeralContainer {
	c := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: image}}
	if config != "" {
		c.Env = []corev1.EnvVar{{Name: api.EnvConfig, Value: config}}
	}
	return c
}

// withGateway is a pod whose container kube-gateway is in the given state.
func withGateway(state corev1.ContainerState) *corev1.Pod {
	pod := fakecluster.NewPod("p")
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{*Supervisor("kube-gateway", "gateway:v1", corev1.PullIfNotPresent, "{}")}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: state}}
	return pod
}

func TestGatewaysInOrderWithTheirState(t *testing.T) {
	start := metav1.NewTime(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	end := metav1.NewTime(start.Add(time.Minute))
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{
			ephemeral("kube-gateway-10", "img:4", "{}"),
			ephemeral("kube-gateway", "img:1", "{}"),
			ephemeral("debugger-x", "busybox", ""),
			ephemeral("kube-gateway-3", "someone-elses", ""),
			ephemeral("kube-gateway-2", "img:2", "{}"),
			ephemeral("kube-gateway-02", "imposter", "{}"),
			ephemeral("kube-gateway-4", "img:3", "{}"),
		}},
		Status: corev1.PodStatus{EphemeralContainerStatuses: []corev1.ContainerStatus{
			{Name: "kube-gateway", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 2, Reason: "Error", Message: "no cgroup\n", StartedAt: start, FinishedAt: end}}},
			{Name: "kube-gateway-2", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: start}}},
			{Name: "kube-gateway-4", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{
				Reason: "ErrImagePull", Message: "not found"}}},
		}},
	}
	want := []Gateway{
		{Name: "kube-gateway", Image: "img:1", Phase: Terminated, Reason: "Error", Message: "no cgroup",
			ExitCode: 2, StartedAt: start.Time, FinishedAt: end.Time},
		{Name: "kube-gateway-2", Image: "img:2", Phase: Running, StartedAt: start.Time},
		{Name: "kube-gateway-4", Image: "img:3", Phase: Waiting, Reason: "ErrImagePull", Message: "not found"},
		{Name: "kube-gateway-10", Image: "img:4", Phase: Waiting},
	}
	expect.Equal(t, "Gateways", want, Gateways(pod))
	if got, ok := Current(pod); !ok || got.Name != "kube-gateway-2" {
		t.Errorf("Current = %v, %v, not the one that runs", got, ok)
	}
	pod.Status.EphemeralContainerStatuses = nil
	if got, ok := Current(pod); !ok || got.Name != "kube-gateway-10" {
		t.Errorf("Current = %v, %v", got, ok)
	}
	if _, ok := Current(&corev1.Pod{}); ok {
		t.Error("a pod without gateways has a current one")
	}
}

func TestNextNameIsFree(t *testing.T) {
	for want, taken := range map[string][]string{
		"kube-gateway":   {"debugger", "kube-gateway-x", "kube-gateway-1", "kube-gateway-"},
		"kube-gateway-2": {"kube-gateway"},
		"kube-gateway-8": {"kube-gateway", "kube-gateway-7", "kube-gateway-2"},
	} {
		pod := &corev1.Pod{}
		for _, name := range taken {
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, ephemeral(name, "", ""))
		}
		if got := NextName(pod); got != want {
			t.Errorf("NextName beside %q = %q, want %q", taken, got, want)
		}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "kube-gateway"}}}}
	expect.Equal(t, "beside an ordinary container kube-gateway", "kube-gateway-2", NextName(pod))
}

func TestConfigOf(t *testing.T) {
	const text = `{"version":1,"pod":{"namespace":"ns","name":"p","uid":"u","serviceAccount":"default"},"podIPs":["10.0.0.1"],
		"trustDomain":"td","mode":"strict","onFailure":"closed","ranges":["10.0.0.0/8"]}`
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"},
		Spec: corev1.PodSpec{EphemeralContainers: []corev1.EphemeralContainer{
			ephemeral("kube-gateway", "img", text), ephemeral("plain", "img", ""), ephemeral("kube-gateway-2", "img", "{"),
		}}}
	config, err := ConfigOf(pod, "kube-gateway")
	if err != nil || config.Mode != api.Strict || config.PodIPs[0] != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("ConfigOf = %+v, %v", config, err)
	}
	for name, want := range map[string]string{"plain": "not a gateway", "absent": "no ephemeral container", "kube-gateway-2": "configuration"} {
		if _, err := ConfigOf(pod, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ConfigOf(%s) = %v, want an error with %q", name, err, want)
		}
	}
}

func TestDisabledIsAnEndOnPurpose(t *testing.T) {
	for name, test := range map[string]struct {
		state corev1.ContainerState
		want  bool
	}{
		"disabled":           {fakecluster.Terminated(0, "disabled"), true},
		"disabled, new line": {fakecluster.Terminated(0, "disabled\n"), true},
		"handed over":        {fakecluster.Terminated(0, api.HandedOverMessage), true},
		"crashed saying so":  {fakecluster.Terminated(137, "disabled"), false},
		"ended silently":     {fakecluster.Terminated(0, ""), false},
		"ended otherwise":    {fakecluster.Terminated(0, "the application has ended"), false},
		"running":            {fakecluster.Running(nil, nil), false},
		"waiting":            {fakecluster.Waiting("Disabled", "disabled"), false},
	} {
		var gateway Gateway
		gateway.observe(test.state)
		if gateway.Phase == "" {
			gateway.Phase = Waiting
		}
		expect.Equal(t, name, test.want, gateway.Disabled())
	}
}

// TestLastWordsAreNotTheLog: of a gateway that was killed the kubelet shows the
// end of its log.
func TestLastWordsAreNotTheLog(t *testing.T) {
	const lines = `ceived":6,"duration":0.1}` + "\n" + `{"time":"2030-01-02T03:04:05Z","level":"INFO","msg":"connection"}` + "\n"
	for message, want := range map[string]string{
		lines:                            "",
		lines + "fatal error: no memory": "fatal error: no memory",
		"error: no cgroup\nhint: look\n": "error: no cgroup\nhint: look",
	} {
		var g Gateway
		g.observe(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Message: message}})
		expect.Equal(t, message, want, g.Message)
	}
}

// TestForgottenGateway: the kubelet cannot start the container of a disabled gateway again that the
// runtime has forgotten, because its Secret is gone. The gateway is disabled all the same.
func TestForgottenGateway(t *testing.T) {
	disabled, killed := fakecluster.Terminated(0, api.DisabledMessage), fakecluster.Terminated(137, "")
	noSecret := fakecluster.Waiting("CreateContainerConfigError", `secret "s" not found`)
	for name, c := range map[string]struct {
		now, last corev1.ContainerState
		disabled  bool
		phase     Phase
	}{
		"disabled, forgotten":    {noSecret, disabled, true, Terminated},
		"killed, forgotten":      {noSecret, killed, false, Waiting},
		"new":                    {noSecret, corev1.ContainerState{}, false, Waiting},
		"disabled, starts again": {fakecluster.Running(nil, nil), disabled, false, Running},
		"disabled, died since":   {killed, disabled, false, Terminated},
	} {
		pod := withGateway(c.now)
		pod.Status.EphemeralContainerStatuses[0].LastTerminationState = c.last
		current, ok := Current(pod)
		if !ok || current.Disabled() != c.disabled || current.Phase != c.phase || current.Name != ContainerName {
			t.Errorf("%s: %+v", name, current)
		}
	}
}

func TestSuccession(t *testing.T) {
	running, pulls, ended := fakecluster.Running(nil, nil), fakecluster.Waiting("ErrImagePull", "no such tag"), fakecluster.Terminated(0, api.DisabledMessage)
	handedOver := fakecluster.Terminated(0, api.HandedOverMessage)
	const first, second, third = "kube-gateway", "kube-gateway-2", "kube-gateway-3"
	for name, test := range map[string]struct {
		// states are those of the gateways, replaces whose place each was to take.
		states                         []corev1.ContainerState
		replaces                       []string
		current, predecessor, starting string
	}{
		"alone":                          {[]corev1.ContainerState{running}, []string{""}, first, "", ""},
		"both run":                       {[]corev1.ContainerState{running, running}, []string{"", first}, second, first, ""},
		"the first has ended":            {[]corev1.ContainerState{ended, running}, []string{"", first}, second, "", ""},
		"the second starts":              {[]corev1.ContainerState{running, {}}, []string{"", first}, first, "", second},
		"the second cannot start":        {[]corev1.ContainerState{running, pulls}, []string{"", first}, first, "", second},
		"another try":                    {[]corev1.ContainerState{running, pulls, running}, []string{"", first, first}, third, first, second},
		"the first ended, none followed": {[]corev1.ContainerState{ended, pulls}, []string{"", first}, first, "", second},
		"forgotten after taking over":    {[]corev1.ContainerState{handedOver, {}}, []string{"", first}, second, "", second},
		"one after the other":            {[]corev1.ContainerState{ended, running, running}, []string{"", first, second}, third, second, ""},
		"of none":                        {[]corev1.ContainerState{running, running}, []string{"", "debugger"}, second, "", ""},
	} {
		pod := fakecluster.NewPod("p")
		for i, state := range test.states {
			fakecluster.AddGateway(pod, `{"replaces":"`+test.replaces[i]+`"}`, state)
		}
		current, _ := Current(pod)
		before, both := Predecessor(pod, current)
		starting, hopeful := Starting(pod, first)
		if current.Name != test.current || before.Name != test.predecessor || both != (test.predecessor != "") || starting.Name != test.starting {
			t.Errorf("%s: current %s, predecessor %s, starting %s", name, current.Name, before.Name, starting.Name)
		}
		if want := name == "the second starts" || name == "forgotten after taking over"; hopeful != want {
			t.Errorf("%s: hopeful %t", name, hopeful)
		}
	}
}
