package authority

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// A store keeps the roots that its rotations have retired beside its authorities:
// whatever the trust bundle says later, nobody who uses the store trusts them again.
const (
	retiredName = "authority-retired.pem"
	// retiredKey is in the Secret of the current authority.
	retiredKey = "retired.crt"
	// maxRetired bounds how many are kept. The statement of an older rotation has
	// ended long ago.
	maxRetired = 64
)

// withRoot returns roots with one more, the newest last.
func withRoot(roots []*x509.Certificate, root *x509.Certificate) []*x509.Certificate {
	if slices.ContainsFunc(roots, root.Equal) {
		return roots
	}
	roots = append(slices.Clone(roots), root)
	return roots[max(0, len(roots)-maxRetired):]
}

func parseRetired(text []byte, where string) ([]*x509.Certificate, error) {
	roots, err := ca.ParseCertificates(text)
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the retired roots in %s: %w: %w", where, ca.ErrDamaged, err),
			"bring it back from a backup; without it roots that were retired could come back")
	}
	return roots, nil
}

func (s *dirStore) retiredRoots(context.Context) ([]*x509.Certificate, error) {
	text, err := readPrivate(s.dir, retiredName)
	if errors.Is(err, ErrNoAuthority) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseRetired(text, filepath.Join(s.dir, retiredName))
}

func (s *dirStore) retireRoot(ctx context.Context, root *x509.Certificate) error {
	roots, err := s.retiredRoots(ctx)
	if err != nil || slices.ContainsFunc(roots, root.Equal) {
		return err
	}
	return s.place(ca.EncodeCertificates(withRoot(roots, root)), retiredName, true)
}

// retiredRoots needs that the current authority was read.
func (s *secretStore) retiredRoots(context.Context) ([]*x509.Certificate, error) {
	secret := s.secrets[current]
	if secret == nil || len(secret.Data[retiredKey]) == 0 {
		return nil, nil
	}
	return parseRetired(secret.Data[retiredKey], fmt.Sprintf("%s of secret %s in %s", retiredKey, secret.Name, Namespace))
}

func (s *secretStore) retireRoot(ctx context.Context, root *x509.Certificate) error {
	roots, err := s.retiredRoots(ctx)
	if err != nil || s.secrets[current] == nil || slices.ContainsFunc(roots, root.Equal) {
		return err
	}
	secret := s.secrets[current].DeepCopy()
	secret.Data[retiredKey] = ca.EncodeCertificates(withRoot(roots, root))
	secret, err = s.client.CoreV1().Secrets(Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: managedBy})
	if err != nil {
		return clusterError("noting a retired root in the cluster", "update", "secret "+SecretName, err)
	}
	s.secrets[current] = secret
	return nil
}

// keepRetired copies what old says of retired roots into the Secret that replaces it.
func keepRetired(secret, old *corev1.Secret) {
	if old != nil && len(old.Data[retiredKey]) > 0 {
		secret.Data[retiredKey] = old.Data[retiredKey]
	}
}

// checkNotRetired returns [ErrRetired] if a's own root is one of roots, which where keeps.
func checkNotRetired(a *ca.Authority, roots []*x509.Certificate, where string) error {
	if !slices.ContainsFunc(roots, a.Root().Equal) {
		return nil
	}
	return api.WithHint(fmt.Errorf("the authority %s: %w (%s)", short(a.Root()), ErrRetired, where),
		"use the authority that replaced it; if it really is to come back, remove it from the retired roots first")
}
