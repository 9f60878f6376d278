package authority

import (
	"crypto/elliptic"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// newCluster returns a cluster with nothing in it but its own namespace.
func newCluster(uid types.UID) *fake.Clientset {
	return fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace, UID: uid}})
}

// refuse makes the cluster answer a verb on a resource with err.
func refuse(cluster *fake.Clientset, verb, resource string, err error) {
	cluster.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, err })
}

func forbidden(resource string) error {
	return apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "x", errors.New("no"))
}

// writes counts what a client has asked a cluster to change.
func writes(cluster *fake.Clientset) int {
	n := 0
	for _, action := range cluster.Actions() {
		if v := action.GetVerb(); v != "get" && v != "list" && v != "watch" {
			n++
		}
	}
	return n
}

func TestClusterUID(t *testing.T) {
	if uid, err := ClusterUID(t.Context(), newCluster("uid-1")); err != nil || uid != "uid-1" {
		t.Errorf("%q, %v", uid, err)
	}
	if uid, err := ClusterUID(t.Context(), newCluster("")); err == nil {
		t.Errorf("%q without a uid", uid)
	}
	for name, c := range map[string]struct {
		err  error
		hint string
	}{
		"forbidden":    {forbidden("namespaces"), "permission to get namespace kube-system"},
		"unauthorized": {apierrors.NewUnauthorized("who"), "log in"},
		"unreachable":  {errors.New("dial tcp 127.0.0.1:6443: connection refused"), "reachable"},
	} {
		cluster := newCluster("uid-1")
		refuse(cluster, "get", "namespaces", c.err)
		_, err := ClusterUID(t.Context(), cluster)
		if !errors.Is(err, c.err) || !strings.Contains(api.Hint(err), c.hint) {
			t.Errorf("%s: %v, hint %q", name, err, api.Hint(err))
		}
	}
}

func TestPublishBundle(t *testing.T) {
	ctx, cluster := t.Context(), newCluster("uid-1")
	if _, err := FetchBundle(ctx, cluster); !errors.Is(err, ErrNoBundle) {
		t.Fatalf("before: %v", err)
	}
	a := newTestAuthority(t, "cluster.local")
	if changed, err := PublishBundle(ctx, cluster, a, false); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	m, err := cluster.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-gateway-trust", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Labels["app.kubernetes.io/managed-by"] != "kubectl-gateway" || m.Annotations[TrustDomainAnnotation] != "cluster.local" {
		t.Errorf("labels %v, annotations %v", m.Labels, m.Annotations)
	}
	if len(m.Data) != 1 || m.Data["ca.crt"] != string(a.Bundle()) || strings.Contains(m.String(), "PRIVATE") {
		t.Errorf("data %v", m.Data)
	}
	before := writes(cluster)
	if changed, err := PublishBundle(ctx, cluster, a, false); err != nil || changed || writes(cluster) != before {
		t.Errorf("again: changed %v, %v", changed, err)
	}

	b := newTestAuthority(t, "cluster.local")
	if _, err := PublishBundle(ctx, cluster, b, false); !errors.Is(err, ErrForeign) || !strings.Contains(api.Hint(err), "--force") || writes(cluster) != before {
		t.Errorf("another authority: %v", err)
	}
	if changed, err := PublishBundle(ctx, cluster, b, true); err != nil || !changed {
		t.Errorf("by force: changed %v, %v", changed, err)
	}
	bundle, err := FetchBundle(ctx, cluster)
	if err != nil || !bundle.Holds(b) || bundle.Holds(a) || bundle.TrustDomain != "cluster.local" {
		t.Errorf("bundle %v, %v", bundle, err)
	}
}

