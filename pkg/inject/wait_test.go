package inject

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

func TestFailure(t *testing.T) {
	for name, test := range map[string]struct {
		state   corev1.ContainerState
		final   string
		curable string
		hint    string
	}{
		"not seen":       {},
		"running":        {state: running(nil, nil)},
		"creating":       {state: waiting("ContainerCreating", "")},
		"initializing":   {state: waiting("PodInitializing", "")},
		"pull":           {state: waiting("ErrImagePull", "not found:\n no such tag"), final: "cannot start: ErrImagePull: not found: no such tag", hint: "--image"},
		"back-off":       {state: waiting("ImagePullBackOff", "Back-off"), final: "ImagePullBackOff", hint: "--image"},
		"name":           {state: waiting("InvalidImageName", ""), final: "cannot start: InvalidImageName", hint: "--image"},
		"never pull":     {state: waiting("ErrImageNeverPull", "not present"), final: "ErrImageNeverPull: not present", hint: "load the image"},
		"config":         {state: waiting("CreateContainerConfigError", "container has runAsNonRoot"), final: "runAsNonRoot", hint: "describe pod p -n shop"},
		"config, Secret": {state: waiting("CreateContainerConfigError", "failed to sync secret cache: timed out"), curable: "secret cache"},
		"create":         {state: waiting("CreateContainerError", "no such file"), final: "no such file", hint: "describe"},
		"run":            {state: waiting("RunContainerError", "exec: x"), final: "exec: x", hint: "describe"},
		"ended":          {state: terminated(1, "no cgroup2 here\nhint: mount it"), final: "ended with exit code 1: no cgroup2 here", hint: "mount it"},
		"ended, log":     {state: terminated(2, "{\"a\":1}\npanic: x\n"), final: "ended with exit code 2: panic: x", hint: "kubectl logs p -c kube-gateway -n shop"},
		"ended, nothing": {state: terminated(137, ""), final: "exit code 137: Error", hint: "kubectl logs"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testPod("p")
			pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{ephemeral("kube-gateway", "img", "{}")}
			pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: test.state}}
			current, _ := Current(pod)
			final, curable := failure(pod, current)
			expect(t, final, test.final)
			expect(t, curable, test.curable)
			if !strings.Contains(api.Hint(final), test.hint) {
				t.Errorf("hint %q lacks %q", api.Hint(final), test.hint)
			}
		})
	}
}

// withGateway is a pod whose container kube-gateway is in the given state.
func withGateway(t *testing.T, in *Injector, state corev1.ContainerState) *corev1.Pod {
	t.Helper()
	pod := testPod("p")
	container, err := in.container("kube-gateway", "some-secret", in.configFor(pod, PodIPs(pod)))
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{*container}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: state}}
	return pod
}

// started returns a cluster with a pod whose gateway is in the given state, and
// the injector for it.
func started(t *testing.T, state corev1.ContainerState) (*cluster, *Injector, *corev1.Pod) {
	t.Helper()
	c := newCluster(t)
	in := newInjector(t, c)
	pod := withGateway(t, in, state)
	if err := c.Tracker().Add(pod); err != nil {
		t.Fatal(err)
	}
	return c, in, pod
}

func TestWaitFollowsTheContainerUntilItIsReady(t *testing.T) {
	c, in, pod := started(t, waiting("ContainerCreating", ""))
	asked := make(chan struct{})
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		close(asked)
		return ready(ctx, pod, container)
	})
	done := make(chan error, 1)
	go func() {
		err := in.wait(t.Context(), pod, "kube-gateway").err
		done <- err
	}()
	eventually(t, "the pod is watched", func() bool { return has(c, "watch", "pods") })
	select {
	case <-asked:
		t.Error("a container that does not run was asked")
	default:
	}
	c.setState("p", "kube-gateway", running(nil, nil))
	if err := within(t, done); err != nil {
		t.Error(err)
	}
}

func TestWaitTellsTheLastWordsOfAGatewayThatEndsWhileItIsAsked(t *testing.T) {
	c, in, pod := started(t, running(nil, nil))
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		eventually(t, "the pod is watched", func() bool { return has(c, "watch", "pods") })
		c.setState(pod, container, terminated(1, "not one pod's cgroup\nhint: use a supported runtime"))
		return silent(ctx, pod, container)
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := in.wait(ctx, pod, "kube-gateway").err
	expect(t, err, "not one pod's cgroup")
	if !errors.As(err, new(*failedError)) || api.Hint(err) != "use a supported runtime" {
		t.Errorf("%T with hint %q", err, api.Hint(err))
	}
}

