package installed

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func TestStale(t *testing.T) {
	pod := fakecluster.NewPod("p")
	for _, name := range []string{"kube-gateway", "kube-gateway-2", "kube-gateway-3", "kube-gateway-4"} {
		container := Supervisor(name, "gateway:v1", "", "{}")
		container.Env = append(container.Env, corev1.EnvVar{Name: api.EnvKey, ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "of-" + name}}}})
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	}
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{
		{Name: "kube-gateway", State: fakecluster.Terminated(1, "")},
		{Name: "kube-gateway-2", State: fakecluster.Waiting("ImagePullBackOff", "")},
		{Name: "kube-gateway-3", State: fakecluster.Running(nil, nil)},
		{Name: "kube-gateway-4", State: fakecluster.Waiting("ContainerCreating", "")},
	}
	for _, test := range []struct {
		secret, container string
		keep, want        bool
	}{
		{secret: "of-kube-gateway", container: "kube-gateway", want: true},
		{secret: "of-kube-gateway-2", container: "kube-gateway-2", want: true},
		{secret: "of-kube-gateway-3", container: "kube-gateway-3", want: true},
		{secret: "of-kube-gateway-3", container: "kube-gateway-3", keep: true},
		{secret: "of-kube-gateway-4", container: "kube-gateway-4"},
		{secret: "too-late", container: "kube-gateway-4", want: true},
		{secret: "on-its-way", container: "kube-gateway-5"},
	} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: test.secret, Annotations: map[string]string{AnnotationContainer: test.container}}}
		if test.keep {
			secret.Annotations[AnnotationKeep] = "true"
		}
		if got := stale(secret, pod); got != test.want {
			t.Errorf("%+v: stale is %v", test, got)
		}
	}
}
