package authority

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Where the cluster keeps its part of the authority.
const (
	// Namespace holds both objects.
	Namespace = metav1.NamespaceSystem
	// BundleName is the ConfigMap with the trust bundle.
	BundleName = "kube-gateway-trust"
	// BundleKey is the key of the ConfigMap that holds certificates in PEM form.
	BundleKey = "ca.crt"
	// SecretName is the Secret with the authority itself (--store=cluster).
	SecretName = "kube-gateway-authority"
	// TrustDomainAnnotation stands on both.
	TrustDomainAnnotation = "kubectl-gateway.github.io/trust-domain"
	// RotationAnnotation stands on the trust bundle while a rotation is under way.
	RotationAnnotation = "kubectl-gateway.github.io/rotation"

	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "kubectl-gateway"
)

const foreignHint = "the cluster's authority was made or rotated elsewhere: ask its operator for a copy of authority.pem as it is now, " +
	"or replace it with 'kubectl gateway init-ca --force' (gateways of the two do not trust each other)"

// ClusterUID returns the uid of the namespace kube-system, which never changes
// during a cluster's life and differs between clusters.
func ClusterUID(ctx context.Context, client kubernetes.Interface) (string, error) {
	ns, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", clusterError("finding out which cluster this is", "get", "namespace "+metav1.NamespaceSystem, err)
	}
	if ns.UID == "" {
		return "", errors.New("finding out which cluster this is: the namespace kube-system has no uid")
	}
	return string(ns.UID), nil
}

// Bundle is what a cluster has published as its trust bundle.
type Bundle struct {
	Certificates []*x509.Certificate
	TrustDomain  string
	// rotation is nil if none is under way.
	rotation *ca.Endorsement
}

// Holds reports whether gateways that trust b trust the certificates of a, for
// the same trust domain.
func (b *Bundle) Holds(a *ca.Authority) bool {
	return b.TrustDomain == a.TrustDomain() && slices.ContainsFunc(b.Certificates, a.Root().Equal)
}

// partner returns the other root of the rotation that a's own key vouches for,
// or nil.
func (b *Bundle) partner(a *ca.Authority) *x509.Certificate {
	fingerprint := b.rotation.Partner(a)
	for _, cert := range b.Certificates {
		if ca.Fingerprint(cert) == fingerprint {
			return cert
		}
	}
	return nil
}

// short is enough of a fingerprint for a person to tell two certificates apart.
func short(cert *x509.Certificate) string { return ca.Fingerprint(cert)[:16] }

// String names the authorities of b.
func (b *Bundle) String() string {
	var out bytes.Buffer
	for i, cert := range b.Certificates {
		if i > 0 {
			out.WriteString(", ")
		}
		out.WriteString(short(cert))
	}
	fmt.Fprintf(&out, " of trust domain %s", b.TrustDomain)
	return out.String()
}

// FetchBundle reads the cluster's trust bundle. The error is [ErrNoBundle] if
// there is none and [ErrDamaged] if it cannot be read.
func FetchBundle(ctx context.Context, client kubernetes.Interface) (*Bundle, error) {
	m, err := getBundle(ctx, client)
	if err != nil {
		return nil, err
	}
	return readBundle(m)
}

// parseEndorsement reads the annotation. One that cannot be read endorses nothing.
func parseEndorsement(text string) *ca.Endorsement {
	var e ca.Endorsement
	if text == "" || json.Unmarshal([]byte(text), &e) != nil {
		return nil
	}
	return &e
}

func getBundle(ctx context.Context, client kubernetes.Interface) (*corev1.ConfigMap, error) {
	m, err := client.CoreV1().ConfigMaps(Namespace).Get(ctx, BundleName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, api.WithHint(ErrNoBundle, "'kubectl gateway init-ca' publishes it")
	}
	if err != nil {
		return nil, clusterError("reading the trust bundle", "get", "configmap "+BundleName, err)
	}
	return m, nil
}

