package authority

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const meshSigner = "example.com/mesh"

// trustBundle makes roots what a signer is trusted by.
func trustBundle(t *testing.T, c *fakecluster.Cluster, name string, roots ...pki.Pair) {
	t.Helper()
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: strings.ReplaceAll(name, "/", ":")}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: name}}
	for _, root := range roots {
		b.Spec.TrustBundle += string(root.CertPEM())
	}
	if _, err := c.CertificatesV1().ClusterTrustBundles().Update(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		must.Get(c.CertificatesV1().ClusterTrustBundles().Create(t.Context(), b, metav1.CreateOptions{}))(t)
	}
}

func (o *operator) choose(force bool, edit func(*signer.Choice)) (*SignerResult, error) {
	choice := signer.Choice{Name: meshSigner}
	if edit != nil {
		edit(&choice)
	}
	return InitSigner(o.t.Context(), SignerOptions{Location: o.location(), Choice: choice, Force: force})
}

func prints(roots ...pki.Pair) []string {
	var certs []*x509.Certificate
	for _, root := range roots {
		certs = append(certs, root.Cert)
	}
	return slices.Sorted(slices.Values(ca.Fingerprints(certs)))
}

// TestInitSigner: no key is made, and every operator finds the signer.
func TestInitSigner(t *testing.T) {
	c, root := newCluster(t, "uid-1"), pki.Root(t)
	o, other := newOperator(t, c), newOperator(t, c)
	_, err := o.choose(false, nil)
	expect.Refusal(t, "nothing is published", err, signer.ErrNoTrust, meshSigner, "publishes its roots")
	if n := writes(c); n != 0 {
		t.Errorf("%d writes", n)
	}
	trustBundle(t, c, meshSigner, root)
	result := must.Get(o.choose(false, nil))(t)
	if !result.Created || !result.Changed || result.Backup != "" || !result.Signer.Settled() {
		t.Errorf("%+v", result)
	}
	expect.Equal(t, "files", []string{signerName}, names(t, o.dir))
	if info := must.Get(os.Stat(result.File))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if len(c.Secrets()) != 0 {
		t.Error("a Secret was made")
	}
	for _, who := range []*operator{o, other} {
		issuer := must.Get(Open(t.Context(), who.location()))(t)
		expect.Equal(t, "roots", prints(root), issuer.Roots())
		expect.Equal(t, "trust domain", "cluster.local", issuer.TrustDomain())
		_, err := Load(t.Context(), who.location())
		expect.Refusal(t, "the key of an authority", err, ErrSigner, "signer example.com/mesh", "revokes")
		_, err = OpenRotation(t.Context(), who.location())
		expect.Refusal(t, "its rotation", err, ErrSigner, "signer example.com/mesh", "revokes")
		_, err = Revoke(t.Context(), who.location(), nil)
		expect.Refusal(t, "revoking", err, ErrSigner, "signer example.com/mesh", "revokes")
	}
	n := writes(c)
	if again := must.Get(o.choose(false, nil))(t); again.Created || again.Changed || writes(c) != n {
		t.Errorf("again: %+v, %d writes", again, writes(c)-n)
	}
	// What the cluster has lost comes back.
	must.Do(t, c.CoreV1().ConfigMaps(Namespace).Delete(t.Context(), BundleName, metav1.DeleteOptions{}))
	_, err = Open(t.Context(), o.location())
	expect.Refusal(t, "lost", err, ErrNoBundle, meshSigner, "init-ca --signer=example.com/mesh")
	if again := must.Get(o.choose(false, nil))(t); !again.Changed {
		t.Errorf("lost: %+v", again)
	}
	must.Get(Open(t.Context(), other.location()))(t)
}

// TestSignerWithoutRightsToSecrets: nobody needs them.
func TestSignerWithoutRightsToSecrets(t *testing.T) {
	c := newCluster(t, "uid-1")
	trustBundle(t, c, meshSigner, pki.Root(t))
	for _, verb := range []string{"get", "list", "create"} {
		c.Forbid(verb, "secrets")
	}
	o, other := newOperator(t, c), newOperator(t, c)
	must.Get(o.choose(false, nil))(t)
	must.Get(Open(t.Context(), o.location()))(t)
	must.Get(Open(t.Context(), other.location()))(t)
	if _, err := OpenRotation(t.Context(), other.location()); !errors.Is(err, ErrSigner) {
		t.Error(err)
	}
}