func TestWaitEndsWithThePod(t *testing.T) {
	for name, change := range map[string]func(*cluster){
		"deleted": func(c *cluster) { _ = c.Tracker().Delete(pods, "shop", "p") },
		"replaced": func(c *cluster) {
			pod := c.pod("p")
			pod.UID = "another"
			c.update(pod)
		},
		"finished": func(c *cluster) {
			pod := c.pod("p")
			pod.Status.Phase = corev1.PodSucceeded
			c.update(pod)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, pod := started(t, running(nil, nil))
			in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
				// The fake server sends no event to who asks for it afterwards.
				eventually(t, "the pod is watched", func() bool { return has(c, "watch", "pods") })
				change(c)
				return silent(ctx, pod, container)
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := in.wait(ctx, pod, "kube-gateway").err; !errors.Is(err, ErrReplaced) {
				t.Error(err)
			}
		})
	}
}

// TestWaitForAPodThatIsGoneAlready has nothing to watch.
func TestWaitForAPodThatIsGoneAlready(t *testing.T) {
	c, in, pod := started(t, running(nil, nil))
	if err := c.Tracker().Delete(pods, "shop", "p"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := in.wait(ctx, pod, "kube-gateway").err; !errors.Is(err, ErrReplaced) {
		t.Error(err)
	}
	if _, err := WaitUntil(ctx, c, pod, "kube-gateway", func(Gateway) bool { return false }); !errors.Is(err, ErrReplaced) {
		t.Error(err)
	}
}

func TestWaitNamesTheStateAtTheTimeout(t *testing.T) {
	_, in, pod := started(t, waiting("ContainerCreating", ""))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTimeout)
	err := in.wait(ctx, pod, "kube-gateway").err
	expect(t, err, "container kube-gateway is not ready after 30s, it is waiting (ContainerCreating)")
	if !errors.Is(err, errTimeout) {
		t.Error("is no timeout")
	}
}

func TestWaitDoesNotBelieveEveryAnswer(t *testing.T) {
	for want, status := range map[string]*api.Status{
		"serves another pod":                          {State: api.Ready, Pod: api.PodRef{UID: "another"}},
		"not ready after 30s but starting: no cgroup": {State: api.Starting, Reason: "no\ncgroup", Pod: api.PodRef{UID: "uid-p"}},
		"but degraded":                                {State: api.Degraded, Pod: api.PodRef{UID: "uid-p"}},
	} {
		_, in, pod := started(t, running(nil, nil))
		in.Gateways = gateways(func(context.Context, string, string) (*api.Status, error) { return status, nil })
		if err := in.wait(t.Context(), pod, "kube-gateway").err; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestAskTriesAgainUnlessItIsPointless(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		after int
		want  int
	}{
		"hiccup":    {err: errors.New("the kubelet says no"), after: 1, want: 2},
		"permanent": {err: errors.New("the kubelet says no"), after: 99, want: askAttempts},
		"forbidden": {err: remote.ErrForbidden, after: 99, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, in, pod := started(t, running(nil, nil))
			asked := 0
			in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
				if asked++; asked <= test.after {
					return nil, test.err
				}
				return ready(ctx, pod, container)
			})
			err := in.wait(t.Context(), pod, "kube-gateway").err
			if asked != test.want || (err == nil) != (test.after < askAttempts) {
				t.Errorf("asked %d times: %v", asked, err)
			}
		})
	}
}

// eventually waits for a condition that others bring about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not in %v: %s", patience, what)
		case <-time.After(time.Millisecond):
		}
	}
}

func within[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case value := <-c:
		return value
	case <-time.After(patience):
		t.Fatalf("nothing in %v", patience)
		panic("unreachable")
	}
}

// has reports whether the client did verb on resource.
func has(c *cluster, verb, resource string) bool {
	for _, action := range c.Actions() {
		if action.Matches(verb, resource) {
			return true
		}
	}
	return false
}

// TestSecretThatTheKubeletCannotReadYet runs by a clock of its own.
func TestSecretThatTheKubeletCannotReadYet(t *testing.T) {
	unreadable := waiting("CreateContainerConfigError", `secrets "x" is forbidden: no relationship found between node and this object`)
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, in, pod := started(t, unreadable)
			start := time.Now()
			err := in.wait(t.Context(), pod, "kube-gateway").err
			expect(t, err, "no relationship found")
			if spent := time.Since(start); spent != secretGrace {
				t.Errorf("it took %v", spent)
			}
		})
	})
	t.Run("for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, in, pod := started(t, unreadable)
			time.AfterFunc(secretGrace/2, func() { c.setState("p", "kube-gateway", waiting("ContainerCreating", "")) })
			time.AfterFunc(secretGrace*2, func() { c.setState("p", "kube-gateway", running(nil, nil)) })
			if err := in.wait(t.Context(), pod, "kube-gateway").err; err != nil {
				t.Error(err)
			}
		})
	})
}