// A bundle with more than one authority is what a rotation looks like.
func TestBundleOfTwo(t *testing.T) {
	ctx, cluster := t.Context(), newCluster("uid-1")
	a, b, c := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	m := &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a), Data: map[string]string{BundleKey: string(a.Bundle()) + string(b.Bundle())}}
	if _, err := cluster.CoreV1().ConfigMaps(Namespace).Create(ctx, m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*ca.Authority{a, b} {
		if changed, err := PublishBundle(ctx, cluster, x, false); err != nil || changed {
			t.Errorf("changed %v, %v", changed, err)
		}
	}
	if _, err := PublishBundle(ctx, cluster, c, false); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

// The same root may serve another trust domain elsewhere; its gateways would
// refuse ours.
func TestBundleOfAnotherTrustDomain(t *testing.T) {
	ctx, cluster := t.Context(), newCluster("uid-1")
	root := pki.Sign(t, "root", pki.ECKey(t, elliptic.P256()), nil, nil)
	imported := func(trustDomain string) *ca.Authority {
		a, err := ca.Import(root.CertPEM(), root.KeyPEM(t), trustDomain)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if _, err := PublishBundle(ctx, cluster, imported("a.example"), false); err != nil {
		t.Fatal(err)
	}
	if _, err := PublishBundle(ctx, cluster, imported("b.example"), false); !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
}

func TestDamagedBundle(t *testing.T) {
	a, other := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "other.local")
	_, key, err := a.PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"empty": "", "text": "hello", "of another trust domain": string(other.Bundle()), "with a key": string(a.Bundle()) + string(key),
	} {
		ctx, cluster := t.Context(), newCluster("uid-1")
		m := &corev1.ConfigMap{ObjectMeta: objectMeta(BundleName, a), Data: map[string]string{BundleKey: data}}
		if _, err := cluster.CoreV1().ConfigMaps(Namespace).Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		before := writes(cluster)
		if _, err := FetchBundle(ctx, cluster); !errors.Is(err, ca.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := PublishBundle(ctx, cluster, a, false); !errors.Is(err, ca.ErrDamaged) || writes(cluster) != before {
			t.Errorf("%s: publishing: %v", name, err)
		} else {
			checkMessage(t, name, err)
		}
		if changed, err := PublishBundle(ctx, cluster, a, true); err != nil || !changed {
			t.Errorf("%s: by force: %v", name, err)
		}
		if b, err := FetchBundle(ctx, cluster); err != nil || !b.Holds(a) {
			t.Errorf("%s: afterwards %v, %v", name, b, err)
		}
	}
}

// Whoever writes between reading and writing wins, force or not: that is for
// the server to notice, by the resource version that an update carries.
func TestConcurrentWriters(t *testing.T) {
	resource := schema.GroupResource{Resource: "configmaps"}
	a, b := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	for name, publish := range map[string]func(*fake.Clientset, *ca.Authority, bool) error{
		"configmaps": func(c *fake.Clientset, a *ca.Authority, force bool) error {
			_, err := PublishBundle(t.Context(), c, a, force)
			return err
		},
		"secrets": func(c *fake.Clientset, a *ca.Authority, force bool) error {
			_, err := PublishAuthority(t.Context(), c, a, force)
			return err
		},
	} {
		cluster := newCluster("uid-1")
		refuse(cluster, "create", name, apierrors.NewAlreadyExists(resource, "x"))
		if err := publish(cluster, a, true); !errors.Is(err, ErrChanged) || api.Hint(err) == "" {
			t.Errorf("%s: creating: %v", name, err)
		}

		cluster = newCluster("uid-1")
		if err := publish(cluster, a, false); err != nil {
			t.Fatal(err)
		}
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
		if sent != "7" {
			t.Errorf("%s: the update carries version %q, so the server cannot notice a change", name, sent)
		}
	}
}

func TestPublishAuthority(t *testing.T) {
	ctx, cluster := t.Context(), newCluster("uid-1")
	if _, err := FetchAuthority(ctx, cluster); !errors.Is(err, ErrNoAuthority) {
		t.Fatalf("before: %v", err)
	}
	root := pki.Sign(t, "root", pki.RSAKey(t, 2048), nil, nil)
	issuer := pki.Sign(t, "issuer", pki.Ed25519Key(t), &root, nil)
	a, err := ca.Import(append(issuer.CertPEM(), root.CertPEM()...), issuer.KeyPEM(t), "prod.example.org")
	if err != nil {
		t.Fatal(err)
	}
	if changed, err := PublishAuthority(ctx, cluster, a, false); err != nil || !changed {
		t.Fatalf("changed %v, %v", changed, err)
	}
	s, err := cluster.CoreV1().Secrets("kube-system").Get(ctx, "kube-gateway-authority", metav1.GetOptions{})
	if err != nil || s.Type != corev1.SecretTypeTLS || len(s.Data) != 2 {
		t.Errorf("secret of type %s with %d entries, %v", s.Type, len(s.Data), err)
	}
	b, err := FetchAuthority(ctx, cluster)
	if err != nil || !b.Equal(a) || b.TrustDomain() != "prod.example.org" {
		t.Fatalf("fetched %v, %v", b, err)
	}
	before := writes(cluster)
	if changed, err := PublishAuthority(ctx, cluster, a, false); err != nil || changed || writes(cluster) != before {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	other := newTestAuthority(t, "prod.example.org")
	if _, err := PublishAuthority(ctx, cluster, other, false); !errors.Is(err, ErrForeign) || writes(cluster) != before {
		t.Errorf("another: %v", err)
	}
	if changed, err := PublishAuthority(ctx, cluster, other, true); err != nil || !changed {
		t.Errorf("by force: %v, %v", changed, err)
	}
	// A key from one and a certificate from another is no authority.
	s, err = cluster.CoreV1().Secrets(Namespace).Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data[corev1.TLSPrivateKeyKey] = issuer.KeyPEM(t)
	if _, err := cluster.CoreV1().Secrets(Namespace).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := FetchAuthority(ctx, cluster); !errors.Is(err, ca.ErrMismatch) || api.Hint(err) == "" {
		t.Errorf("mixed: %v", err)
	}
}
