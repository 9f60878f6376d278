package inject

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

const (
	// minServer is the first version with ephemeral containers for everybody
	// (KEP-277).
	minServer = "1.25"
	// minServerSecret is the first version whose node authorizer lets a kubelet
	// read a Secret that only an ephemeral container names (kubernetes#129670).
	minServerSecret = "1.33"
)

// CheckServer reports whether the API server is new enough for a delivery.
func CheckServer(ctx context.Context, client discovery.ServerVersionInterface, delivery Delivery) error {
	info, err := discovery.ToServerVersionInterfaceWithContext(client).ServerVersionWithContext(ctx)
	if err != nil {
		return fmt.Errorf("reading the server's version: %w", err)
	}
	server, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return api.WithHint(fmt.Errorf("reading the server's version %q: %w", info.GitVersion, err),
			"is this the API server of a cluster? 'kubectl version' shows what it says")
	}
	needed, hint := minServerSecret, "before 1.33 a kubelet may not read the Secret of an ephemeral container: "+
		"--delivery=csr needs none, or upgrade the cluster"
	if delivery == DeliveryCSR {
		needed, hint = minServer, "before 1.25 clusters have no ephemeral containers: upgrade the cluster"
	}
	if server.LessThan(version.MustParseGeneric(needed)) {
		return api.WithHint(fmt.Errorf("the server runs Kubernetes %s, and %s or later is needed", info.GitVersion, needed), hint)
	}
	return nil
}

// ErrOtherAddresses says that the gateway was made for other addresses than its pod
// has: the kubelet started it again in a new sandbox.
var ErrOtherAddresses = installed.ErrOtherAddresses

// checkMetricsPort reports that pod has another use for the port of address, where metrics
// are to be served, as far as its containers declare their ports.
func checkMetricsPort(pod *corev1.Pod, address string) error {
	if address == "" {
		return nil
	}
	addr, err := api.ParseMetricsAddr(address)
	if err != nil {
		return err
	}
	if name := survey.DeclaredPort(pod, addr.Port()); name != "" {
		return api.WithHint(fmt.Errorf("container %s listens on port %d, at which metrics are to be served", name, addr.Port()),
			"give another port to --metrics-addr")
	}
	return nil
}
