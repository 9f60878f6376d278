package remote_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
)

// TestServing asks the newer of two gateways, and only where there are two.
func TestServing(t *testing.T) {
	silent := errors.New("nothing listens")
	for name, test := range map[string]struct {
		// newer and older are what the gateways say, "" if they do not.
		newer, older api.State
		want         string
		asked        int
	}{
		"stands by":           {api.Standby, api.Ready, "kube-gateway", 1},
		"has no certificate":  {api.Uncertified, api.Ready, "kube-gateway", 1},
		"starts":              {"", api.Ready, "kube-gateway", 2},
		"took over":           {api.Ready, api.Draining, "kube-gateway-2", 1},
		"works badly":         {api.Degraded, api.Draining, "kube-gateway-2", 1},
		"took over, is stuck": {"", api.Draining, "kube-gateway-2", 2},
		"both are silent":     {"", "", "kube-gateway", 2},
	} {
		pod := fakecluster.NewPod("p")
		fakecluster.AddGateway(pod, "{}", fakecluster.Running(nil, nil))
		fakecluster.AddGateway(pod, `{"replaces":"kube-gateway"}`, fakecluster.Running(nil, nil))
		asked := 0
		client := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
			asked++
			state := test.older
			if call.Container == "kube-gateway-2" {
				state = test.newer
			}
			if state == "" {
				return nil, silent
			}
			return &api.Status{State: state, Pod: api.PodRef{UID: "uid-p"}}, nil
		}).Client(nil)
		if got, ok := client.Serving(t.Context(), pod); got.Name != test.want || !ok || asked != test.asked {
			t.Errorf("%s: %s, after %d questions", name, got.Name, asked)
		}
		asked = 0
		pod.Status.EphemeralContainerStatuses[0].State = fakecluster.Terminated(0, api.DisabledMessage)
		if got, ok := client.Serving(t.Context(), pod); got.Name != "kube-gateway-2" || !ok || asked != 0 {
			t.Errorf("%s, alone: %s, after %d questions", name, got.Name, asked)
		}
	}
}

func TestHandOverThatMakesNoSense(t *testing.T) {
	pod := fakecluster.NewPod("p")
	for name, test := range map[string]struct {
		answer any
		err    error
		want   string
	}{
		"no socket":     {api.Handover{Token: make([]byte, 32)}, nil, "does not say how to take over"},
		"a short token": {api.Handover{Socket: "x", Token: make([]byte, 8)}, nil, "does not say how to take over"},
		"a long socket": {api.Handover{Socket: strings.Repeat("x", 108), Token: make([]byte, 32)}, nil, "does not say how to take over"},
		"too old":       {nil, fakegateway.Refuse(`unknown control command "hand-over"`), "too old to hand over"},
		"refused":       {nil, fakegateway.Refuse("it is being disabled"), "it is being disabled"},
	} {
		client := fakegateway.Gateways(func(context.Context, *fakegateway.Call) (any, error) { return test.answer, test.err }).Client(nil)
		_, err := client.Gateway(pod, "kube-gateway").HandOver(t.Context(), 0)
		expect.Refusal(t, name, err, nil, test.want, "")
	}
}
