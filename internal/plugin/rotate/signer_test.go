package rotate

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// signed is a world whose certificates come from a signer.
type signed struct {
	*world
	// signs is the authority that the signer signs with.
	signs *ca.Authority
}

// newSigned makes a cluster with a signer, whose roots are published.
func newSigned(t *testing.T, pods ...string) *signed {
	t.Helper()
	w := &signed{world: &world{t: t, dir: filepath.Join(t.TempDir(), "authority"), gateways: map[string]*fakeGateway{}, honest: true}}
	w.cluster = fakecluster.New(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: authority.Namespace, UID: "uid-1"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-node"}})
	w.cluster.Resources = []*metav1.APIResourceList{{GroupVersion: "certificates.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "podcertificaterequests"}}}}
	w.step = func(string) error { return nil }
	w.signs = must.Get(ca.New(ca.Options{}))(t)
	w.first = w.signs
	w.publish(w.signs)
	w.cluster.PrependReactor("get", "podcertificaterequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		object, err := w.cluster.Tracker().Get(action.GetResource(), action.GetNamespace(), action.(clienttesting.GetAction).GetName())
		if err != nil {
			return true, nil, err
		}
		r := object.(*certificatesv1.PodCertificateRequest).DeepCopy()
		pod := must.Get(w.cluster.Tracker().Get(fakecluster.Pods, r.Namespace, r.Spec.PodName))(t).(*corev1.Pod)
		request := must.Get(x509.ParseCertificateRequest(r.Spec.StubPKCS10Request))(t)
		leaf := must.Get(w.signs.Sign(pemRequest(request.Raw), ca.LeafRequest{Identity: installed.Identity(pod, "cluster.local"), IPs: installed.PodIPs(pod), TTL: time.Hour}))(t)
		r.Status.CertificateChain = string(leaf.CertPEM)
		return true, r, nil
	})
	must.Get(authority.InitSigner(t.Context(), authority.SignerOptions{Location: authority.Location{Client: w.cluster, Dir: w.dir}, Choice: signer.Choice{Name: "example.com/mesh"}}))(t)
	for _, pod := range pods {
		g := w.enable(pod, w.signs)
		must.Do(t, w.cluster.Tracker().Add(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: g.pod.Namespace, Name: g.pod.Spec.ServiceAccountName, UID: "uid-account"}}))
	}
	return w
}

// publish makes authorities what the signer is trusted by.
func (w *signed) publish(authorities ...*ca.Authority) {
	w.t.Helper()
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "example.com:mesh:roots"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/mesh"}}
	for _, a := range authorities {
		b.Spec.TrustBundle += string(a.Bundle())
	}
	bundles := w.cluster.CertificatesV1().ClusterTrustBundles()
	if _, err := bundles.Update(w.t.Context(), b, metav1.UpdateOptions{}); err != nil {
		must.Get(bundles.Create(w.t.Context(), b, metav1.CreateOptions{}))(w.t)
	}
}

// roots returns the fingerprints that a gateway trusts.
func (w *signed) roots(pod string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(ca.Fingerprints(w.gateways[pod].Roots)))
}

func rootsOf(authorities ...*ca.Authority) (all []string) {
	for _, a := range authorities {
		all = append(all, a.Roots()...)
	}
	return slices.Sorted(slices.Values(all))
}

// renew renews the certificate of a pod's gateway as rotate does.
func (w *signed) renew(pod string) Result {
	w.t.Helper()
	issuer := must.Get(authority.Open(w.t.Context(), authority.Location{Client: w.cluster, Dir: w.dir}))(w.t)
	r := Rotator{Gateways: w.client(), Authority: issuer}
	return r.Rotate(w.t.Context(), w.gateways[pod].pod)
}

// TestFollow: a new root reaches all gateways before any has a certificate that leads to it, and an old one stays
// until none has one that leads there, whatever is interrupted.
func TestFollow(t *testing.T) {
	// More than are worked on at a time: some have new certificates while others have old ones.
	w := newSigned(t, "shop/web", "ops/db", "ops/far", "ops/one", "ops/two", "ops/three")
	first, second := w.signs, must.Get(ca.New(ca.Options{}))(t)
	w.step = func(what string) error { w.check(what); return nil }
	result := must.Get(w.rotator().Follow(t.Context(), false))(t)
	if result.Gateways != 6 || w.did("trust shop/web") || w.did("renew shop/web") {
		t.Errorf("%+v, with nothing to do %q", result, w.asked)
	}
	must.Do(t, w.renew("shop/web").Err)

	// The signer signs with the new root from the start.
	w.publish(first, second)
	w.signs = second
	failed := w.renew("shop/web")
	expect.Refusal(t, "a new root", failed.Err, signer.ErrNewRoot, "leads to a new root", "rotate --ca")
	plan := must.Get(w.rotator().FollowPlan(t.Context()))(t)
	if !strings.HasPrefix(plan.Next, "1/3 trust") || plan.Gateways != 6 {
		t.Errorf("%+v", plan)
	}
	must.Get(w.rotator().Follow(t.Context(), false))(t)
	expect.Equal(t, "trusted", rootsOf(first, second), w.roots("ops/far"))
	if w.did("renew ops/far") {
		t.Error("a certificate was renewed without a reason")
	}
	must.Do(t, w.renew("shop/web").Err)

	// The old one goes.
	w.publish(second)
	if plan = must.Get(w.rotator().FollowPlan(t.Context()))(t); !strings.HasPrefix(plan.Next, "2/3 reissue") {
		t.Errorf("%+v", plan)
	}
	// Who is renewed meanwhile still accepts the others.
	must.Do(t, w.renew("ops/db").Err)
	expect.Equal(t, "kept", rootsOf(first, second), w.roots("ops/db"))
	must.Get(w.rotator().Follow(t.Context(), false))(t)
	for pod := range w.gateways {
		expect.Equal(t, pod+" trusts", rootsOf(second), w.roots(pod))
	}
	if plan = must.Get(w.rotator().FollowPlan(t.Context()))(t); plan.Next != "" {
		t.Errorf("%+v", plan)
	}
}

