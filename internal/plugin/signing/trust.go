package signing

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "kubectl-gateway"
)

// BundleName returns the name of the ClusterTrustBundle of the signer called name. The API server wants it to begin so.
func BundleName(name string) string {
	return strings.ReplaceAll(name, "/", ":") + ":kube-gateway-trust"
}

// publish has the ClusterTrustBundle hold the roots of a, unless that was the last to be published.
func (s *Server) publish(ctx context.Context, a *ca.Authority) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.published == string(a.Bundle()) {
		return nil
	}
	return s.publishNow(ctx, a)
}

// publishNow is publish whatever was published last: somebody may have changed it. s.mu is held.
func (s *Server) publishNow(ctx context.Context, a *ca.Authority) error {
	bundles, text := s.Client.CertificatesV1().ClusterTrustBundles(), string(a.Bundle())
	now, err := bundles.Get(ctx, BundleName(s.Name), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = bundles.Create(ctx, &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: BundleName(s.Name), Labels: map[string]string{managedByLabel: managedBy}},
			Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: s.Name, TrustBundle: text},
		}, metav1.CreateOptions{FieldManager: managedBy})
		if apierrors.IsNotFound(err) {
			if err = nil; s.published != text {
				s.say("the server has no ClusterTrustBundle objects of certificates.k8s.io/v1 (Kubernetes 1.37 has): " +
					"give the roots to those who ask in a file, as --trust-bundle of init-ca")
			}
		}
	case err == nil && now.Spec.TrustBundle != text:
		now = now.DeepCopy()
		now.Spec.TrustBundle = text
		_, err = bundles.Update(ctx, now, metav1.UpdateOptions{FieldManager: managedBy})
	}
	if err != nil {
		return fmt.Errorf("publishing the roots in clustertrustbundle %s: %w", BundleName(s.Name), err)
	}
	s.published = text
	return nil
}

// refresh publishes the roots that the authority has at present.
func (s *Server) refresh(ctx context.Context) error {
	authority, err := s.Authority(ctx)
	if err != nil {
		return fmt.Errorf("reading the authority: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.publishNow(ctx, authority)
}
