package remote_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
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

// TestDeadGatewayThatIsShownAsRunning: the kubelet takes its time to tell, and the runtime has no such container any more.
func TestDeadGatewayThatIsShownAsRunning(t *testing.T) {
	const ended = "no running task found"
	for name, test := range map[string]struct {
		unheard string
		state   corev1.ContainerState
		gone    bool
		timeout time.Duration
		took    time.Duration
		text    string
		hint    string
	}{
		"it has died":         {unheard: ended, state: fakecluster.Terminated(137, ""), timeout: time.Minute, took: 8 * time.Second, text: "the gateway does not run: container kube-gateway is terminated", hint: "adds one"},
		"it has been deleted": {unheard: ended, gone: true, timeout: time.Minute, took: 8 * time.Second, text: remote.ErrPodGone.Error()},
		"it runs":             {unheard: ended, state: fakecluster.Running(nil, nil), timeout: time.Minute, took: 10 * time.Second, text: ended},
		"there is no time":    {unheard: ended, state: fakecluster.Terminated(137, ""), timeout: 5 * time.Second, took: 2500 * time.Millisecond, text: ended},
		"its node is away":    {unheard: "error dialing backend: no route", state: fakecluster.Terminated(137, ""), timeout: time.Minute, text: "no route"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := fakecluster.NewPod("p")
				fakecluster.AddGateway(pod, "{}", fakecluster.Running(nil, nil))
				c := fakecluster.New(t, pod)
				time.AfterFunc(7900*time.Millisecond, func() {
					if !test.gone {
						c.SetState("p", "kube-gateway", test.state)
						return
					}
					must.Do(t, c.CoreV1().Pods(pod.Namespace).Delete(context.Background(), "p", metav1.DeleteOptions{}))
				})
				client := fakegateway.Gateways(func(context.Context, *fakegateway.Call) (any, error) {
					return nil, &remote.UnheardError{Err: errors.New(test.unheard)}
				}).Client(c)
				client.Notice = 10 * time.Second
				start := time.Now()
				_, err := client.Ask(t.Context(), pod, test.timeout, "", func(ctx context.Context, g *remote.Conn) error {
					_, err := g.Status(ctx)
					return err
				})
				expect.Refusal(t, "asking", err, nil, test.text, test.hint)
				expect.Equal(t, "time", test.took, time.Since(start))
			})
		})
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
