package inject

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// deliver gives the gateway called name, which waits for one, its certificate.
func (in *Injector) deliver(ctx context.Context, pod *corev1.Pod, name string) error {
	_, err := in.Gateways.Renew(ctx, pod.Namespace, pod.Name, name, func(csr []byte) (*api.IssuedCertificate, error) {
		// What answers an exec is found by its pod's name: sign only while that is
		// still the pod that was meant, and for the addresses it has now.
		now, err := installed.Reread(ctx, in.Client, pod)
		if err != nil {
			return nil, err
		}
		leaf, err := in.Authority.Sign(csr, ca.LeafRequest{
			Identity: installed.Identity(now, in.Authority.TrustDomain()), IPs: installed.PodIPs(now), TTL: in.Options.TTL,
		})
		if err != nil {
			return nil, err
		}
		return &api.IssuedCertificate{Certificate: string(leaf.CertPEM), Bundle: string(in.Authority.Bundle())}, nil
	})
	if err != nil {
		return fmt.Errorf("giving %s its certificate: %w", name, err)
	}
	return nil
}
