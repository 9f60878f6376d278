package installed

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

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
