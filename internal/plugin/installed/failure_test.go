package installed

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

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
			if chance != test.chance {
				t.Errorf("outlook %d, want %d", chance, test.chance)
			}
			if !strings.Contains(api.Hint(err), test.hint) {
				t.Errorf("hint %q lacks %q", api.Hint(err), test.hint)
			}
		})
	}
}
