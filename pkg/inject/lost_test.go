package inject

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// TestLostAnswers has the server carry out what it is asked for, with the answer
// lost on its way: what is then sent again finds it done.
func TestLostAnswers(t *testing.T) {
	c, in := newCluster(t)
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
		if handled, pod, err := c.Patch(action); dryRun || err != nil {
			return handled, pod, err
		}
		patches++
		return c.Patch(action)
	})
	result := in.Enable(t.Context(), c.Pod("p"))
	if result.Err != nil || result.Action != Enabled || result.Container != "kube-gateway" {
		t.Errorf("%s of %s: %v", result.Action, result.Container, result.Err)
	}
	if n := len(c.Pod("p").Spec.EphemeralContainers); n != 1 || patches != 1 || secrets != 2 {
		t.Errorf("%d gateways by %d patches, %d creations of Secrets", n, patches, secrets)
	}
	noSecrets(t, c)
}
