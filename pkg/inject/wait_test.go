package inject

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// withGateway is a pod whose container kube-gateway is in the given state.
func withGateway(t *testing.T, in *Injector, state corev1.ContainerState) *corev1.Pod {
	t.Helper()
	pod := fakecluster.NewPod("p")
	container := must.Get(in.container("kube-gateway", "some-secret", in.configFor(pod)))(t)
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{*container}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "kube-gateway", State: state}}
	return pod
}

// started returns a cluster with a pod whose gateway is in the given state, and
// the injector for it.
func started(t *testing.T, state corev1.ContainerState) (*fakecluster.Cluster, *Injector, *corev1.Pod) {
	t.Helper()
	c := fakecluster.New(t)
	in := newInjector(t, c)
	pod := withGateway(t, in, state)
	must.Do(t, c.Tracker().Add(pod))
	return c, in, pod
}

func TestWaitFollowsTheContainerUntilItIsReady(t *testing.T) {
	c, in, pod := started(t, fakecluster.Waiting("ContainerCreating", ""))
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
	c.AwaitWatch()
	select {
	case <-asked:
		t.Error("a container that does not run was asked")
	default:
	}
	c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil))
	if err := expect.Within(t, done); err != nil {
		t.Error(err)
	}
}

func TestWaitTellsTheLastWordsOfAGatewayThatEndsWhileItIsAsked(t *testing.T) {
	c, in, pod := started(t, fakecluster.Running(nil, nil))
	in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
		c.AwaitWatch()
		c.SetState(pod, container, fakecluster.Terminated(1, "not one pod's cgroup\nhint: use a supported runtime"))
		return silent(ctx, pod, container)
	})
	ctx, cancel := context.WithTimeout(t.Context(), expect.Patience)
	defer cancel()
	err := in.wait(ctx, pod, "kube-gateway").err
	expect.Error(t, err, "not one pod's cgroup")
	if !errors.As(err, new(*installed.FailedError)) || api.Hint(err) != "use a supported runtime" {
		t.Errorf("%T with hint %q", err, api.Hint(err))
	}
}

func TestWaitEndsWithThePod(t *testing.T) {
	for name, change := range map[string]func(*fakecluster.Cluster){
		"deleted": func(c *fakecluster.Cluster) { _ = c.Tracker().Delete(fakecluster.Pods, "shop", "p") },
		"replaced": func(c *fakecluster.Cluster) {
			pod := c.Pod("p")
			pod.UID = "another"
			c.Update(pod)
		},
		"finished": func(c *fakecluster.Cluster) {
			pod := c.Pod("p")
			pod.Status.Phase = corev1.PodSucceeded
			c.Update(pod)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, in, pod := started(t, fakecluster.Running(nil, nil))
			in.Gateways = gateways(func(ctx context.Context, pod, container string) (*api.Status, error) {
				// The fake server sends no event to who asks for it afterwards.
				c.AwaitWatch()
				change(c)
				return silent(ctx, pod, container)
			})
			ctx, cancel := context.WithTimeout(t.Context(), expect.Patience)
			defer cancel()
			if err := in.wait(ctx, pod, "kube-gateway").err; !errors.Is(err, installed.ErrReplaced) {
				t.Error(err)
			}
		})
	}
}

// TestWaitForAPodThatIsGoneAlready has nothing to watch.
func TestWaitForAPodThatIsGoneAlready(t *testing.T) {
	c, in, pod := started(t, fakecluster.Running(nil, nil))
	must.Do(t, c.Tracker().Delete(fakecluster.Pods, "shop", "p"))
	ctx, cancel := context.WithTimeout(t.Context(), expect.Patience)
	defer cancel()
	if err := in.wait(ctx, pod, "kube-gateway").err; !errors.Is(err, installed.ErrReplaced) {
		t.Error(err)
	}
	if _, err := installed.WaitUntil(ctx, installed.EachPod(c), pod, "kube-gateway", func(installed.Gateway) bool { return false }); !errors.Is(err, installed.ErrReplaced) {
		t.Error(err)
	}
}

func TestWaitNamesTheStateAtTheTimeout(t *testing.T) {
	_, in, pod := started(t, fakecluster.Waiting("ContainerCreating", ""))
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTimeout)
	err := in.wait(ctx, pod, "kube-gateway").err
	expect.Error(t, err, "container kube-gateway is not ready after 30s, it is waiting (ContainerCreating)")
	if !errors.Is(err, errTimeout) {
		t.Error("is no timeout")
	}
}

func TestWaitDoesNotBelieveEveryAnswer(t *testing.T) {
	for want, status := range map[string]*api.Status{
		"answers for another pod":          {State: api.Ready, Pod: api.PodRef{UID: "another"}},
		"cannot start yet: no cgroup":      {State: api.Starting, Reason: "no\ncgroup", Pod: api.PodRef{UID: "uid-p"}},
		"not ready after 30s but starting": {State: api.Starting, Pod: api.PodRef{UID: "uid-p"}},
		"but degraded":                     {State: api.Degraded, Pod: api.PodRef{UID: "uid-p"}},
	} {
		_, in, pod := started(t, fakecluster.Running(nil, nil))
		in.Gateways = gateways(func(context.Context, string, string) (*api.Status, error) { return status, nil })
		if err := in.wait(t.Context(), pod, "kube-gateway").err; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