// TestWhoHasChosenASignerBelievesNoOther: the ConfigMap is others' to write.
func TestWhoHasChosenASignerBelievesNoOther(t *testing.T) {
	c := newCluster(t, "uid-1")
	root, evil := pki.Root(t), pki.Root(t)
	trustBundle(t, c, meshSigner, root)
	trustBundle(t, c, "evil.example.com/mesh", evil)
	o, other := newOperator(t, c), newOperator(t, c)
	must.Get(o.choose(false, nil))(t)
	_, err := other.choose(false, func(c *signer.Choice) { c.Name = "evil.example.com/mesh" })
	expect.Refusal(t, "another signer", err, ErrExists, "signer example.com/mesh", "--force")
	must.Get(other.choose(true, func(c *signer.Choice) { c.Name = "evil.example.com/mesh" }))(t)
	_, err = Open(t.Context(), o.location())
	expect.Refusal(t, "another one in the ConfigMap", err, ErrForeign, "signer evil.example.com/mesh", "find out who has chosen another one")

	// Nor an authority in a Secret, which would sign here.
	made := newOperator(t, c)
	must.Get(Init(t.Context(), InitOptions{Location: made.location(), Store: StoreCluster, Force: true}))(t)
	if _, err = Open(t.Context(), o.location()); !errors.Is(err, ErrForeign) {
		t.Errorf("an authority in the cluster: %v", err)
	}
	must.Get(Open(t.Context(), made.location()))(t)

	// Roots that the ConfigMap alone has are given to nobody.
	c = newCluster(t, "uid-1")
	trustBundle(t, c, meshSigner, root)
	o = newOperator(t, c)
	must.Get(o.choose(false, nil))(t)
	m := must.Get(c.CoreV1().ConfigMaps(Namespace).Get(t.Context(), BundleName, metav1.GetOptions{}))(t)
	m.Data[BundleKey] += string(evil.CertPEM())
	must.Get(c.CoreV1().ConfigMaps(Namespace).Update(t.Context(), m, metav1.UpdateOptions{}))(t)
	issuer := must.Get(Open(t.Context(), o.location()))(t)
	expect.Equal(t, "roots", prints(root), issuer.Roots())
	expect.Equal(t, "roots for a gateway that does not trust the other one", prints(root), issuer.Keeping(prints(root)).Roots())
}

// TestASignerInTheAuthoritysPlace: all gateways keep what they trust, the authority is kept as a backup, and
// the way back works.
func TestASignerInTheAuthoritysPlace(t *testing.T) {
	c, root := newCluster(t, "uid-1"), pki.Root(t)
	trustBundle(t, c, meshSigner, root)
	o := newOperator(t, c)
	first := must.Get(Init(t.Context(), InitOptions{Location: o.location(), TrustDomain: "example.org"}))(t).Authority
	_, err := o.choose(false, nil)
	expect.Refusal(t, "an authority is there", err, ErrExists, "", "--force puts the signer in its place")
	result := must.Get(o.choose(true, nil))(t)
	if result.Backup == "" || !result.Created || result.Signer.TrustDomain() != "example.org" || result.Signer.Settled() {
		t.Errorf("%+v", result)
	}
	checkFile(t, result.Backup, first)
	s := must.Get(OpenSigner(t.Context(), o.location()))(t)
	expect.Equal(t, "new", prints(root), ca.Fingerprints(s.New()))
	expect.Equal(t, "gone", []string{first.Roots()[0]}, ca.Fingerprints(s.Gone()))

	must.Do(t, Brought(t.Context(), o.location(), s, s.Trust()))
	if now := must.Get(OpenSigner(t.Context(), o.location()))(t); !now.Settled() {
		t.Error("what was brought is not noted")
	}
	n := writes(c)
	must.Do(t, Brought(t.Context(), o.location(), s, s.Trust()))
	if writes(c) != n {
		t.Error("it was noted again")
	}

	_, err = Init(t.Context(), InitOptions{Location: newOperator(t, c).location()})
	expect.Refusal(t, "an authority in the signer's place", err, ErrForeign, "signer example.com/mesh", "")
	if err := Brought(t.Context(), o.location(), must.Get(signer.New(t.Context(), c, signer.Choice{Name: "other.example.com/x", TrustDomain: "example.org", TrustBundle: string(root.CertPEM())}, nil))(t), nil); !errors.Is(err, ErrForeign) {
		t.Errorf("noted for another signer: %v", err)
	}
	back := must.Get(Init(t.Context(), InitOptions{Location: o.location(), Force: true}))(t)
	a := must.Get(Load(t.Context(), o.location()))(t)
	expect.Equal(t, "the authority", back.Authority.Roots(), a.Roots())
	m := must.Get(c.CoreV1().ConfigMaps(Namespace).Get(t.Context(), BundleName, metav1.GetOptions{}))(t)
	if m.Annotations[signerAnnotation] != "" || slices.Contains(names(t, o.dir), signerName) {
		t.Errorf("something of the signer is left: %v, %v", m.Annotations, names(t, o.dir))
	}
}

