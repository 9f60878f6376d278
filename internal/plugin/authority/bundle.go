package authority

import (
	"cmp"
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
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// statementLife is how long a statement that two roots belong together holds. A rotation
// that somebody goes on with renews it; one that waits for a node may wait for a weekend.
const statementLife = 72 * time.Hour

const foreignHint = "the cluster's authority was made or rotated elsewhere: ask its operator for a copy of authority.pem as it is now, " +
	"or replace it with 'kubectl gateway init-ca --force' (gateways of the two do not trust each other)"

// bundle is the trust bundle that a cluster has published.
type bundle struct {
	certificates []*x509.Certificate
	trustDomain  string
	// rotation is nil if none is under way.
	rotation *ca.Endorsement
	// revoked is what is said to be revoked.
	revoked []byte
	// signer is the signer that issues certificates in the place of an authority, or nil. Then
	// certificates are the roots that all gateways were brought.
	signer *signer.Choice
}

// holds reports whether gateways that trust b trust the certificates of a, for
// the same trust domain.
func (b *bundle) holds(a *ca.Authority) bool {
	return b.signer == nil && b.trustDomain == a.TrustDomain() && slices.ContainsFunc(b.certificates, a.Root().Equal)
}

// partner returns the other root of the rotation that a's own key has signed for,
// or nil. With [ca.ErrEnded] it returns the root of a statement that does not hold now.
func (b *bundle) partner(a *ca.Authority) (*x509.Certificate, error) {
	fingerprint, err := b.rotation.Partner(a, time.Now())
	for _, cert := range b.certificates {
		if ca.Fingerprint(cert) == fingerprint {
			return cert, err
		}
	}
	return nil, nil
}

// among returns those of roots that are in b.
func (b *bundle) among(roots []*x509.Certificate) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(roots), func(root *x509.Certificate) bool {
		return !slices.ContainsFunc(b.certificates, root.Equal)
	})
}

// trusting returns a with the other root of a rotation that is under way, and what a
// user has to know about it. Of what else is in b nothing is trusted.
func (b *bundle) trusting(a *ca.Authority, retired []*x509.Certificate) (*ca.Authority, []string, error) {
	var remarks []string
	for _, root := range b.among(retired) {
		remarks = append(remarks, fmt.Sprintf("configmap %s in %s has root %s again, which a rotation has retired: gateways are not given it; "+
			"find out who put it back, 'kubectl gateway init-ca' removes it", BundleName, Namespace, short(root)))
	}
	other, err := b.partner(a)
	switch {
	case other == nil || slices.ContainsFunc(retired, other.Equal):
		return a, remarks, nil
	case err != nil:
		return nil, remarks, api.WithHint(fmt.Errorf("configmap %s in %s has root %s besides %s: %w", BundleName, Namespace, short(other), short(a.Root()), err),
			"who rotates the authority goes on with 'kubectl gateway rotate --ca', which renews the statement; if nobody does, "+
				fmt.Sprintf("somebody has put an old one back: remove that root with 'kubectl edit configmap %s -n %s'", BundleName, Namespace))
	}
	return a.Trusting(other), append(remarks, fmt.Sprintf("a rotation of the authority is under way: gateways are given two roots, %s and %s; "+
		"the statement that they belong together ends on %s", short(a.Root()), short(other), b.rotation.NotAfter.Format(time.RFC3339))), nil
}

// states reports whether b says what publishing a and e would make it say, and goes on
// to say it for half the life of e.
func (b *bundle) states(a *ca.Authority, e *ca.Endorsement) bool {
	roots, want := slices.Sorted(slices.Values(ca.Fingerprints(b.certificates))), slices.Sorted(slices.Values(a.Roots()))
	if !slices.Equal(roots, want) || b.trustDomain != a.TrustDomain() {
		return false
	}
	if e == nil || b.rotation == nil {
		return e == nil && b.rotation == nil
	}
	other, err := b.partner(a)
	return b.rotation.Old == e.Old && b.rotation.New == e.New && other != nil && err == nil &&
		b.rotation.NotAfter.After(e.NotAfter.Add(-statementLife/2))
}

// String names the authorities of b.
func (b *bundle) String() string {
	if b.signer != nil {
		return fmt.Sprintf("signer %s of trust domain %s", b.signer.Name, b.trustDomain)
	}
	var names []string
	for _, cert := range b.certificates {
		names = append(names, short(cert))
	}
	return strings.Join(names, ", ") + " of trust domain " + b.trustDomain
}

// short is enough of a fingerprint for a person to tell two certificates apart.
func short(cert *x509.Certificate) string { return ca.Fingerprint(cert)[:16] }

