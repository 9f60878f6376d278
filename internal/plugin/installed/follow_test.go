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

// TestSecretThatTheKubeletCannotReadYet runs by a clock of its own.
func TestSecretThatTheKubeletCannotReadYet(t *testing.T) {
	unreadable := fakecluster.Waiting("CreateContainerConfigError", `secrets "x" is forbidden: no relationship found between node and this object`)
	t.Run("for good", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, pod := started(t, unreadable)
			start := time.Now()
			_, err := WaitUntil(t.Context(), c, pod, "kube-gateway", runs)
			expect.Error(t, err, "no relationship found")
			if spent := time.Since(start); spent != secretGrace {
				t.Errorf("it took %v", spent)
			}
		})
	})
	t.Run("for a moment", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, pod := started(t, unreadable)
			time.AfterFunc(secretGrace/2, func() { c.SetState("p", "kube-gateway", fakecluster.Waiting("ContainerCreating", "")) })
			time.AfterFunc(secretGrace*2, func() { c.SetState("p", "kube-gateway", fakecluster.Running(nil, nil)) })
			if _, err := WaitUntil(t.Context(), c, pod, "kube-gateway", runs); err != nil {
				t.Error(err)
			}
		})
	})
}