// TestASignerBesidesASecret would leave a key in the cluster.
func TestASignerBesidesASecret(t *testing.T) {
	c := newCluster(t, "uid-1")
	trustBundle(t, c, meshSigner, pki.Root(t))
	o := newOperator(t, c)
	must.Get(Init(t.Context(), InitOptions{Location: o.location(), Store: StoreCluster}))(t)
	_, err := o.choose(true, nil)
	expect.Refusal(t, "a Secret", err, ErrExists, "secret kube-gateway-authority", "delete it first")
}

// TestATrustBundleOfTheUsers takes the place of ClusterTrustBundle objects, and can be replaced.
func TestATrustBundleOfTheUsers(t *testing.T) {
	c := newCluster(t, "uid-1")
	first, second := pki.Root(t), pki.Root(t)
	o, other := newOperator(t, c), newOperator(t, c)
	given := func(roots ...pki.Pair) func(*signer.Choice) {
		return func(c *signer.Choice) {
			for _, root := range roots {
				c.TrustBundle += string(root.CertPEM())
			}
		}
	}
	must.Get(o.choose(false, given(first)))(t)
	for _, who := range []*operator{o, other} {
		expect.Equal(t, "roots", prints(first), must.Get(OpenSigner(t.Context(), who.location()))(t).Roots())
	}
	result := must.Get(o.choose(false, given(first, second)))(t)
	if result.Created || !result.Changed {
		t.Errorf("%+v", result)
	}
	s := must.Get(OpenSigner(t.Context(), other.location()))(t)
	expect.Equal(t, "roots", prints(first, second), s.Roots())
	expect.Equal(t, "new", prints(second), ca.Fingerprints(s.New()))
}

// TestTheTrustDomainOfASigner is that of its root, unless the user says otherwise.
func TestTheTrustDomainOfASigner(t *testing.T) {
	a := newTestAuthority(t, "corp.example")
	for given, want := range map[string]string{"": "corp.example", "other.example": "other.example"} {
		c := newCluster(t, "uid-1")
		o := newOperator(t, c)
		result := must.Get(o.choose(false, func(c *signer.Choice) { c.TrustBundle, c.TrustDomain = string(a.Bundle()), given }))(t)
		expect.Equal(t, "trust domain", want, result.Signer.TrustDomain())
		expect.Equal(t, "trust domain of all", want, must.Get(Open(t.Context(), newOperator(t, c).location()))(t).TrustDomain())
	}
}

// TestADamagedChoice is said, here and in the cluster.
func TestADamagedChoice(t *testing.T) {
	c := newCluster(t, "uid-1")
	trustBundle(t, c, meshSigner, pki.Root(t))
	o := newOperator(t, c)
	must.Get(o.choose(false, nil))(t)
	m := must.Get(c.CoreV1().ConfigMaps(Namespace).Get(t.Context(), BundleName, metav1.GetOptions{}))(t).DeepCopy()
	for _, text := range []string{"{", `{"name":"x"}`} {
		broken := m.DeepCopy()
		broken.Annotations[signerAnnotation] = text
		must.Get(c.CoreV1().ConfigMaps(Namespace).Update(t.Context(), broken, metav1.UpdateOptions{}))(t)
		_, err := Open(t.Context(), o.location())
		expect.Refusal(t, text, err, ca.ErrDamaged, "reading the signer", "--force")
	}
	must.Get(c.CoreV1().ConfigMaps(Namespace).Update(t.Context(), m, metav1.UpdateOptions{}))(t)
	must.Do(t, os.WriteFile(filepath.Join(o.dir, signerName), []byte("{"), 0o600))
	_, err := Open(t.Context(), o.location())
	expect.Refusal(t, "the file", err, nil, "signer.json", "choose again")
	must.Do(t, os.Chmod(filepath.Join(o.dir, signerName), 0o644))
	if _, err = Open(t.Context(), o.location()); !errors.Is(err, ErrExposed) {
		t.Errorf("a file that others read: %v", err)
	}
}

