package installed

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func TestFailure(t *testing.T) {
	for name, test := range map[string]struct {
		state  corev1.ContainerState
		want   string
		chance outlook
		hint   string
	}{
		"not seen":          {},
		"running":           {state: fakecluster.Running(nil, nil)},
		"creating":          {state: fakecluster.Waiting("ContainerCreating", "")},
		"initializing":      {state: fakecluster.Waiting("PodInitializing", "")},
		"pull":              {state: fakecluster.Waiting("ErrImagePull", "not found:\n no such tag"), want: "cannot start: ErrImagePull: not found: no such tag", hint: "--image"},
		"back-off":          {state: fakecluster.Waiting("ImagePullBackOff", "Back-off"), want: "ImagePullBackOff", hint: "--image"},
		"name":              {state: fakecluster.Waiting("InvalidImageName", ""), want: "cannot start: InvalidImageName", hint: "--image"},
		"never pull":        {state: fakecluster.Waiting("ErrImageNeverPull", "not present"), want: "ErrImageNeverPull: not present", hint: "load the image"},
		"config":            {state: fakecluster.Waiting("CreateContainerConfigError", "container has runAsNonRoot"), want: "runAsNonRoot", hint: "describe pod p -n shop"},
		"config, no Secret": {state: fakecluster.Waiting("CreateContainerConfigError", `secret "x" not found`), want: "not found", chance: doubtful, hint: "describe"},
		"config, slow Secret": {state: fakecluster.Waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
			want: "secret cache", chance: late, hint: "describe"},
		"config, unregistered": {state: fakecluster.Waiting("CreateContainerConfigError", `object "shop"/"x" not registered`), want: "not registered", chance: late, hint: "describe"},
		"config, Services": {state: fakecluster.Waiting("CreateContainerConfigError", "services have not yet been read at least once, cannot construct envvars"),
			want: "envvars", chance: late, hint: "describe"},
		"create":       {state: fakecluster.Waiting("CreateContainerError", "no such file"), want: "no such file", hint: "describe"},
		"create, slow": {state: fakecluster.Waiting("CreateContainerError", "context deadline exceeded"), want: "deadline", chance: late, hint: "describe"},
		"create, reserved": {state: fakecluster.Waiting("CreateContainerError", `failed to reserve container name "a": name "a" is reserved for "8b21"`),
			want: "is reserved for", chance: late, hint: "describe"},
		"create, CRI-O": {state: fakecluster.Waiting("CreateContainerError", "Kubelet may be retrying requests that are timing out in CRI-O due to system load: context deadline exceeded"),
			want: "system load", chance: late, hint: "describe"},
		"create, no runtime": {state: fakecluster.Waiting("CreateContainerError", `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix /run/containerd/containerd.sock: connect: connection refused"`),
			want: "Unavailable", chance: late, hint: "describe"},
		"run":       {state: fakecluster.Waiting("RunContainerError", "exec: x"), want: "exec: x", hint: "describe"},
		"run, slow": {state: fakecluster.Waiting("RunContainerError", "context deadline exceeded"), want: "deadline", chance: doubtful, hint: "describe"},
		"pull, rate": {state: fakecluster.Waiting("ErrImagePull", "unexpected status code https://r/v2/a/manifests/b: 429 Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit"),
			want: "toomanyrequests", chance: late, hint: "--image"},
		"pull, QPS":            {state: fakecluster.Waiting("ErrImagePull", "pull QPS exceeded"), want: "QPS", chance: late, hint: "--image"},
		"pull, denied":         {state: fakecluster.Waiting("ErrImagePull", "pull access denied, repository does not exist or may require authorization"), want: "denied", hint: "--image"},
		"back-off, cause":      {state: fakecluster.Waiting("ImagePullBackOff", `Back-off pulling image "a": ErrImagePull: net/http: TLS handshake timeout`), want: "TLS", chance: late, hint: "--image"},
		"registry unavailable": {state: fakecluster.Waiting("RegistryUnavailable", "image pull failed for a because the registry is unavailable: 503 Service Unavailable"), want: "503", chance: late, hint: "--image"},
		"ended":                {state: fakecluster.Terminated(1, "no cgroup2 here\nhint: mount it"), want: "ended with exit code 1: no cgroup2 here", hint: "mount it"},
		"ended, log":           {state: fakecluster.Terminated(2, "{\"a\":1}\npanic: x\n"), want: "ended with exit code 2: panic: x", hint: "kubectl logs p -c kube-gateway -n shop"},
		"ended, nothing":       {state: fakecluster.Terminated(137, ""), want: "exit code 137: Error", hint: "kubectl logs"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := withGateway(test.state)
			current, _ := Current(pod)
			chance, err := failure(pod, current)
			expect.Error(t, err, test.want)
			expect.Equal(t, "outlook", test.chance, chance)
			if !strings.Contains(api.Hint(err), test.hint) {
				t.Errorf("hint %q lacks %q", api.Hint(err), test.hint)
			}
		})
	}
}

