package change

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// setters answers for the gateways of pods, by their names.
type setters map[string]func(ctx context.Context, asked *api.Status) (*api.Status, error)

// client hands a good gateway's answer to the pod's function.
func (s setters) client() *remote.Client {
	return fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		status := &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-" + call.Pod}, OnFailure: api.FailClosed}
		switch {
		case call.Container != "kube-gateway":
			return nil, fmt.Errorf("container %s was asked", call.Container)
		case call.Op() == "mode":
			status.Mode = api.Mode(call.Words[1])
			if slices.Contains(call.Words, "--existing=reset") {
				status.Reset = 2
			}
		default:
			for _, word := range call.Words[1:] {
				switch deny, denied := strings.CutPrefix(word, "--deny="); {
				case word == "--existing=reset":
					status.Reset = 3
				case denied:
					status.Deny = append(status.Deny, deny)
				case word == "--audit":
					status.Audit = true
				case word != "--everyone":
					status.Allow = append(status.Allow, word)
				}
			}
		}
		answer, err := s[call.Pod](ctx, status)
		if err != nil {
			return nil, err
		}
		return answer, nil
	}).Client(nil)
}

func good(_ context.Context, status *api.Status) (*api.Status, error) { return status, nil }

// but is a gateway whose answer differs from a good one.
func but(differ func(*api.Status)) func(context.Context, *api.Status) (*api.Status, error) {
	return func(_ context.Context, status *api.Status) (*api.Status, error) {
		differ(status)
		return status, nil
	}
}

func podWith(name string, state corev1.ContainerState) corev1.Pod {
	pod := fakecluster.NewPod(name)
	fakecluster.AddGateway(pod, "{}", state)
	return *pod
}

func runs() corev1.ContainerState { return fakecluster.Running(nil, nil) }

func TestChange(t *testing.T) {
	denying := Change{Rules: api.Rules{Deny: []string{"ns/dev/sa/*:8080"}, Audit: true}}
	strict, rules := Change{Mode: api.Strict}, Change{Rules: api.Rules{Allow: []string{"ns/prod/sa/*"}}}
	for name, test := range map[string]struct {
		change  Change
		answer  func(context.Context, *api.Status) (*api.Status, error)
		failure string // empty for success
		warning string // empty for none
	}{
		"mode":                  {change: strict, answer: good},
		"rules":                 {change: rules, answer: good},
		"everyone":              {answer: good},
		"deny and audit":        {change: denying, answer: good},
		"not denied":            {change: denying, answer: but(func(s *api.Status) { s.Deny = nil }), failure: "its rules are"},
		"not only audited":      {change: denying, answer: but(func(s *api.Status) { s.Audit = false }), failure: "its rules are"},
		"refused":               {change: strict, answer: func(context.Context, *api.Status) (*api.Status, error) { return nil, errors.New("unguarded") }, failure: "unguarded"},
		"another pod":           {change: strict, answer: but(func(s *api.Status) { s.Pod.UID = "uid-other" }), failure: "another pod"},
		"mode not changed":      {change: strict, answer: but(func(s *api.Status) { s.Mode = api.Permissive }), failure: "permissive"},
		"rules not changed":     {change: rules, answer: but(func(s *api.Status) { s.Allow = nil }), failure: "its rules are"},
		"everyone but somebody": {answer: but(func(s *api.Status) { s.Allow = []string{"ns/a/sa/b"} }), failure: "ns/a/sa/b"},
		"strict and open":       {change: strict, answer: but(func(s *api.Status) { s.OnFailure = api.FailOpen }), warning: "on-failure stays open"},
		"degraded":              {change: rules, answer: but(func(s *api.Status) { s.State = api.Degraded }), warning: "degraded"},
		"no answer": {change: strict, failure: "the change may have been made", answer: func(ctx context.Context, _ *api.Status) (*api.Status, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := Changer{Gateways: setters{"web": test.answer}.client(), Timeout: time.Minute}
			if name == "no answer" {
				c.Timeout = time.Millisecond
			}
			result := c.Change(t.Context(), new(podWith("web", runs())), test.change)
			if failed := result.Err != nil; failed != (test.failure != "") || failed && !strings.Contains(result.Err.Error(), test.failure) || failed == (result.Status != nil) {
				t.Errorf("status %+v, %v", result.Status, result.Err)
			}
			if text := strings.Join(result.Warnings, "\n"); (text != "") != (test.warning != "") || !strings.Contains(text, test.warning) {
				t.Errorf("warnings %q", text)
			}
		})
	}
}

// TestChangeResets: the gateway is asked to reset what the change forbids, only if that is wanted.
func TestChangeResets(t *testing.T) {
	c := Changer{Gateways: setters{"web": good}.client()}
	for want, change := range map[int]Change{
		0: {Mode: api.Strict, Existing: api.ExistingLeave}, 2: {Mode: api.Strict, Existing: api.ExistingReset},
		3: {Rules: api.Rules{Deny: []string{"ns/a/sa/b"}}, Existing: api.ExistingReset},
	} {
		if result := c.Change(t.Context(), new(podWith("web", runs())), change); result.Err != nil || result.Status.Reset != want {
			t.Errorf("%+v: %+v, %v", change, result.Status, result.Err)
		}
	}
}

// TestChangeWithoutGateway says what to do.
func TestChangeWithoutGateway(t *testing.T) {
	none := podWith("none", runs())
	none.Spec.EphemeralContainers = nil
	dead := podWith("dead", fakecluster.Terminated(1, ""))
	for _, pod := range []corev1.Pod{none, dead} {
		c := Changer{Gateways: setters{}.client()}
		if result := c.Change(t.Context(), &pod, Change{Mode: api.Strict}); result.Err == nil || api.Hint(result.Err) == "" {
			t.Errorf("%s: %v", pod.Name, result.Err)
		}
	}
}

// TestInterruptedChange: nobody knows whether a gateway that was asked has obeyed.
func TestInterruptedChange(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := Changer{Gateways: setters{"web": func(ctx context.Context, _ *api.Status) (*api.Status, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}.client()}
	result := c.Change(ctx, new(podWith("web", runs())), Change{Mode: api.Strict})
	expect.Refusal(t, "the error", result.Err, nil, "interrupted, and the change may have been made", "")
}

// TestChangeToStrict: who has no gateway and is refused from now on is named, unless it is
// let in by what the gateway was told by name.
func TestChangeToStrict(t *testing.T) {
	pod := podWith("web", runs())
	pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
	const scraped = "Prometheus scrapes it at port 9090"
	for name, test := range map[string]struct {
		change Change
		named  []api.Source
		want   string // empty for no warning
	}{
		"strict":          {change: Change{Mode: api.Strict}, want: scraped},
		"permissive":      {change: Change{Mode: api.Permissive}},
		"rules":           {change: Change{Rules: api.Rules{Allow: []string{"ns/prod/sa/*"}}}},
		"strict, allowed": {change: Change{Mode: api.Strict}, named: []api.Source{{From: netip.MustParsePrefix("10.0.0.0/8")}}},
	} {
		c := Changer{Gateways: setters{"web": but(func(s *api.Status) { s.Capture.Named.PlaintextFrom = test.named })}.client(), Survey: &survey.Survey{}}
		result := c.Change(t.Context(), &pod, test.change)
		if text := strings.Join(result.Warnings, "\n"); result.Err != nil || (text != "") != (test.want != "") || !strings.Contains(text, test.want) {
			t.Errorf("%s: %v, warnings %q", name, result.Err, text)
		}
	}
}
