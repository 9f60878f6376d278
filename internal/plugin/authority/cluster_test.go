package authority

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestClusterUID(t *testing.T) {
	if uid, err := clusterUID(t.Context(), newCluster(t, "uid-1")); err != nil || uid != "uid-1" {
		t.Errorf("%q, %v", uid, err)
	}
	if uid, err := clusterUID(t.Context(), newCluster(t, "")); err == nil {
		t.Errorf("%q without a uid", uid)
	}
	cluster := newCluster(t, "uid-1")
	cluster.Forbid("get", "namespaces")
	if _, err := clusterUID(t.Context(), cluster); !apierrors.IsForbidden(err) || !strings.Contains(api.Hint(err), "may get namespace kube-system; ") {
		t.Errorf("%v, hint %q", err, api.Hint(err))
	}
}

func testMeta(name, trustDomain string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "kube-system", Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "kubectl-gateway"},
		Annotations: map[string]string{"kubectl-gateway.github.io/trust-domain": trustDomain}}
}

func TestPublishBundle(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	if _, err := fetchBundle(ctx, cluster); !errors.Is(err, ErrNoBundle) {
		t.Fatalf("before: %v", err)
	}
	a := newTestAuthority(t, "cluster.local")
	if changed, err := publishBundle(ctx, cluster, a, nil, false); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	m := must.Get(cluster.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-gateway-trust", metav1.GetOptions{}))(t)
	m.TypeMeta, m.ManagedFields = metav1.TypeMeta{}, nil
	want := &corev1.ConfigMap{ObjectMeta: testMeta("kube-gateway-trust", "cluster.local"), Data: map[string]string{"ca.crt": string(a.Bundle())}}
	expect.Equal(t, "the ConfigMap", want, m)
	before := writes(cluster)
	if changed, err := publishBundle(ctx, cluster, a, nil, false); err != nil || changed || writes(cluster) != before {
		t.Errorf("again: changed %v, %v", changed, err)
	}

	b := newTestAuthority(t, "cluster.local")
	if _, err := publishBundle(ctx, cluster, b, nil, false); !errors.Is(err, ErrForeign) || !strings.Contains(api.Hint(err), "--force") || writes(cluster) != before {
		t.Errorf("another authority: %v", err)
	}
	if changed, err := publishBundle(ctx, cluster, b, nil, true); err != nil || !changed {
		t.Errorf("by force: changed %v, %v", changed, err)
	}
	bundle, err := fetchBundle(ctx, cluster)
	if err != nil || !bundle.holds(b) || bundle.holds(a) || bundle.trustDomain != "cluster.local" {
		t.Errorf("bundle %v, %v", bundle, err)
	}
}

// A bundle with more than one authority is what a rotation looks like.
func TestBundleOfTwo(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	a, b, c := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	m := &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a), Data: map[string]string{BundleKey: string(a.Bundle()) + string(b.Bundle())}}
	must.Get(cluster.CoreV1().ConfigMaps(Namespace).Create(ctx, m, metav1.CreateOptions{}))(t)
	for _, x := range []*ca.Authority{a, b} {
		if changed, err := publishBundle(ctx, cluster, x, nil, false); err != nil || changed {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	if _, err := publishBundle(ctx, cluster, c, nil, false); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

// The same root may serve another trust domain elsewhere; its gateways would
// refuse ours.
func TestBundleOfAnotherTrustDomain(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	root := pki.Root(t)
	imported := func(trustDomain string) *ca.Authority {
		return must.Get(ca.Import(root.CertPEM(), root.KeyPEM(t), trustDomain))(t)
	}
	must.Get(publishBundle(ctx, cluster, imported("a.example"), nil, false))(t)
	if _, err := publishBundle(ctx, cluster, imported("b.example"), nil, false); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

func TestDamagedBundle(t *testing.T) {
	a, other := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "other.local")
	_, key, err := a.PEM()
	must.Do(t, err)
	for name, data := range map[string]string{
		"empty": "", "text": "hello", "of another trust domain": string(other.Bundle()), "with a key": string(a.Bundle()) + string(key),
	} {
		ctx, cluster := t.Context(), newCluster(t, "uid-1")
		m := &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a), Data: map[string]string{BundleKey: data}}
		must.Get(cluster.CoreV1().ConfigMaps(Namespace).Create(ctx, m, metav1.CreateOptions{}))(t)
		before := writes(cluster)
		if _, err := fetchBundle(ctx, cluster); !errors.Is(err, ca.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := publishBundle(ctx, cluster, a, nil, false); !errors.Is(err, ca.ErrDamaged) || writes(cluster) != before {
			t.Errorf("%s: publishing: %v", name, err)
		} else {
			expect.Message(t, name, err)
		}
		if changed, err := publishBundle(ctx, cluster, a, nil, true); err != nil || !changed {
			t.Errorf("%s: by force: %v", name, err)
		}
		if b, err := fetchBundle(ctx, cluster); err != nil || !b.holds(a) {
			t.Errorf("%s: afterwards %v, %v", name, b, err)
		}
	}
}

// Whoever writes between reading and writing wins, force or not: that is for
// the server to notice, by the resource version that an update carries.
func TestConcurrentWriters(t *testing.T) {
	resource := schema.GroupResource{Resource: "configmaps"}
	a, b := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	for name, publish := range map[string]func(*fakecluster.Cluster, *ca.Authority, bool) error{
		"configmaps": func(c *fakecluster.Cluster, a *ca.Authority, force bool) error {
			_, err := publishBundle(t.Context(), c, a, nil, force)
			return err
		},
		"secrets": func(c *fakecluster.Cluster, a *ca.Authority, force bool) error {
			_, err := (&secretStore{client: c}).publish(t.Context(), a, force)
			return err
		},
	} {
		cluster := newCluster(t, "uid-1")
		refuse(cluster, "create", name, apierrors.NewAlreadyExists(resource, "x"))
		if err := publish(cluster, a, true); !errors.Is(err, ErrChanged) || api.Hint(err) == "" {
			t.Errorf("%s: creating: %v", name, err)
		}

		cluster = newCluster(t, "uid-1")
		must.Do(t, publish(cluster, a, false))
		// The fake server compares no versions, so this does it.
		setVersion := func(object runtime.Object) { object.(metav1.Object).SetResourceVersion("7") }
		cluster.PrependReactor("get", name, func(action clienttesting.Action) (bool, runtime.Object, error) {
			get := action.(clienttesting.GetAction)
			object, err := cluster.Tracker().Get(get.GetResource(), get.GetNamespace(), get.GetName())
			if err == nil {
				setVersion(object)
			}
			return true, object, err
		})
		sent := ""
		cluster.PrependReactor("update", name, func(action clienttesting.Action) (bool, runtime.Object, error) {
			sent = action.(clienttesting.UpdateAction).GetObject().(metav1.Object).GetResourceVersion()
			return true, nil, apierrors.NewConflict(resource, "x", errors.New("version 8"))
		})
		if err := publish(cluster, b, true); !errors.Is(err, ErrChanged) || api.Hint(err) == "" {
			t.Errorf("%s: updating: %v", name, err)
		}
		expect.Equal(t, name+": the version in the update, by which the server notices a change", "7", sent)
	}
}

func TestPublishAuthority(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	if _, err := (&secretStore{client: cluster}).get(ctx, current); !errors.Is(err, ErrNoAuthority) {
		t.Fatalf("before: %v", err)
	}
	root := pki.Sign(t, "root", pki.RSAKey(t, 2048), nil, nil)
	issuer := pki.Sign(t, "issuer", pki.Ed25519Key(t), &root, nil)
	a := must.Get(ca.Import(append(issuer.CertPEM(), root.CertPEM()...), issuer.KeyPEM(t), "prod.example.org"))(t)
	if changed, err := (&secretStore{client: cluster}).publish(ctx, a, false); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	s := must.Get(cluster.CoreV1().Secrets("kube-system").Get(ctx, "kube-gateway-authority", metav1.GetOptions{}))(t)
	s.TypeMeta, s.ManagedFields = metav1.TypeMeta{}, nil
	want := &corev1.Secret{ObjectMeta: testMeta("kube-gateway-authority", "prod.example.org"), Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": slices.Concat(issuer.CertPEM(), root.CertPEM()), "tls.key": issuer.KeyPEM(t)}}
	expect.Equal(t, "the Secret", want, s)
	b, err := (&secretStore{client: cluster}).get(ctx, current)
	if err != nil || !b.Equal(a) || b.TrustDomain() != "prod.example.org" {
		t.Fatalf("fetched %v, %v", b, err)
	}
	before := writes(cluster)
	if changed, err := (&secretStore{client: cluster}).publish(ctx, a, false); err != nil || changed || writes(cluster) != before {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	other := newTestAuthority(t, "prod.example.org")
	if _, err := (&secretStore{client: cluster}).publish(ctx, other, false); !errors.Is(err, ErrForeign) || writes(cluster) != before {
		t.Errorf("another: %v", err)
	}
	if changed, err := (&secretStore{client: cluster}).publish(ctx, other, true); err != nil || !changed {
		t.Errorf("by force: %v, %v", changed, err)
	}
	// A key from one and a certificate from another is no authority.
	s = must.Get(cluster.CoreV1().Secrets(Namespace).Get(ctx, SecretName, metav1.GetOptions{}))(t)
	s.Data[corev1.TLSPrivateKeyKey] = issuer.KeyPEM(t)
	must.Get(cluster.CoreV1().Secrets(Namespace).Update(ctx, s, metav1.UpdateOptions{}))(t)
	if _, err := (&secretStore{client: cluster}).get(ctx, current); !errors.Is(err, ca.ErrMismatch) || api.Hint(err) == "" {
		t.Errorf("mixed: %v", err)
	}
}