// TestWhileClosed: the refusal of a container says more where a dead gateway keeps the pod closed.
func TestWhileClosed(t *testing.T) {
	refusal := explainPatch(apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "p", errors.New(`violates PodSecurity "restricted:latest"`)), "shop")
	type gateway struct {
		onFailure api.OnFailure
		state     corev1.ContainerState
	}
	dead, disabled := fakecluster.Terminated(137, ""), fakecluster.Terminated(0, api.DisabledMessage)
	for name, c := range map[string]struct {
		gateways []gateway
		err      error
		closed   string // the gateway that keeps the pod closed
	}{
		"no gateway":                         {nil, refusal, ""},
		"closed":                             {[]gateway{{api.FailClosed, dead}}, refusal, "kube-gateway"},
		"open":                               {[]gateway{{api.FailOpen, dead}}, refusal, ""},
		"disabled":                           {[]gateway{{api.FailClosed, disabled}}, refusal, ""},
		"closed, then open":                  {[]gateway{{api.FailClosed, dead}, {api.FailOpen, dead}}, refusal, "kube-gateway"},
		"closed, then one that never runs":   {[]gateway{{api.FailClosed, dead}, {api.FailOpen, fakecluster.Waiting("ErrImagePull", "")}}, refusal, "kube-gateway"},
		"closed, then one that never served": {[]gateway{{api.FailClosed, dead}, {api.FailClosed, fakecluster.Terminated(api.ExitUnserved, "")}}, refusal, "kube-gateway"},
		"one that never served":              {[]gateway{{api.FailClosed, fakecluster.Terminated(api.ExitUnserved, "")}}, refusal, ""},
		"closed, then disabled":              {[]gateway{{api.FailClosed, dead}, {api.FailClosed, disabled}}, refusal, ""},
		"closed, then running":               {[]gateway{{api.FailClosed, dead}, {api.FailOpen, fakecluster.Running(nil, nil)}}, refusal, ""},
		"another error":                      {[]gateway{{api.FailClosed, dead}}, errors.New("no route"), ""},
	} {
		pod := fakecluster.NewPod("p")
		for _, g := range c.gateways {
			fakecluster.AddGateway(pod, `{"version":1,"pod":{"namespace":"shop","name":"p","uid":"uid-p","serviceAccount":"default"},
				"podIPs":["10.0.0.7"],"trustDomain":"td","mode":"strict","onFailure":"`+string(g.onFailure)+`","ranges":["10.0.0.0/8"]}`, g.state)
		}
		err := WhileClosed(pod, c.err)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v is another error", name, err)
		}
		if c.closed == "" {
			if err != c.err {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !strings.HasPrefix(err.Error(), c.closed+" died and fails closed") {
			t.Errorf("%s: %v", name, err)
		}
		for _, word := range []string{"kubectl label namespace shop", "kubectl delete pod p -n shop"} {
			if !strings.Contains(api.Hint(err), word) {
				t.Errorf("%s: the hint %q lacks %q", name, api.Hint(err), word)
			}
		}
	}
}

func TestNameContainers(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 64) }
	pod := fakecluster.NewPod("p")
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "new"}, {Name: "db", ContainerID: "containerd://" + id("a")}}
	pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "init", ContainerID: "cri-o://" + id("b")}}
	got := NameContainers(pod, "held in container "+id("a")+" and "+id("b")+", not "+id("c"))
	if want := "held in container db and init, not " + id("c"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