// TestFollowInterrupted is TestFollow, ended at every step and begun anew.
func TestFollowInterrupted(t *testing.T) {
	for at := 1; ; at++ {
		w := newSigned(t, "shop/web", "ops/db")
		first, second := w.signs, must.Get(ca.New(ca.Options{}))(t)
		n := 0
		w.step = func(what string) error {
			w.check(what)
			if n++; n == at {
				return remote.ErrForbidden
			}
			return nil
		}
		w.publish(first, second)
		w.signs = second
		var interrupted bool
		follow := func() {
			t.Helper()
			if _, err := w.rotator().Follow(t.Context(), false); err != nil {
				interrupted = true
				must.Get(w.rotator().Follow(t.Context(), false))(t)
			}
		}
		follow()
		w.publish(second)
		follow()
		for pod := range w.gateways {
			expect.Equal(t, pod+" trusts", rootsOf(second), w.roots(pod))
		}
		if !interrupted {
			if at < 10 {
				t.Errorf("only %d steps", at)
			}
			return
		}
	}
}

// TestFollowStopsForAGatewayThatDoesNotAnswer, and overlooks it if it is told to.
func TestFollowStopsForAGatewayThatDoesNotAnswer(t *testing.T) {
	w := newSigned(t, "shop/web", "ops/db", "ops/gone")
	first, second := w.signs, must.Get(ca.New(ca.Options{}))(t)
	w.step = func(what string) error {
		if strings.HasSuffix(what, " ops/gone") {
			return remote.ErrForbidden
		}
		return nil
	}
	w.publish(first, second)
	w.signs = second
	result, err := w.rotator().Follow(t.Context(), false)
	blocked, ok := errors.AsType[*BlockedError](err)
	if !ok || len(blocked.Gateways) != 1 || blocked.Gateways[0].Pod.Name != "gone" || len(result.Blocked) != 1 {
		t.Fatalf("%+v, %v", result, err)
	}
	expect.Equal(t, "trusted", rootsOf(first, second), w.roots("ops/db"))
	if failed := w.renew("ops/db"); !errors.Is(failed.Err, signer.ErrNewRoot) {
		t.Errorf("a certificate that one gateway refuses: %v", failed.Err)
	}
	result = must.Get(w.rotator().Follow(t.Context(), true))(t)
	if len(result.Blocked) != 1 {
		t.Errorf("%+v", result)
	}
	must.Do(t, w.renew("ops/db").Err)
	expect.Equal(t, "the one that is overlooked", rootsOf(first), w.roots("ops/gone"))
}

// TestFollowFromAnAuthority: a signer in the place of an authority cuts no connection.
func TestFollowFromAnAuthority(t *testing.T) {
	w := newSigned(t)
	must.Do(t, w.cluster.CoreV1().ConfigMaps(authority.Namespace).Delete(t.Context(), authority.BundleName, metav1.DeleteOptions{}))
	w.dir = filepath.Join(t.TempDir(), "another")
	location := authority.Location{Client: w.cluster, Dir: w.dir}
	own := must.Get(authority.Init(t.Context(), authority.InitOptions{Location: location}))(t).Authority
	for _, name := range []string{"shop/web", "ops/db"} {
		g := w.enable(name, own)
		must.Do(t, w.cluster.Tracker().Add(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: g.pod.Namespace, Name: g.pod.Spec.ServiceAccountName, UID: "uid-account"}}))
	}
	must.Get(authority.InitSigner(t.Context(), authority.SignerOptions{Location: location, Choice: signer.Choice{Name: "example.com/mesh"}, Force: true}))(t)
	w.step = func(what string) error { w.check(what); return nil }
	if failed := w.renew("shop/web"); !errors.Is(failed.Err, signer.ErrNewRoot) {
		t.Errorf("too early: %v", failed.Err)
	}
	must.Get(w.rotator().Follow(t.Context(), false))(t)
	for pod, g := range w.gateways {
		expect.Equal(t, pod+" trusts", rootsOf(w.signs), w.roots(pod))
		if !leads(g.Chain, fakegateway.Certificates(w.signs.Bundle())) {
			t.Errorf("the certificate of %s is not the signer's", pod)
		}
	}
}

func pemRequest(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