// TestTheAuthorityIsTheSigner: an operator without its key chooses it without --force, for themselves alone, and trusts what
// both the ConfigMap and the signer's objects have.
func TestTheAuthorityIsTheSigner(t *testing.T) {
	c, own, next := newCluster(t, "uid-1"), pki.Root(t), pki.Root(t)
	o, other := newOperator(t, c), newOperator(t, c)
	a := must.Get(ca.Import(own.CertPEM(), own.KeyPEM(t), ca.DefaultTrustDomain))(t)
	must.Do(t, CreateDir(o.dir, a))
	must.Get(publishBundle(t.Context(), c, a, nil, false))(t)
	_, err := other.choose(false, nil)
	expect.Refusal(t, "before the signer publishes", err, ErrForeign, "", "--force")
	trustBundle(t, c, meshSigner, own)
	_, err = o.choose(false, nil)
	expect.Refusal(t, "who has the key", err, ErrExists, "", "--force")
	n := writes(c)
	result := must.Get(other.choose(false, nil))(t)
	if !result.Created || !result.Changed || !result.Signer.Own() || !result.Signer.Settled() || result.Backup != "" || writes(c) != n {
		t.Errorf("%+v, %d writes", result, writes(c)-n)
	}
	expect.Equal(t, "files", []string{signerName}, names(t, other.dir))
	if again := must.Get(other.choose(false, nil))(t); again.Created || again.Changed {
		t.Errorf("again: %+v", again)
	}
	must.Get(Load(t.Context(), o.location()))(t)

	roots := func(published, inConfigMap []pki.Pair) ca.Issuer {
		t.Helper()
		trustBundle(t, c, meshSigner, published...)
		m := must.Get(c.CoreV1().ConfigMaps(Namespace).Get(t.Context(), BundleName, metav1.GetOptions{}))(t)
		m.Data[BundleKey] = ""
		for _, root := range inConfigMap {
			m.Data[BundleKey] += string(root.CertPEM())
		}
		must.Get(c.CoreV1().ConfigMaps(Namespace).Update(t.Context(), m, metav1.UpdateOptions{}))(t)
		issuer, err := Open(t.Context(), other.location())
		if err != nil {
			expect.Refusal(t, "no root in both", err, ErrForeign, "is none of it", "right after a rotation, try again")
		}
		return issuer
	}
	old, both, after := []pki.Pair{own}, []pki.Pair{own, next}, []pki.Pair{next}
	// The ConfigMap is ahead of the objects.
	begins := roots(old, both)
	expect.Equal(t, "a rotation begins", prints(old...), begins.Roots())
	expect.Equal(t, "for a gateway that has the new root", prints(both...), slices.Sorted(slices.Values(begins.Keeping(prints(both...)).Roots())))
	expect.Equal(t, "two roots", prints(both...), slices.Sorted(slices.Values(roots(both, both).Roots())))
	expect.Equal(t, "it ends", prints(after...), roots(both, after).Roots())
	expect.Equal(t, "it has ended", prints(after...), roots(after, after).Roots())
	if issuer := roots(old, after); issuer != nil {
		t.Errorf("nothing is in both: %v", issuer.Roots())
	}
	roots(old, old)

	// What is revoked is told to gateways by this operator, too.
	must.Get(Revoke(t.Context(), o.location(), []ca.Revocation{{Serial: "a1", At: time.Now(), Until: time.Now().Add(time.Hour)}}))(t)
	if revoked := must.Get(Open(t.Context(), other.location()))(t).Revocations(); len(revoked.Entries(time.Now())) != 1 {
		t.Errorf("revoked are %v", revoked.Entries(time.Now()))
	}
	// Who takes its place by force does so.
	if forced := must.Get(newOperator(t, c).choose(true, nil))(t); forced.Signer.Own() || !forced.Changed {
		t.Errorf("%+v", forced)
	}
	_, err = Load(t.Context(), o.location())
	expect.Refusal(t, "the authority", err, ErrForeign, "has signer example.com/mesh", "")
}
