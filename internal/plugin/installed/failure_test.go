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
		state   corev1.ContainerState
		final   string
		curable string
		hint    string
	}{
		"not seen":       {},
		"running":        {state: fakecluster.Running(nil, nil)},
		"creating":       {state: fakecluster.Waiting("ContainerCreating", "")},
		"initializing":   {state: fakecluster.Waiting("PodInitializing", "")},
		"pull":           {state: fakecluster.Waiting("ErrImagePull", "not found:\n no such tag"), final: "cannot start: ErrImagePull: not found: no such tag", hint: "--image"},
		"back-off":       {state: fakecluster.Waiting("ImagePullBackOff", "Back-off"), final: "ImagePullBackOff", hint: "--image"},
		"name":           {state: fakecluster.Waiting("InvalidImageName", ""), final: "cannot start: InvalidImageName", hint: "--image"},
		"never pull":     {state: fakecluster.Waiting("ErrImageNeverPull", "not present"), final: "ErrImageNeverPull: not present", hint: "load the image"},
		"config":         {state: fakecluster.Waiting("CreateContainerConfigError", "container has runAsNonRoot"), final: "runAsNonRoot", hint: "describe pod p -n shop"},
		"config, Secret": {state: fakecluster.Waiting("CreateContainerConfigError", "failed to sync secret cache: timed out"), curable: "secret cache"},
		"create":         {state: fakecluster.Waiting("CreateContainerError", "no such file"), final: "no such file", hint: "describe"},
		"run":            {state: fakecluster.Waiting("RunContainerError", "exec: x"), final: "exec: x", hint: "describe"},
		"ended":          {state: fakecluster.Terminated(1, "no cgroup2 here\nhint: mount it"), final: "ended with exit code 1: no cgroup2 here", hint: "mount it"},
		"ended, log":     {state: fakecluster.Terminated(2, "{\"a\":1}\npanic: x\n"), final: "ended with exit code 2: panic: x", hint: "kubectl logs p -c kube-gateway -n shop"},
		"ended, nothing": {state: fakecluster.Terminated(137, ""), final: "exit code 137: Error", hint: "kubectl logs"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := withGateway(test.state)
			current, _ := Current(pod)
			final, curable := failure(pod, current)
			expect.Error(t, final, test.final)
			expect.Error(t, curable, test.curable)
			if !strings.Contains(api.Hint(final), test.hint) {
				t.Errorf("hint %q lacks %q", api.Hint(final), test.hint)
			}
		})
	}
}
