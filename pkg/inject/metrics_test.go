package inject

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// TestEnableWithMetrics: the address reaches the gateway, and one that cannot be is an
// error before anything is made.
func TestEnableWithMetrics(t *testing.T) {
	c, in := newCluster(t)
	in.Options.MetricsAddr = ":18445"
	if result := in.Enable(t.Context(), c.Pod("p")); result.Err != nil || result.Action != Enabled {
		t.Fatalf("%+v", result)
	}
	if config, err := installed.ConfigOf(c.Pod("p"), installed.ContainerName); err != nil || config.MetricsAddr != ":18445" {
		t.Errorf("%+v, %v", config, err)
	}
	// Of a gateway that runs it is said that it does otherwise.
	in.Options.MetricsAddr = ""
	if result := in.Enable(t.Context(), c.Pod("p")); result.Action != Unchanged || !strings.Contains(strings.Join(result.Warnings, "\n"), "serve metrics at :18445; --replace changes that") {
		t.Errorf("%+v", result)
	}
}

func TestMetricsThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		addr string
		port corev1.ContainerPort
		want string
	}{
		"free":             {":18445", corev1.ContainerPort{ContainerPort: 8080}, ""},
		"another protocol": {":18445", corev1.ContainerPort{ContainerPort: 18445, Protocol: corev1.ProtocolUDP}, ""},
		"taken":            {":8080", corev1.ContainerPort{ContainerPort: 8080}, "container app listens on port 8080"},
		"taken by name":    {"127.0.0.1:8080", corev1.ContainerPort{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, "container app listens on port 8080"},
		"foreign":          {"192.0.2.1:18445", corev1.ContainerPort{ContainerPort: 8080}, "192.0.2.1, which is not an address of the pod"},
		"nonsense":         {"18445", corev1.ContainerPort{ContainerPort: 8080}, "is not an address with a port"},
		"not wanted":       {"", corev1.ContainerPort{ContainerPort: 18445}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pod := fakecluster.NewPod("p")
			pod.Spec.Containers[0].Ports = []corev1.ContainerPort{test.port}
			c := fakecluster.New(t, pod)
			in := newInjector(t, c)
			in.Options.MetricsAddr = test.addr
			result := in.Enable(t.Context(), c.Pod("p"))
			expect.Error(t, result.Err, test.want)
			if test.want != "" && (len(c.Pod("p").Spec.EphemeralContainers) != 0 || result.Action != Failed) {
				t.Errorf("%+v", result)
			}
		})
	}
}
