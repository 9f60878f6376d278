package installed

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

// started returns a cluster with a pod whose gateway is in the given state.
func started(t *testing.T, state corev1.ContainerState) (*fakecluster.Cluster, *corev1.Pod) {
	pod := withGateway(state)
	return fakecluster.New(t, pod), pod
}

func runs(gateway Gateway) bool { return gateway.Phase == Running }

// TestSlowKubelet: what a kubelet tries again is waited for, however long that takes.
func TestSlowKubelet(t *testing.T) {
	for name, states := range map[string][]corev1.ContainerState{
		"Secret":  {fakecluster.Waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition")},
		"runtime": {fakecluster.Waiting("CreateContainerError", "context deadline exceeded"), fakecluster.Waiting("CreateContainerError", `name "a" is reserved for "b"`)},
		"registry, without a cause later": {fakecluster.Waiting("ErrImagePull", "pull QPS exceeded"), fakecluster.Waiting("ImagePullBackOff", `Back-off pulling image "a"`),
			fakecluster.Waiting("ImagePullBackOff", `Back-off pulling image "a"`), fakecluster.Waiting("ErrImagePull", "429 Too Many Requests")},
		"one after the other": {fakecluster.Waiting("ErrImagePull", "i/o timeout"), fakecluster.Waiting("ContainerCreating", ""),
			fakecluster.Waiting("CreateContainerConfigError", `secret "x" not found`), fakecluster.Waiting("CreateContainerError", "context deadline exceeded")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, pod := started(t, states[0])
				const each = grace - time.Second
				for i, state := range append(states[1:], fakecluster.Running(nil, nil)) {
					time.AfterFunc(time.Duration(i+1)*each, func() { c.SetState("p", "kube-gateway", state) })
				}
				start := time.Now()
				if _, err := WaitUntil(t.Context(), EachPod(c), pod, "kube-gateway", runs); err != nil {
					t.Fatal(err)
				}
				if spent, want := time.Since(start), time.Duration(len(states))*each; spent != want {
					t.Errorf("it took %v, want %v", spent, want)
				}
			})
		})
	}
	t.Run("an image that is not there", func(t *testing.T) {
		c, pod := started(t, fakecluster.Waiting("ImagePullBackOff", `Back-off pulling image "a"`))
		_, err := WaitUntil(t.Context(), EachPod(c), pod, "kube-gateway", runs)
		expect.Error(t, err, "Back-off")
	})
}

// TestSecretThatTheKubeletCannotReadYet runs by a clock of its own.
func TestSecretThatTheKubeletCannotReadYet(t *testing.T) {
	unreadable := fakecluster.Waiting("CreateContainerConfigError", `secrets "x" is forbidden: no relationship found between node and this object`)
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, pod := started(t, unreadable)
			start := time.Now()
			_, err := WaitUntil(t.Context(), EachPod(c), pod, "kube-gateway", runs)
			expect.Error(t, err, "no relationship found")
			if spent := time.Since(start); spent != grace {
				t.Errorf("it took %v", spent)
			}
		})
	})
	t.Run("for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, pod := started(t, unreadable)
			time.AfterFunc(grace/2, func() { c.SetState("p", "kube-gateway", fakecluster.Waiting("ContainerCreating", "")) })
			time.AfterFunc(grace*2, func() { c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil)) })
			if _, err := WaitUntil(t.Context(), EachPod(c), pod, "kube-gateway", runs); err != nil {
				t.Error(err)
			}
		})
	})
}
