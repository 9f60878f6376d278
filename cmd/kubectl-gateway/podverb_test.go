package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
)

// greeting is the result of a verb that greets pods.
type greeting struct {
	pod *corev1.Pod
	err error
}

// greeter greets pods.
func greeter(output string, do func(*corev1.Pod) error) *podVerb[greeting, string] {
	return &podVerb[greeting, string]{
		podFlags: &podFlags{output: output, parallel: 1},
		begin: func(context.Context, *job) (worker[greeting], error) {
			return func(_ context.Context, pod *corev1.Pod) greeting { return greeting{pod, do(pod)} }, nil
		},
		uses:   []rights.Use{rights.Disable},
		refuse: func(pod *corev1.Pod, err error) greeting { return greeting{pod, err} },
		tell: func(g greeting) outcome {
			return outcome{pod: g.pod, done: "greeted", notes: []string{"it waves"}, warnings: []string{"it is shy"}, err: g.err,
				event: announce.Changed, mode: new(api.Strict)}
		},
		item: func(g greeting) string { return g.pod.Name },
	}
}

// greet greets pods called a, b, c, d, and returns what the verb says on both streams.
func greet(ctx context.Context, c *fakecluster.Cluster, output string, do func(*corev1.Pod) error) (out, errOut string, err error) {
	return greeter(output, do).atFour(ctx, c)
}

// atFour runs v on pods called a, b, c, d.
func (v *podVerb[R, I]) atFour(ctx context.Context, c *fakecluster.Cluster) (out, errOut string, err error) {
	found := &targets.Selection{}
	for _, name := range []string{"a", "b", "c", "d"} {
		found.Pods = append(found.Pods, *fakecluster.NewPod(name))
	}
	var stdout, stderr bytes.Buffer
	a := &app{IOStreams: genericiooptions.IOStreams{Out: &stdout, ErrOut: &stderr}}
	err = v.on(ctx, a, c, nil, found, nil)
	return stdout.String(), stderr.String(), err
}

func TestPodVerb(t *testing.T) {
	but := func(pod *corev1.Pod) error {
		if pod.Name == "b" || pod.Name == "d" {
			return errors.New("no")
		}
		return nil
	}
	c := fakecluster.New(t, fakecluster.NewPod("b"), fakecluster.NewPod("d"))
	out, errOut, err := greet(t.Context(), c, "", but)
	if !errors.Is(err, errReported) {
		t.Error(err)
	}
	if diff := cmp.Diff("pod/a greeted\npod/c greeted\n", out); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	for _, want := range []string{"pod/a: it waves\n", "pod/a: warning: it is shy\n", "pod/b: error: no\n", "error: 2 of 4 pods failed\n"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("%q is missing in:\n%s", want, errOut)
		}
	}
	reviews := 0
	for _, action := range c.Actions() {
		if action.Matches("create", "selfsubjectaccessreviews") {
			reviews++
		}
	}
	if want := len(rights.Must(rights.Disable)); reviews != want {
		t.Errorf("%d access reviews for one namespace, want %d", reviews, want)
	}
	if out, _, err = greet(t.Context(), c, "json", but); !errors.Is(err, errReported) || strings.Join(strings.Fields(out), "") != `{"items":["a","b","c","d"]}` {
		t.Errorf("%s, %v", out, err)
	}
}

// TestPodVerbShows at pods what became of them, where the user may, and works all the same where not.
func TestPodVerbShows(t *testing.T) {
	for _, may := range []bool{true, false} {
		c := fakecluster.New(t, fakecluster.NewPod("a"), fakecluster.NewPod("b"))
		if !may {
			c.Forbid("create", "events")
			c.Forbid("patch", "pods")
		}
		out, errOut, err := greet(t.Context(), c, "", func(pod *corev1.Pod) error {
			if pod.Name == "b" {
				return api.WithHint(errors.New("no"), "try again")
			}
			return nil
		})
		if !errors.Is(err, errReported) || strings.Count(out, "greeted") != 3 || strings.Count(errOut, "error:") != 2 {
			t.Errorf("may %v: %v\n%s%s", may, err, out, errOut)
		}
		var want, got []string
		if may {
			want = []string{"a GatewayChanged greeted", "b GatewayFailed no; try again", "c GatewayChanged greeted", "d GatewayChanged greeted"}
		}
		for _, e := range must.Get(c.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{}))(t).Items {
			got = append(got, strings.Join([]string{e.InvolvedObject.Name, e.Reason, e.Message}, " "))
		}
		expect.Equal(t, "events", want, got)
		label := map[bool]string{true: "strict"}[may]
		expect.Equal(t, "labels", []string{label, ""}, []string{c.Pod("a").Labels[api.LabelMode], c.Pod("b").Labels[api.LabelMode]})
	}
}

// TestPodVerbLeft: a pod that ends meanwhile has not failed, and does not stop the others of its workload.
func TestPodVerbLeft(t *testing.T) {
	for _, grouped := range []bool{false, true} {
		c := fakecluster.New(t, fakecluster.NewPod("a"), fakecluster.NewPod("b"), fakecluster.NewPod("c"), fakecluster.NewPod("d"))
		v := greeter("json", func(pod *corev1.Pod) error {
			switch pod.Name {
			case "a":
				leaving := c.Pod("a")
				leaving.DeletionTimestamp = new(metav1.Now())
				c.Update(leaving)
			case "b":
				must.Do(t, c.Tracker().Delete(fakecluster.Pods, "shop", "b"))
			case "d":
				return nil
			}
			return errors.New("container not found")
		})
		want := []string{`{"items":["c","d"]}`, "pod/a: skipped, it has finished or is being deleted\npod/a: warning: it is shy\n", "1 of 2 pods failed"}
		events := []string{"c GatewayFailed", "d GatewayChanged"}
		if grouped {
			v.group = func(*corev1.Pod) types.UID { return "one" }
			want[2], events = "2 of 2 pods failed", events[:1]
		}
		out, errOut, err := v.atFour(t.Context(), c)
		if !errors.Is(err, errReported) || strings.Join(strings.Fields(out), "") != want[0] || !strings.Contains(errOut, want[1]) || !strings.Contains(errOut, want[2]) {
			t.Errorf("grouped %v: %v\n%s%s", grouped, err, out, errOut)
		}
		var got []string
		for _, e := range must.Get(c.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{}))(t).Items {
			got = append(got, e.InvolvedObject.Name+" "+e.Reason)
		}
		expect.Equal(t, "events", events, got)
	}
}

func TestPodVerbWithoutPermissionTouchesNothing(t *testing.T) {
	c := fakecluster.New(t)
	c.Denied["create pods/exec"] = true
	_, errOut, err := greet(t.Context(), c, "", func(pod *corev1.Pod) error {
		t.Errorf("pod %s was touched", pod.Name)
		return nil
	})
	if !errors.Is(err, errReported) || !strings.Contains(errOut, "pod/a: error: you may not do this in namespace \"shop\": create pods/exec\n") {
		t.Errorf("%v\n%s", err, errOut)
	}
}

func TestPodVerbInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var touched atomic.Int32
	_, errOut, err := greet(ctx, fakecluster.New(t), "", func(*corev1.Pod) error {
		touched.Add(1)
		interrupt()
		return fmt.Errorf("greeting: %w", ctx.Err())
	})
	if !errors.Is(err, context.Canceled) || touched.Load() != 4 || strings.Count(errOut, ": interrupted\n") != 4 {
		t.Errorf("%v, %d pods were touched\n%s", err, touched.Load(), errOut)
	}
}
