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
		expect.Refusal(t, "the error", in.wait(t.Context(), pod, "kube-gateway").err, nil, want, "")
	}
}

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
	expect.Equal(t, "containers", 1, len(c.Pod("p").Spec.EphemeralContainers))
}

// TestSlowKubelet: a gateway whose kubelet is slow gets ready, and its Secret is there until then.
func TestSlowKubelet(t *testing.T) {
	for name, words := range map[string]corev1.ContainerState{
		"Secret":   fakecluster.Waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"),
		"runtime":  fakecluster.Waiting("CreateContainerError", "context deadline exceeded"),
		"registry": fakecluster.Waiting("ErrImagePull", "pull QPS exceeded"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, in := newCluster(t)
				in.Options.Timeout = DefaultTimeout
				c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState { return words }
				time.AfterFunc(in.Options.Timeout-5*time.Second, func() {
					expect.Equal(t, "Secrets while the container can still start", 1, len(c.Secrets()))
					c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil))
				})
				expectResult(t, in.Enable(t.Context(), c.Pod("p")), Enabled, "kube-gateway")
				noSecrets(t, c)
			})
		})
	}
}

// TestSlowKubeletAtTheTimeout is told in the kubelet's words, and the key does not stay.
func TestSlowKubeletAtTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, in := newCluster(t)
		in.Options.Timeout = DefaultTimeout
		c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
			return fakecluster.Waiting("CreateContainerError", "context deadline exceeded")
		}
		result := in.Enable(t.Context(), c.Pod("p"))
		expect.Error(t, result.Err, "container kube-gateway is not ready after 1m0s, it is waiting (CreateContainerError: context deadline exceeded)")
		noSecrets(t, c)
	})
}

// TestContainerInTheWay: the kubelet does not come to a container while it pulls the image of the
// one before.
func TestContainerInTheWay(t *testing.T) {
	for name, test := range map[string]struct {
		state       corev1.ContainerState
		name, words string
	}{
		"a gateway":       {fakecluster.Waiting("ErrImagePull", "no such host"), "kube-gateway", "ErrImagePull: no such host"},
		"a debugger":      {fakecluster.Waiting("ImagePullBackOff", "Back-off"), "debugger", "ImagePullBackOff: Back-off"},
		"the first pull":  {fakecluster.Waiting("ContainerCreating", ""), "debugger", "ContainerCreating"},
		"one not at work": {fakecluster.Waiting("CreateContainerConfigError", "bad user"), "debugger", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, in, _ := started(t, test.state)
				pod := c.Pod("p")
				pod.Spec.EphemeralContainers[0].Name, pod.Status.EphemeralContainerStatuses[0].Name = test.name, test.name
				pod.Spec.EphemeralContainers[0].Image = "registry.test/first:v0"
				c.Update(pod)
				c.Kubelet = func(*corev1.Pod, *corev1.EphemeralContainer) corev1.ContainerState {
					return fakecluster.Waiting("ContainerCreating", "")
				}
				result := in.Enable(t.Context(), c.Pod("p"))
				want := "container " + test.name + " is in its way: the kubelet starts one after another, and that one's image registry.test/first:v0 is not there yet (" + test.words + ")"
				hint := "Kubernetes cannot remove container " + test.name +
					": let the node pull that image, or have the pod replaced ('kubectl delete pod p -n shop'); --timeout waits longer"
				if test.words == "" {
					want, hint = "it is waiting (ContainerCreating)", "'kubectl describe pod p -n shop' shows the events of the pod; --timeout waits longer"
				}
				expect.Error(t, result.Err, want)
				expect.Equal(t, "hint", hint, api.Hint(result.Err))
				noSecrets(t, c)
			})
		})
	}
}

// TestRateLimitedImage is waited for by the next enable, unless that is to use another image.
func TestRateLimitedImage(t *testing.T) {
	for image, want := range map[string]string{"gateway:v1": "kube-gateway", "gateway:v2": "kube-gateway-2"} {
		synctest.Test(t, func(t *testing.T) {
			c, in, pod := started(t, fakecluster.Waiting("ErrImagePull", "429 Too Many Requests"))
			in.Options.Image = image
			time.AfterFunc(time.Second, func() { c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil)) })
			in.Gateways = gateways(readyWith(in.Authority))
			if result := in.Enable(t.Context(), pod); result.Err != nil || result.Container != want {
				t.Errorf("%s: %+v", image, result)
			}
		})
	}
}
