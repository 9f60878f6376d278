package limits

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
)

// list returns limits of memory and CPU, without those that are empty.
func list(memory, cpu string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for name, text := range map[corev1.ResourceName]string{corev1.ResourceMemory: memory, corev1.ResourceCPU: cpu} {
		if text != "" {
			l[name] = resource.MustParse(text)
		}
	}
	return l
}

func container(memory, cpu string) corev1.Container {
	return corev1.Container{Resources: corev1.ResourceRequirements{Limits: list(memory, cpu)}}
}

func sidecar(memory string) corev1.Container {
	c := container(memory, "")
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	return c
}

func TestOf(t *testing.T) {
	text := func(limit *resource.Quantity) string {
		if limit == nil {
			return ""
		}
		return limit.String()
	}
	for name, c := range map[string]struct {
		spec        corev1.PodSpec
		memory, cpu string
	}{
		"no limits":          {corev1.PodSpec{Containers: []corev1.Container{container("", "")}}, "", ""},
		"of all containers":  {corev1.PodSpec{Containers: []corev1.Container{container("100Mi", "500m"), container("28Mi", "250m")}}, "128Mi", "750m"},
		"of some containers": {corev1.PodSpec{Containers: []corev1.Container{container("100Mi", ""), container("", "250m")}}, "", ""},
		"zero is none":       {corev1.PodSpec{Containers: []corev1.Container{container("100Mi", "0"), container("28Mi", "1")}}, "128Mi", ""},
		"an init container is larger": {corev1.PodSpec{InitContainers: []corev1.Container{container("1Gi", "")},
			Containers: []corev1.Container{container("128Mi", "")}}, "1Gi", ""},
		"the last init container is smaller": {corev1.PodSpec{InitContainers: []corev1.Container{container("1Gi", ""), container("64Mi", "")},
			Containers: []corev1.Container{container("128Mi", "")}}, "1Gi", ""},
		"an init container beside a sidecar": {corev1.PodSpec{InitContainers: []corev1.Container{sidecar("64Mi"), container("256Mi", "")},
			Containers: []corev1.Container{container("128Mi", "")}}, "320Mi", ""},
		"a sidecar counts": {corev1.PodSpec{InitContainers: []corev1.Container{container("64Mi", ""), sidecar("64Mi")},
			Containers: []corev1.Container{container("128Mi", "")}}, "192Mi", ""},
		"an init container without": {corev1.PodSpec{InitContainers: []corev1.Container{container("", "")},
			Containers: []corev1.Container{container("128Mi", "")}}, "", ""},
		"of the pod": {corev1.PodSpec{Resources: &corev1.ResourceRequirements{Limits: list("96Mi", "")},
			Containers: []corev1.Container{container("", "100m")}}, "96Mi", "100m"},
		"with overhead": {corev1.PodSpec{Overhead: list("16Mi", ""), Containers: []corev1.Container{container("112Mi", "")}}, "128Mi", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := Of(&corev1.Pod{Spec: c.spec})
			expect.Equal(t, "memory and CPU", [2]string{c.memory, c.cpu}, [2]string{text(l.Memory), text(l.CPU)})
		})
	}
}

func TestWords(t *testing.T) {
	small := func(memory, cpu string) string {
		return Of(&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(memory, cpu)}}}).Small()
	}
	for got, want := range map[string]string{
		small("64Mi", "50m"): "its memory limit is 64Mi, of which a gateway takes 24.0MiB and 48.0KiB for each new connection; " +
			"its CPU limit is 50m, enough for about 25 new connections a second and nothing else",
		small("88Mi", "100m") + small("", ""):                                     "",
		Tight(nil) + Tight(&api.Memory{Used: 1}):                                  "",
		Tight(&api.Memory{Limit: 512 << 20, Left: api.HeadRoom, Room: 1}):         "",
		Tight(&api.Memory{Limit: 128 << 20, Left: 31 << 20, Room: 490}):           "of the pod's memory limit of 128.0MiB 31.0MiB are left, enough for about 490 more connections: others are refused",
		Tight(&api.Memory{Limit: 64 << 20, Left: 3<<20 + 1<<19, Killed: 1}) + ".": "of the pod's memory limit of 64.0MiB only 3.5MiB are left: new connections are refused.",
	} {
		expect.Equal(t, "words", want, got)
	}
}
