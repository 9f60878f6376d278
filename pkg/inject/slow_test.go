package inject

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

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
					if n := len(c.Secrets()); n != 1 {
						t.Errorf("%d Secrets while the container can still start", n)
					}
					c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil))
				})
				result := in.Enable(t.Context(), c.Pod("p"))
				if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" {
					t.Errorf("%+v", result)
				}
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
				if got := api.Hint(result.Err); got != hint {
					t.Errorf("hint %q", got)
				}
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
