package installed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
)

func limited(storage string) corev1.Container {
	if storage == "" {
		return corev1.Container{}
	}
	return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(storage)}}}
}

func TestStorageLimit(t *testing.T) {
	sidecar := func(storage string) corev1.Container {
		c := limited(storage)
		c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		return c
	}
	for want, spec := range map[int64]corev1.PodSpec{
		0:         {Containers: []corev1.Container{limited("")}},
		10 << 20:  {Containers: []corev1.Container{limited("10Mi"), limited("")}},
		30 << 20:  {Containers: []corev1.Container{limited("10Mi"), limited("20Mi")}, InitContainers: []corev1.Container{limited("25Mi")}},
		40 << 20:  {Containers: []corev1.Container{limited("10Mi")}, InitContainers: []corev1.Container{limited("40Mi")}},
		15 << 20:  {Containers: []corev1.Container{limited("10Mi")}, InitContainers: []corev1.Container{sidecar("5Mi")}},
		100 << 20: {Containers: []corev1.Container{limited("")}, InitContainers: []corev1.Container{limited("100Mi")}},
		45 << 20:  {Containers: []corev1.Container{limited("10Mi")}, InitContainers: []corev1.Container{sidecar("5Mi"), limited("40Mi"), limited("20Mi"), sidecar("6Mi")}},
		41 << 20:  {Containers: []corev1.Container{limited("35Mi")}, InitContainers: []corev1.Container{limited("40Mi"), sidecar("4Mi"), sidecar("2Mi")}},
	} {
		expect.Equal(t, "limit", want, StorageLimit(&corev1.Pod{Spec: spec}))
	}
}

// TestLogTotal: whatever number of gateways a pod gets, their logs use at most half of what it may
// have, or next to nothing.
func TestLogTotal(t *testing.T) {
	for _, storage := range []string{"", "1Mi", "10Mi", "100Mi", "128Mi", "1Gi", "1Ti"} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{limited(storage)}}}
		limit := StorageLimit(pod)
		var most int64
		const gateways = 100
		for n := range gateways {
			total := LogTotal(pod)
			bounded := limit > 0 && limit < 100<<20
			if limit == 0 && total != 0 || bounded && (total < leastLog || n == 1 && total < limit/10) {
				t.Errorf("%s: gateway %d has %d bytes in all", storage, n, total)
			}
			if most += total; total == 0 {
				most += mostLog
			}
			config, err := json.Marshal(api.Config{Version: api.ConfigVersion, Pod: api.PodRef{Namespace: "shop", Name: "p", UID: "u"},
				PodIPs: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, TrustDomain: "td", Mode: api.Strict, OnFailure: api.FailOpen,
				Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, LogConfig: api.LogConfig{LogTotal: total}})
			if err != nil {
				t.Fatal(err)
			}
			pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *Supervisor(fmt.Sprintf("kube-gateway-%d", n+2), "x", "", string(config)))
		}
		if limit > 0 && most > limit/logShare+gateways*leastLog {
			t.Errorf("%s: the logs take %d bytes", storage, most)
		}
	}
}
