package installed

import (
	"errors"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
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
		`pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged (container "kube-gateway" must not set securityContext.privileged=true)`:                                          "kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged",
		`admission webhook "validate.kyverno.svc-fail" denied the request: resource was blocked`:                                                                                                     "validate.kyverno.svc-fail",
		`pods "a" is forbidden: ValidatingAdmissionPolicy 'no-privileged' with binding 'everywhere' denied request: privileged containers are not allowed in here`:                                   "no-privileged",
		`pods "a" is forbidden: ValidatingAdmissionPolicy 'kube-gateway-pods' with binding 'kube-gateway-pods' denied request: the image is not one of ConfigMap kube-gateway-images in kube-system`: "kubectl get configmap kube-gateway-images",
	} {
		if hint := api.Hint(explainPatch(errors.New(text), "shop")); !strings.Contains(hint, want) {
			t.Errorf("hint for %q is %q, want %q", text, hint, want)
		}
	}
}

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

func TestDefaultImageIsAValidReference(t *testing.T) {
	expect.Equal(t, "image", "ghcr.io/kubectl-gateway/kube-gateway:v1.2.3-dirty", DefaultImage("v1.2.3+dirty"))
}

func TestCleaner(t *testing.T) {
	pod := withGateway(fakecluster.Terminated(137, ""))
	container := must.Get(Cleaner(pod, "kube-gateway", "plugin:v2", corev1.PullAlways))(t)
	golden.CheckYAML(t, "patch-clean.yaml", NewPatch(pod, container))
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
	if Cleans(pod, "kube-gateway") || !Cleans(pod, "kube-gateway-2") || len(Gateways(pod)) != 2 {
		t.Errorf("gateways %+v", Gateways(pod))
	}
	if other, err := Cleaner(pod, "kube-gateway-2", "other:v2", ""); err != nil || other.Image != "other:v2" || other.ImagePullPolicy != "" || other.Name != "kube-gateway-3" {
		t.Errorf("%+v, %v", other, err)
	}
	if _, err := Cleaner(pod, "debugger", "plugin:v2", ""); err == nil {
		t.Error("a container that is not there is cleaned up after")
	}
}

func TestStatusPort(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{ContainerPort: 18012}}}}}}
	for _, c := range []struct {
		name string
		want api.StatusPort
	}{
		{"kube-gateway", api.StatusPort{Port: 18011, Roots: []string{"root"}}},
		// The application declares 18012.
		{"kube-gateway-2", api.StatusPort{}},
		{"kube-gateway-8", api.StatusPort{Port: 18010, Roots: []string{"root"}}},
	} {
		container := Supervisor(c.name, "image", corev1.PullAlways, "{}")
		must.Do(t, AddStatusPort(container, pod, []string{"root"}))
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *container)
		got, ok := StatusPortOf(pod, c.name)
		expect.Equal(t, "the port of "+c.name, c.want, got)
		expect.Equal(t, "whether there is one", c.want.Port != 0, ok)
	}
	if _, ok := StatusPortOf(pod, "app"); ok {
		t.Error("the application has a port for a status")
	}
}

// TestPolicyKnowsTheContainer finds in the example of a policy all words that a gateway's container is made of. Whether it
// admits the container is for the tests on a cluster.
func TestPolicyKnowsTheContainer(t *testing.T) {
	text := string(must.Get(os.ReadFile("../../../examples/admission-policy.yaml"))(t))
	for _, word := range []string{ownPolicy, commandSupervise, commandClean, ImageRepository, ContainerName,
		api.EnvConfig, api.EnvCert, api.EnvKey, api.EnvCA, api.EnvStatusPort} {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in it", word)
		}
	}
}
