package authority

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// secretStore keeps authorities in Secrets of the cluster. It changes only what it
// has read.
type secretStore struct {
	client  kubernetes.Interface
	secrets [slotCount]*corev1.Secret
}

var slotSecrets = [slotCount]string{current: SecretName, next: NextSecretName, previous: PreviousSecretName}

func (s *secretStore) String() string { return "secret " + SecretName + " in " + Namespace }

func (s *secretStore) read(ctx context.Context) (state, error) {
	return readSlots(func(from slot) (*ca.Authority, error) { return s.get(ctx, from) }, "the cluster")
}

// get reads one slot. The error is [ErrNoAuthority] if there is no Secret, and
// otherwise as that of [LoadDir].
func (s *secretStore) get(ctx context.Context, from slot) (*ca.Authority, error) {
	secret, err := s.client.CoreV1().Secrets(Namespace).Get(ctx, slotSecrets[from], metav1.GetOptions{})
	s.secrets[from] = nil
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w in the cluster", ErrNoAuthority)
	}
	if err != nil {
		return nil, clusterError("reading the cluster's authority", "get", "secret "+slotSecrets[from], err)
	}
	s.secrets[from] = secret
	a, err := ca.Import(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey], secret.Annotations[TrustDomainAnnotation])
	if err == nil {
		err = checkTime(a, from)
	}
	if err == nil {
		return a, nil
	}
	err = fmt.Errorf("reading secret %s in %s: %w", secret.Name, Namespace, err)
	if errors.Is(err, ca.ErrExpired) {
		return nil, err
	}
	return nil, api.WithHint(err, "bring the Secret back from a backup, or replace it with 'kubectl gateway init-ca --force --store=cluster'")
}

// publish makes a the current authority, and reports whether it had to change
// anything. Errors are those of [publishBundle].
func (s *secretStore) publish(ctx context.Context, a *ca.Authority, force bool) (changed bool, err error) {
	old, err := s.get(ctx, current)
	switch {
	case errors.Is(err, ErrNoAuthority):
	case a.Equal(old):
		return false, nil
	case err != nil && (!force || s.secrets[current] == nil):
		return false, err
	case !force:
		return false, api.WithHint(fmt.Errorf("%s holds another authority: %w", s, ErrForeign), foreignHint)
	}
	err = s.replace(ctx, a)
	return err == nil, err
}

func (s *secretStore) fill(ctx context.Context, to slot, a *ca.Authority) error {
	secret := &corev1.Secret{ObjectMeta: objectMeta(slotSecrets[to], a), Type: corev1.SecretTypeTLS}
	return s.write(ctx, to, "create", secret, a)
}

func (s *secretStore) replace(ctx context.Context, a *ca.Authority) error {
	if s.secrets[current] == nil {
		return s.fill(ctx, current, a)
	}
	secret := s.secrets[current].DeepCopy()
	setMeta(&secret.ObjectMeta, a.TrustDomain())
	return s.write(ctx, current, "update", secret, a)
}

func (s *secretStore) write(ctx context.Context, to slot, verb string, secret *corev1.Secret, a *ca.Authority) error {
	certs, key, err := a.PEM()
	if errors.Is(err, ca.ErrHeld) {
		return api.WithHint(fmt.Errorf("secret %s in %s would have the key in the open: %w", slotSecrets[to], Namespace, err),
			fmt.Sprintf("leave out --store=cluster; a copy that the cluster has already goes with 'kubectl delete secret %s -n %s'", SecretName, Namespace))
	}
	if err != nil {
		return err
	}
	secret.Data = map[string][]byte{corev1.TLSCertKey: certs, corev1.TLSPrivateKeyKey: key}
	keepRetired(secret, s.secrets[to])
	secrets := s.client.CoreV1().Secrets(Namespace)
	if verb == "create" {
		secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: managedBy})
	} else {
		secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: managedBy})
	}
	if err != nil {
		return clusterError("storing an authority in the cluster", verb, "secret "+slotSecrets[to], err)
	}
	s.secrets[to] = secret
	return nil
}

// empty makes no backup: keys of authorities that nobody trusts any more would
// pile up where every administrator of the cluster can read them.
func (s *secretStore) empty(ctx context.Context, from slot, _ bool) error {
	secret := s.secrets[from]
	if secret == nil {
		return nil
	}
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}}
	err := s.client.CoreV1().Secrets(Namespace).Delete(ctx, secret.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return clusterError("removing an authority from the cluster", "delete", "secret "+secret.Name, err)
	}
	s.secrets[from] = nil
	return nil
}
