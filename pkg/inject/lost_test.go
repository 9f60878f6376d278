package inject

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// TestLostAnswers has the server carry out what it is asked for, with the answer
// lost on its way: what is then sent again finds it done.
func TestLostAnswers(t *testing.T) {
	c := newCluster(t, testPod("p"))
	secrets, patches := 0, 0
	c.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if secrets++; secrets > 1 {
			return false, nil, nil
		}
		if err := c.Tracker().Add(action.(clienttesting.CreateAction).GetObject()); err != nil {
			t.Error(err)
		}
		return true, nil, apierrors.NewInternalError(errors.New("lost"))
	})
	c.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		dryRun := len(action.(clienttesting.PatchActionImpl).PatchOptions.DryRun) > 0
		if handled, pod, err := c.patch(action); dryRun || err != nil {
			return handled, pod, err
		}
		patches++
		return c.patch(action)
	})
	result := newInjector(t, c).Enable(t.Context(), c.pod("p"))
	if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" {
		t.Errorf("%s of %s: %v", result.Action, result.Container, result.Err)
	}
	if n := len(c.pod("p").Spec.EphemeralContainers); n != 1 || patches != 1 || secrets != 2 {
		t.Errorf("%d gateways by %d patches, %d creations of Secrets", n, patches, secrets)
	}
	noSecrets(t, c)
}

// TestOtherGatewayIsNotOurs does not take a container for ours that was made for
// another Secret.
func TestOtherGatewayIsNotOurs(t *testing.T) {
	ours := &corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "kube-gateway", Image: "x", Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
	}}
	pod := testPod("p")
	if holds(pod, ours) {
		t.Error("a pod without gateways")
	}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{*ours.DeepCopy()}
	if !holds(pod, ours) {
		t.Error("our own container is not found")
	}
	pod.Spec.EphemeralContainers[0].Env[0].Value = "2"
	if holds(pod, ours) {
		t.Error("another environment")
	}
}