func readBundle(m *corev1.ConfigMap) (*Bundle, error) {
	damaged := func(err error) error {
		return api.WithHint(fmt.Errorf("reading the trust bundle (configmap %s in %s): %w", BundleName, Namespace, err),
			"delete it, then publish it again with 'kubectl gateway init-ca'")
	}
	certs, err := ca.ParseCertificates([]byte(m.Data[BundleKey]))
	if err != nil {
		return nil, damaged(fmt.Errorf("%w: %w", ca.ErrDamaged, err))
	}
	named, err := ca.TrustDomainOf(certs)
	if err != nil {
		return nil, damaged(err)
	}
	td := m.Annotations[TrustDomainAnnotation]
	if td == "" {
		td = named
	}
	if identity.ValidateTrustDomain(td) != nil || named != "" && named != td {
		return nil, damaged(fmt.Errorf("%w: its trust domain is unclear", ca.ErrDamaged))
	}
	return &Bundle{Certificates: certs, TrustDomain: td, rotation: parseEndorsement(m.Annotations[RotationAnnotation])}, nil
}

// PublishBundle makes a's certificates the trust bundle of the cluster and
// reports whether it had to change anything. Another authority's bundle is left
// alone ([ErrForeign]) unless force is set. The error is [ErrChanged] if
// somebody else wrote at the same time, force or not.
func PublishBundle(ctx context.Context, client kubernetes.Interface, a *ca.Authority, force bool) (changed bool, err error) {
	configMaps := client.CoreV1().ConfigMaps(Namespace)
	old, err := getBundle(ctx, client)
	if errors.Is(err, ErrNoBundle) {
		m := &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a), Data: map[string]string{BundleKey: string(a.Bundle())}}
		_, err := configMaps.Create(ctx, m, metav1.CreateOptions{FieldManager: managedBy})
		return err == nil, clusterError("publishing the trust bundle", "create", "configmap "+BundleName, err)
	}
	if err != nil {
		return false, err
	}
	bundle, err := readBundle(old)
	switch {
	case err == nil && bundle.Holds(a):
		return false, nil
	case err != nil && !force:
		return false, err
	case !force:
		return false, foreignError(bundle)
	}
	// The resource version of what was read makes the server refuse the
	// update if somebody else came first.
	m := old.DeepCopy()
	setMeta(&m.ObjectMeta, a)
	delete(m.Annotations, RotationAnnotation)
	m.Data = map[string]string{BundleKey: string(a.Bundle())}
	m.BinaryData = nil
	_, err = configMaps.Update(ctx, m, metav1.UpdateOptions{FieldManager: managedBy})
	return err == nil, clusterError("publishing the trust bundle", "update", "configmap "+BundleName, err)
}

// PublishAuthority stores a, key included, in the cluster's Secret and reports
// whether it had to change anything. Errors are those of [PublishBundle].
func PublishAuthority(ctx context.Context, client kubernetes.Interface, a *ca.Authority, force bool) (changed bool, err error) {
	data, err := secretData(a)
	if err != nil {
		return false, err
	}
	secrets := client.CoreV1().Secrets(Namespace)
	old, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s := &corev1.Secret{ObjectMeta: objectMeta(SecretName, a), Type: corev1.SecretTypeTLS, Data: data}
		_, err := secrets.Create(ctx, s, metav1.CreateOptions{FieldManager: managedBy})
		return err == nil, clusterError("storing the authority in the cluster", "create", "secret "+SecretName, err)
	}
	if err != nil {
		return false, clusterError("storing the authority in the cluster", "get", "secret "+SecretName, err)
	}
	stored, err := readSecret(old)
	switch {
	case err == nil && stored.Equal(a):
		return false, nil
	case err != nil && !force:
		return false, err
	case !force:
		return false, api.WithHint(fmt.Errorf("secret %s in %s holds another authority: %w", SecretName, Namespace, ErrForeign), foreignHint)
	}
	s := old.DeepCopy()
	setMeta(&s.ObjectMeta, a)
	s.Data = data
	_, err = secrets.Update(ctx, s, metav1.UpdateOptions{FieldManager: managedBy})
	return err == nil, clusterError("storing the authority in the cluster", "update", "secret "+SecretName, err)
}

