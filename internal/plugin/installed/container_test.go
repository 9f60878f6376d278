package installed

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestDefaultImageIsAValidReference(t *testing.T) {
	if got := DefaultImage("v1.2.3+dirty"); got != "ghcr.io/kubectl-gateway/kube-gateway:v1.2.3-dirty" {
		t.Error(got)
	}
}

func TestCleaner(t *testing.T) {
	pod := withGateway(fakecluster.Terminated(137, ""))
	container := must.Get(Cleaner(pod, "kube-gateway", "", ""))(t)
	golden.CheckYAML(t, "patch-clean.yaml", NewPatch(pod, container))
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	if Cleans(pod, "kube-gateway") || !Cleans(pod, "kube-gateway-2") || len(Gateways(pod)) != 2 {
		t.Errorf("gateways %+v", Gateways(pod))
	}
	if other, err := Cleaner(pod, "kube-gateway-2", "other:v2", corev1.PullAlways); err != nil || other.Image != "other:v2" || other.ImagePullPolicy != corev1.PullAlways || other.Name != "kube-gateway-3" {
		t.Errorf("%+v, %v", other, err)
	}
	if other, err := Cleaner(pod, "kube-gateway", "other:v2", ""); err != nil || other.ImagePullPolicy != "" {
		t.Errorf("the policy of another image: %+v, %v", other, err)
	}
	if _, err := Cleaner(pod, "debugger", "", ""); err == nil {
		t.Error("a container that is not there is cleaned up after")
	}
}
