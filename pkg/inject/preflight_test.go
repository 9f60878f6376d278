package inject

import (
	"testing"

	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func TestCheckServer(t *testing.T) {
	for delivery, versions := range map[Delivery]map[string]string{
		DeliverySecret: {
			"v1.33.0": "", "v1.37.2": "", "v1.33.4-eks-1234567": "", "v1.34.1+k3s1": "", "v2.0.0": "",
			"v1.32.9": "1.33 or later", "v1.9.0": "1.33 or later", "v1.32.5-gke.100": "1.33 or later", "unknown": "reading the server's version",
		},
		DeliveryCSR: {"v1.25.0": "", "v1.32.9": "", "v1.24.17": "1.25 or later"},
	} {
		for text, want := range versions {
			c := fakecluster.New(t)
			c.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: text}
			expect.Error(t, CheckServer(t.Context(), c.Discovery(), delivery), want)
		}
	}
}