// FetchAuthority reads the authority that the cluster's Secret holds. The error
// is [ErrNoAuthority] if there is no Secret, and otherwise as that of [LoadDir].
func FetchAuthority(ctx context.Context, client kubernetes.Interface) (*ca.Authority, error) {
	s, err := client.CoreV1().Secrets(Namespace).Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w in the cluster", ErrNoAuthority)
	}
	if err != nil {
		return nil, clusterError("reading the cluster's authority", "get", "secret "+SecretName, err)
	}
	return readSecret(s)
}

// secretExists reports whether there is a Secret for the authority, readable as
// one or not. One that may not be seen counts as none.
func secretExists(ctx context.Context, client kubernetes.Interface) (bool, error) {
	_, err := client.CoreV1().Secrets(Namespace).Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return false, nil
	}
	return err == nil, clusterError("looking for an authority in the cluster", "get", "secret "+SecretName, err)
}

func secretData(a *ca.Authority) (map[string][]byte, error) {
	certs, key, err := a.PEM()
	if err != nil {
		return nil, err
	}
	return map[string][]byte{corev1.TLSCertKey: certs, corev1.TLSPrivateKeyKey: key}, nil
}

func readSecret(s *corev1.Secret) (*ca.Authority, error) { return readSecretFor(s, false) }

// readSecretFor reads an authority that need not be valid any more if expired is
// set: one that signs nothing.
func readSecretFor(s *corev1.Secret, expired bool) (*ca.Authority, error) {
	a, err := ca.Import(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey], s.Annotations[TrustDomainAnnotation])
	if err == nil && !expired {
		err = a.ValidAt(time.Now())
	}
	if err == nil {
		return a, nil
	}
	err = fmt.Errorf("reading secret %s in %s: %w", s.Name, Namespace, err)
	if errors.Is(err, ca.ErrExpired) {
		return nil, err
	}
	return nil, api.WithHint(err, "bring the Secret back from a backup, or replace it with 'kubectl gateway init-ca --force --store=cluster'")
}

func foreignError(b *Bundle) error {
	return api.WithHint(fmt.Errorf("%w: configmap %s in %s has %s", ErrForeign, BundleName, Namespace, b), foreignHint)
}

func objectMeta(name string, a *ca.Authority) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: Namespace, Name: name}
	setMeta(&m, a)
	return m
}

func setMeta(m *metav1.ObjectMeta, a *ca.Authority) {
	metav1.SetMetaDataLabel(m, managedByLabel, managedBy)
	metav1.SetMetaDataAnnotation(m, TrustDomainAnnotation, a.TrustDomain())
}

// clusterError says what was being done and what to do about it. A nil err
// stays nil.
func clusterError(doing, verb, object string, err error) error {
	if err == nil {
		return nil
	}
	wrapped := fmt.Errorf("%s: %w", doing, err)
	switch {
	case errors.Is(err, context.Canceled):
		return wrapped
	case apierrors.IsForbidden(err):
		kind, name, _ := strings.Cut(object, " ")
		where, flag := " in namespace "+Namespace, " -n "+Namespace
		if kind == "namespace" {
			where, flag = "", ""
		}
		return api.WithHint(wrapped, fmt.Sprintf("you need permission to %s %s%s; 'kubectl auth can-i %s %ss/%s%s' tells whether you have it, and a cluster administrator can grant it",
			verb, object, where, verb, kind, name, flag))
	case apierrors.IsUnauthorized(err):
		return api.WithHint(wrapped, "the kubeconfig's credentials are refused: log in again, or choose another --context or --user")
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return api.WithHint(fmt.Errorf("%s: %s: %w", doing, object, ErrChanged), "run the command again")
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		return api.WithHint(wrapped, "is the cluster reachable? 'kubectl get namespaces' should work")
	}
	return wrapped
}
