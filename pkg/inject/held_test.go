package inject

import (
	"context"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

// TestHeldPortBurnsNoContainers: a gateway that waits for a port is joined by each further attempt.
func TestHeldPortBurnsNoContainers(t *testing.T) {
	c, in, pod := started(t, fakecluster.Running(nil, nil))
	held := &api.Status{State: api.Starting, Reason: "port 18443 is held by a listener at [::]:18443", Pod: api.PodRef{UID: "uid-p"}}
	in.Gateways = gateways(func(context.Context, string, string) (*api.Status, error) { return held, nil })
	for range 3 {
		result := in.Enable(t.Context(), pod)
		if result.Action != Failed || result.Container != "kube-gateway" || !strings.Contains(result.Err.Error(), "cannot start yet: port 18443 is held by") ||
			!strings.Contains(api.Hint(result.Err), "adds no other container") {
			t.Errorf("%s %s: %v, hint %q", result.Action, result.Container, result.Err, api.Hint(result.Err))
		}
	}
	if n := len(c.Pod("p").Spec.EphemeralContainers); n != 1 {
		t.Errorf("%d containers", n)
	}
}