func foreignError(b *bundle) error {
	return api.WithHint(fmt.Errorf("%w: configmap %s in %s has %s", ErrForeign, BundleName, Namespace, b), foreignHint)
}

// fetchBundle reads the cluster's trust bundle. The error is [ErrNoBundle] if
// there is none, and [ca.ErrDamaged] if it cannot be read.
func fetchBundle(ctx context.Context, client kubernetes.Interface) (*bundle, error) {
	m, err := getBundle(ctx, client)
	if err != nil {
		return nil, err
	}
	return readBundle(m)
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

func readBundle(m *corev1.ConfigMap) (*bundle, error) {
	certs, err := ca.ParseCertificates([]byte(m.Data[BundleKey]))
	var named string
	// The roots of a signer may be those of several trust domains.
	if err == nil && m.Annotations[signerAnnotation] == "" {
		named, err = ca.TrustDomainOf(certs)
	}
	td := cmp.Or(m.Annotations[TrustDomainAnnotation], named)
	if err == nil && (identity.ValidateTrustDomain(td) != nil || named != "" && named != td) {
		err = errors.New("its trust domain is unclear")
	}
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the trust bundle (configmap %s in %s): %w: %w", BundleName, Namespace, ca.ErrDamaged, err),
			"delete it, then publish it again with 'kubectl gateway init-ca'")
	}
	b := &bundle{certificates: certs, trustDomain: td, revoked: []byte(m.Data[RevokedKey])}
	if err := b.readSigner(m); err != nil {
		return nil, err
	}
	// A statement that cannot be read endorses nothing.
	if text := m.Annotations[rotationAnnotation]; text != "" && json.Unmarshal([]byte(text), &b.rotation) != nil {
		b.rotation = nil
	}
	return b, nil
}

// publishBundle makes a's certificates the trust bundle of the cluster, and reports
// whether it had to change anything. It removes retired roots, and leaves another
// authority's bundle alone ([ErrForeign]) unless force is set. The error is [ErrChanged],
// force or not, if somebody else wrote at the same time.
func publishBundle(ctx context.Context, client kubernetes.Interface, a *ca.Authority, retired []*x509.Certificate, force bool) (changed bool, err error) {
	old, err := getBundle(ctx, client)
	if err != nil && !errors.Is(err, ErrNoBundle) {
		return false, err
	}
	var e *ca.Endorsement
	if old != nil {
		switch bundle, err := readBundle(old); {
		case err == nil && bundle.holds(a) && len(bundle.among(retired)) == 0:
			return false, nil
		case err == nil && bundle.holds(a):
			// The other root of a rotation stays.
			own := a
			if a, _, err = bundle.trusting(a, retired); err != nil {
				return false, err
			}
			if a != own {
				e = bundle.rotation
			}
		case err != nil && !force:
			return false, err
		case !force:
			return false, foreignError(bundle)
		}
	}
	_, err = putBundle(ctx, client, old, a, e)
	return err == nil, err
}

// putBundle writes a's certificates, and what makes them those of a rotation, in
// place of the ConfigMap that was read; old is nil if there was none.
func putBundle(ctx context.Context, client kubernetes.Interface, old *corev1.ConfigMap, a *ca.Authority, e *ca.Endorsement) (*bundle, error) {
	m := old.DeepCopy()
	if old == nil {
		m = &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a)}
	}
	setMeta(&m.ObjectMeta, a.TrustDomain())
	delete(m.Annotations, rotationAnnotation)
	delete(m.Annotations, signerAnnotation)
	if e != nil {
		text, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("encoding the rotation's signatures: %w", err)
		}
		m.Annotations[rotationAnnotation] = string(text)
	}
	// What a root has revoked goes with it.
	revoked, _ := a.ReadRevocations([]byte(m.Data[RevokedKey]))
	m.Data, m.BinaryData = map[string]string{BundleKey: string(a.Bundle())}, nil
	if revoked != nil {
		m.Data[RevokedKey] = string(revoked.Encode())
	}
	return writeBundle(ctx, client, m, old == nil)
}

// writeBundle creates m, or puts it in the place of what was read.
func writeBundle(ctx context.Context, client kubernetes.Interface, m *corev1.ConfigMap, create bool) (_ *bundle, err error) {
	configMaps, verb := client.CoreV1().ConfigMaps(Namespace), "update"
	if create {
		verb = "create"
		m, err = configMaps.Create(ctx, m, metav1.CreateOptions{FieldManager: managedBy})
	} else {
		// The resource version of what was read makes the server refuse the update if
		// somebody else came first.
		m, err = configMaps.Update(ctx, m, metav1.UpdateOptions{FieldManager: managedBy})
	}
	if err != nil {
		return nil, clusterError("publishing the trust bundle", verb, "configmap "+BundleName, err)
	}
	return readBundle(m)
}
