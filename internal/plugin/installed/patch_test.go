package installed

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

// TestOtherGatewayIsNotOurs does not take a container for ours that was made for
// another Secret.
func TestOtherGatewayIsNotOurs(t *testing.T) {
	ours := &corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "kube-gateway", Image: "x", Env: []corev1.EnvVar{{Name: "A", Value: "1"}},
	}}
	pod := fakecluster.NewPod("p")
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

func TestExplainPatch(t *testing.T) {
	for text, want := range map[string]string{
		`pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged (container "kube-gateway" must not set securityContext.privileged=true)`:        "kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged",
		`admission webhook "validate.kyverno.svc-fail" denied the request: resource was blocked`:                                                                   "validate.kyverno.svc-fail",
		`pods "a" is forbidden: ValidatingAdmissionPolicy 'no-privileged' with binding 'everywhere' denied request: privileged containers are not allowed in here`: "no-privileged",
	} {
		if hint := api.Hint(explainPatch(errors.New(text), "shop")); !strings.Contains(hint, want) {
			t.Errorf("hint for %q is %q, want %q", text, hint, want)
		}
	}
}
