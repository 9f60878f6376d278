package signer

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1alpha1 "k8s.io/api/certificates/v1alpha1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const meshSigner = "example.com/mesh"

var (
	webID  = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	webIPs = []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244:1::7")}
	about  = ca.LeafRequest{Identity: webID, IPs: webIPs, Pod: api.PodRef{Namespace: "shop", Name: "web-0", UID: "uid-web-0", ServiceAccount: "web", Node: "node-1"}}
)

// lab is a cluster with a signer in it, which answers as its fields say.
type lab struct {
	t       *testing.T
	cluster *fakecluster.Cluster
	root    pki.Pair
	// edit changes what is issued, and chain what is answered of that.
	edit  func(*x509.Certificate)
	chain func(leaf *x509.Certificate) string
	// refusal is a condition in the place of a certificate.
	refusal *metav1.Condition
	// after is at which look the answer is there, counted from 1; 0 stands for never.
	after int
	looks int
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, root: pki.Root(t), after: 1}
	l.cluster = fakecluster.New(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-account"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-node"}},
		bundleOf("a", meshSigner, l.root))
	l.cluster.Resources = []*metav1.APIResourceList{{GroupVersion: "certificates.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "podcertificaterequests"}}}}
	l.cluster.PrependReactor("get", "podcertificaterequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		object, err := l.cluster.Tracker().Get(action.GetResource(), action.GetNamespace(), action.(clienttesting.GetAction).GetName())
		if err != nil {
			return true, nil, err
		}
		request := object.(*certificatesv1.PodCertificateRequest).DeepCopy()
		if l.looks++; l.after > 0 && l.looks >= l.after {
			l.answer(request.Spec.StubPKCS10Request, &request.Status)
		}
		return true, request, nil
	})
	return l
}

// bundleOf returns a ClusterTrustBundle.
func bundleOf(name, signer string, roots ...pki.Pair) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, root := range roots {
		b.Spec.TrustBundle += string(root.CertPEM())
	}
	return b
}

// issue makes what the lab's signer answers to a request.
func (l *lab) issue(der []byte) string {
	l.t.Helper()
	request := must.Get(x509.ParseCertificateRequest(der))(l.t)
	leaf := l.root.Leaf(l.t, webID, webIPs, request.PublicKey, l.edit)
	if l.chain != nil {
		return l.chain(leaf)
	}
	return string(ca.EncodeCertificates([]*x509.Certificate{leaf}))
}

func (l *lab) answer(der []byte, status *certificatesv1.PodCertificateRequestStatus) {
	if l.refusal != nil {
		status.Conditions = []metav1.Condition{*l.refusal}
		return
	}
	status.CertificateChain = l.issue(der)
	status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}}
}

// signer returns the lab's signer, whose roots all gateways trust.
func (l *lab) signer() *Signer {
	l.t.Helper()
	s := must.Get(New(l.t.Context(), l.cluster, Choice{Name: meshSigner, TrustDomain: "cluster.local"}, nil))(l.t)
	return s.Knowing(s.Trust())
}

// request is that of a gateway.
func request(t *testing.T) []byte {
	t.Helper()
	return must.Get(ca.NewRequest(must.Get(ca.NewKey())(t), webID, webIPs))(t)
}

// soon ends before a silent signer is waited for.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// filedRequests are the PodCertificateRequests there are.
func (l *lab) filedRequests() []certificatesv1.PodCertificateRequest {
	l.t.Helper()
	list := must.Get(l.cluster.CertificatesV1().PodCertificateRequests("shop").List(l.t.Context(), metav1.ListOptions{}))(l.t)
	return list.Items
}

func TestCertify(t *testing.T) {
	l := newLab(t)
	// A signer that is slow, and an API server that is away for a moment.
	l.after = 3
	failed := false
	l.cluster.PrependReactor("get", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !failed {
			failed = true
			return true, nil, apierrors.NewInternalError(errors.New("away"))
		}
		return false, nil, nil
	})
	s, csr := l.signer(), request(t)
	wanted := about
	wanted.TTL = 2 * time.Hour
	leaf := must.Get(s.Certify(t.Context(), csr, wanted))(t)
	if left := time.Until(leaf.NotAfter); leaf.KeyPEM != nil || leaf.Serial == "" || left < 50*time.Minute || left > time.Hour {
		t.Errorf("%+v", leaf)
	}
	filed := l.filedRequests()
	if len(filed) != 1 || !strings.HasPrefix(filed[0].Name, "kube-gateway-web-0-") {
		t.Fatalf("%+v", filed)
	}
	der := must.Get(ca.ParseRequest(csr))(t).Raw
	expect.Equal(t, "the request", certificatesv1.PodCertificateRequestSpec{
		SignerName: meshSigner, PodName: "web-0", PodUID: "uid-web-0", ServiceAccountName: "web", ServiceAccountUID: "uid-account",
		NodeName: "node-1", NodeUID: "uid-node", MaxExpirationSeconds: new(int32(7200)), StubPKCS10Request: der,
	}, filed[0].Spec)
	// Without a lifetime of the user's, the signer decides.
	must.Get(s.Certify(t.Context(), request(t), about))(t)
	if i := slices.IndexFunc(l.filedRequests(), func(r certificatesv1.PodCertificateRequest) bool { return r.Spec.MaxExpirationSeconds == nil }); i < 0 {
		t.Errorf("%+v", l.filedRequests())
	}
}

// TestWhatACertificateLacks: each is named, and two at once are both named.
func TestWhatACertificateLacks(t *testing.T) {
	other := pki.ECKey(t, elliptic.P256())
	for want, edit := range map[string]func(*x509.Certificate){
		"it lacks the URI name spiffe://cluster.local/ns/shop/sa/web":                          func(c *x509.Certificate) { c.URIs = nil },
		"its URI names are not spiffe://cluster.local/ns/shop/sa/web alone: certificate has 2": func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "x"}) },
		"it is for spiffe://cluster.local/ns/shop/sa/db, and not for": func(c *x509.Certificate) {
			c.URIs[0] = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "db"}.URL()
		},
		"it lacks the address 10.244.1.7 of the pod; it lacks the address fd00:10:244:1::7 of the pod": func(c *x509.Certificate) { c.IPAddresses = nil },
		"it lacks the address fd00:10:244:1::7 of the pod":                                             func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] },
		"it names the address 10.244.9.9, which is not the pod's":                                      func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv4(10, 244, 9, 9)) },
		"it lacks the key usage serverAuth":                                                            func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] },
		"it lacks the key usage clientAuth":                                                            func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
		"its key usage lacks digitalSignature":                                                         func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
		"it is that of an authority":                                                                   func(c *x509.Certificate) { c.IsCA = true },
		"it is valid from":                                                                             func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"and the clock of this machine says":                                                           func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
		"it lacks the address 10.244.1.7 of the pod; it lacks the address fd00:10:244:1::7 of the pod; it lacks the key usage clientAuth": func(c *x509.Certificate) {
			c.IPAddresses, c.ExtKeyUsage = nil, c.ExtKeyUsage[:1]
		},
	} {
		l := newLab(t)
		l.edit = edit
		leaf, err := l.signer().Certify(t.Context(), request(t), about)
		expect.Refusal(t, want, err, ErrUnfit, want, "the signer has to issue what gateways ask for")
		if leaf != nil {
			t.Errorf("%s: %+v", want, leaf)
		}
	}
	l := newLab(t)
	l.chain = func(*x509.Certificate) string {
		return string(ca.EncodeCertificates([]*x509.Certificate{l.root.Leaf(t, webID, webIPs, other.Public(), nil)}))
	}
	_, err := l.signer().Certify(t.Context(), request(t), about)
	expect.Refusal(t, "the wrong key", err, ErrUnfit, "it is for another key than that of the request", "the signer has to")
}

// TestAnswers: what is no certificate, and what leads elsewhere.
func TestAnswers(t *testing.T) {
	stranger := pki.Root(t)
	between := func(l *lab) pki.Pair { return pki.Sign(t, "between", pki.ECKey(t, elliptic.P256()), &l.root, nil) }
	for name, c := range map[string]struct {
		chain func(l *lab, leaf *x509.Certificate) string
		is    error
		text  string
	}{
		"nothing":  {func(*lab, *x509.Certificate) string { return " " }, ErrUnfit, "no certificate in PEM form"},
		"a key":    {func(l *lab, _ *x509.Certificate) string { return string(l.root.KeyPEM(t)) }, ErrUnfit, "a private key where only certificates belong"},
		"too much": {func(*lab, *x509.Certificate) string { return strings.Repeat("x", maxAnswer+1) }, ErrUnfit, "longer than"},
		"too long": {func(l *lab, leaf *x509.Certificate) string {
			return strings.Repeat(string(ca.EncodeCertificates([]*x509.Certificate{leaf})), maxChain+1)
		}, ErrUnfit, "its chain has 9 certificates"},
		"a stranger's": {func(_ *lab, leaf *x509.Certificate) string {
			return string(ca.EncodeCertificates([]*x509.Certificate{stranger.Leaf(t, webID, webIPs, leaf.PublicKey, nil)}))
		}, ErrUnfit, "it leads to none of the signer's roots"},
		"without its intermediate": {func(l *lab, leaf *x509.Certificate) string {
			return string(ca.EncodeCertificates([]*x509.Certificate{between(l).Leaf(t, webID, webIPs, leaf.PublicKey, nil)}))
		}, ErrUnfit, "it leads to none of the signer's roots"},
		"with its intermediate": {func(l *lab, leaf *x509.Certificate) string {
			b := between(l)
			return string(ca.EncodeCertificates([]*x509.Certificate{b.Leaf(t, webID, webIPs, leaf.PublicKey, nil), b.Cert}))
		}, nil, ""},
	} {
		l := newLab(t)
		l.chain = func(leaf *x509.Certificate) string { return c.chain(l, leaf) }
		_, err := l.signer().Certify(t.Context(), request(t), about)
		if c.is == nil {
			must.Do(t, err)
			continue
		}
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoCertificate: the signer says no, says nothing, or the request is gone.
func TestNoCertificate(t *testing.T) {
	condition := func(kind, reason, message string) *metav1.Condition {
		return &metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message}
	}
	l := newLab(t)
	l.refusal = condition("Denied", "NotYours", "pods of shop\nget \x1b[2Jnothing")
	_, err := l.signer().Certify(t.Context(), request(t), about)
	expect.Refusal(t, "denied", err, ErrDenied, "it has denied the request: NotYours: pods of shop get", "ask who runs the signer")
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("%q", err)
	}
	l.refusal = condition("Denied", certificatesv1.PodCertificateRequestConditionUnsupportedKeyType, "RSA3072")
	_, err = l.signer().Certify(t.Context(), request(t), about)
	expect.Refusal(t, "the key", err, ErrDenied, "RSA3072", "ECDSA P-256")
	l.refusal = condition("Failed", "Backend", "no quorum")
	_, err = l.signer().Certify(t.Context(), request(t), about)
	expect.Refusal(t, "failed", err, ErrFailed, "it has failed: Backend: no quorum", "ask who runs the signer")

	l = newLab(t)
	l.cluster.PrependReactor("get", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(certificatesv1.Resource("podcertificaterequests"), "x")
	})
	if _, err = l.signer().Certify(t.Context(), request(t), about); err == nil || !strings.Contains(err.Error(), "somebody has deleted it") {
		t.Errorf("gone: %v", err)
	}

	l = newLab(t)
	l.cluster.Forbid("create", "podcertificaterequests")
	if _, err = l.signer().Certify(t.Context(), request(t), about); !apierrors.IsForbidden(err) {
		t.Errorf("forbidden: %v", err)
	}

	l = newLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = l.signer().Certify(ctx, request(t), about); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnanswered) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestASilentSigner is waited for until shortly before the end of the caller's time.
func TestASilentSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.after = 0
		start := time.Now()
		_, err := l.signer().Certify(soon(t), request(t), about)
		expect.Refusal(t, "silent", err, ErrUnanswered, "signer example.com/mesh: it has not answered podcertificaterequest/kube-gateway-web-0-", "'kubectl describe podcertificaterequest/kube-gateway-web-0-")
		expect.Refusal(t, "silent", err, ErrUnanswered, "", "'kubectl gateway init-ca --signer=… --signer-request=csr'")
		if waited := time.Since(start); waited != 28*time.Second {
			t.Errorf("after %v", waited)
		}
		if l.looks > 25 {
			t.Errorf("looked for an answer %d times", l.looks)
		}
	})
}

// TestASilentSignerOfASlowServer: that the time ended during a look is nothing about the server.
func TestASilentSignerOfASlowServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.cluster.PrependReactor("get", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) {
			time.Sleep(time.Minute)
			return true, nil, context.DeadlineExceeded
		})
		_, err := l.signer().Certify(soon(t), request(t), about)
		expect.Refusal(t, "silent", err, ErrUnanswered, "it has not answered podcertificaterequest/", "find out whether the signer runs")
	})
}

// TestARequestForOthersIsNotHandedOn: a signer may copy what it is asked for.
func TestARequestForOthersIsNotHandedOn(t *testing.T) {
	l := newLab(t)
	s, key := l.signer(), pki.ECKey(t, elliptic.P256())
	good := func() *x509.CertificateRequest {
		r := &x509.CertificateRequest{URIs: []*url.URL{webID.URL()}}
		for _, ip := range webIPs {
			r.IPAddresses = append(r.IPAddresses, ip.AsSlice())
		}
		return r
	}
	for name, edit := range map[string]func(*x509.CertificateRequest){
		"another identity": func(r *x509.CertificateRequest) {
			r.URIs[0] = identity.ID{TrustDomain: "cluster.local", Namespace: "kube-system", ServiceAccount: "root"}.URL()
		},
		"a second identity": func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, webID.URL()) },
		"another address":   func(r *x509.CertificateRequest) { r.IPAddresses[0] = net.IPv4(10, 244, 9, 9) },
		"one more address":  func(r *x509.CertificateRequest) { r.IPAddresses = append(r.IPAddresses, net.IPv4(10, 96, 0, 1)) },
		"no address":        func(r *x509.CertificateRequest) { r.IPAddresses = nil },
		"a DNS name":        func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes.default.svc"} },
		"a subject":         func(r *x509.CertificateRequest) { r.Subject = pkix.Name{CommonName: "system:masters"} },
		"an extension": func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		},
		"a name of another kind": func(r *x509.CertificateRequest) { pki.AddOtherName(t, r) },
		"an attribute":           pki.AddAttribute,
	} {
		r := good()
		edit(r)
		_, err := s.Certify(t.Context(), pki.Request(t, r, key), about)
		expect.Refusal(t, name, err, ca.ErrBadRequest, "reading the gateway's request", "of one release")
	}
	if filed := l.filedRequests(); len(filed) != 0 {
		t.Errorf("%+v", filed)
	}
	must.Get(s.Certify(t.Context(), pki.Request(t, good(), key), about))(t)
}

// TestANewRoot is not used before all gateways trust it, unless the certificate leads to a known one as well.
func TestANewRoot(t *testing.T) {
	l := newLab(t)
	before, next := l.root, pki.Root(t)
	must.Get(l.cluster.CertificatesV1().ClusterTrustBundles().Create(t.Context(), bundleOf("b", meshSigner, next), metav1.CreateOptions{}))(t)
	s := must.Get(New(t.Context(), l.cluster, Choice{Name: meshSigner, TrustDomain: "cluster.local"}, []*x509.Certificate{before.Cert}))(t)
	must.Get(s.Certify(t.Context(), request(t), about))(t)
	l.root = next
	_, err := s.Certify(t.Context(), request(t), about)
	expect.Refusal(t, "a new root", err, ErrNewRoot, ca.Fingerprint(next.Cert)[:16], "kubectl gateway rotate --ca")
	must.Get(s.Knowing([]*x509.Certificate{before.Cert, next.Cert}).Certify(t.Context(), request(t), about))(t)
	// The old root has signed the new one's key.
	cross := pki.Sign(t, "root", next.Key, &before, nil)
	l.chain = func(leaf *x509.Certificate) string {
		return string(ca.EncodeCertificates([]*x509.Certificate{pki.Pair{Cert: cross.Cert, Key: next.Key}.Leaf(t, webID, webIPs, leaf.PublicKey, nil), cross.Cert}))
	}
	must.Get(s.Certify(t.Context(), request(t), about))(t)
}

func TestRootsThatComeAndGo(t *testing.T) {
	l := newLab(t)
	old, other := pki.Root(t), pki.Root(t)
	s := l.signer()
	if !s.Settled() || s.Revocations() != nil || s.TrustDomain() != "cluster.local" || s.Asks() != RequestPod {
		t.Errorf("%+v", s)
	}
	s = s.Knowing([]*x509.Certificate{old.Cert, other.Cert})
	names := func(certs ...*x509.Certificate) []string { return ca.Fingerprints(certs) }
	expect.Equal(t, "new", names(l.root.Cert), ca.Fingerprints(s.New()))
	expect.Equal(t, "gone", names(old.Cert, other.Cert), ca.Fingerprints(s.Gone()))
	expect.Equal(t, "what new gateways get", names(l.root.Cert), s.Roots())
	// Nobody gets a root that they do not trust already.
	kept := s.Keeping([]string{ca.Fingerprint(old.Cert), "somebody else's"})
	expect.Equal(t, "what one gateway keeps", names(l.root.Cert, old.Cert), kept.Roots())
	certs := must.Get(ca.ParseCertificates(kept.Bundle()))(t)
	expect.Equal(t, "its bundle", kept.Roots(), ca.Fingerprints(certs))
}

func TestTrust(t *testing.T) {
	choice := Choice{Name: meshSigner, TrustDomain: "cluster.local"}
	roots := []pki.Pair{pki.Root(t), pki.Root(t), pki.Root(t)}
	ended := pki.Sign(t, "ended", pki.ECKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	c := fakecluster.New(t, bundleOf("a", meshSigner, roots[0], ended), bundleOf("b", meshSigner, roots[0], roots[1]), bundleOf("c", "example.com/other", roots[2]), bundleOf("d", "", roots[2]))
	want := []string{ca.Fingerprint(roots[0].Cert), ca.Fingerprint(roots[1].Cert)}
	slices.Sort(want)
	expect.Equal(t, "the signer's own, each once", want, ca.Fingerprints(must.Get(choice.Trust(t.Context(), c))(t)))

	// Older servers.
	gone := func(c *fakecluster.Cluster, versions ...string) {
		c.PrependReactor("list", "clustertrustbundles", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if slices.Contains(versions, action.GetResource().Version) {
				return true, nil, apierrors.NewNotFound(action.GetResource().GroupResource(), "")
			}
			return false, nil, nil
		})
	}
	beta := &certificatesv1beta1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: certificatesv1beta1.ClusterTrustBundleSpec{SignerName: meshSigner, TrustBundle: string(roots[0].CertPEM())}}
	alpha := &certificatesv1alpha1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: certificatesv1alpha1.ClusterTrustBundleSpec{SignerName: meshSigner, TrustBundle: string(roots[1].CertPEM())}}
	c = fakecluster.New(t, beta, alpha)
	gone(c, "v1")
	expect.Equal(t, "v1beta1", []string{ca.Fingerprint(roots[0].Cert)}, ca.Fingerprints(must.Get(choice.Trust(t.Context(), c))(t)))
	gone(c, "v1beta1")
	expect.Equal(t, "v1alpha1", []string{ca.Fingerprint(roots[1].Cert)}, ca.Fingerprints(must.Get(choice.Trust(t.Context(), c))(t)))
	gone(c, "v1alpha1")
	_, err := choice.Trust(t.Context(), c)
	expect.Refusal(t, "no such objects", err, nil, "the server has no ClusterTrustBundle objects", "--trust-bundle=FILE")
	given := choice
	given.TrustBundle = string(roots[2].CertPEM())
	expect.Equal(t, "a file", []string{ca.Fingerprint(roots[2].Cert)}, ca.Fingerprints(must.Get(given.Trust(t.Context(), c))(t)))

	_, err = choice.Trust(t.Context(), fakecluster.New(t, bundleOf("a", meshSigner, ended)))
	expect.Refusal(t, "all have ended", err, ErrNoTrust, meshSigner, "publishes its roots")
	leaf := pki.Pair{Cert: roots[0].Leaf(t, webID, webIPs, pki.ECKey(t, elliptic.P256()).Public(), nil)}
	_, err = choice.Trust(t.Context(), fakecluster.New(t, bundleOf("a", meshSigner, leaf)))
	expect.Refusal(t, "no authority's", err, ca.ErrNotAuthority, meshSigner, "")
	var many []pki.Pair
	for range maxRoots + 1 {
		many = append(many, pki.Root(t))
	}
	_, err = choice.Trust(t.Context(), fakecluster.New(t, bundleOf("a", meshSigner, many...)))
	expect.Refusal(t, "too many", err, nil, "has 17 roots", "--trust-bundle=FILE")
}

func TestByCSR(t *testing.T) { synctest.Test(t, testByCSR) }

func testByCSR(t *testing.T) {
	l := newLab(t)
	l.cluster.Resources = nil
	s := l.signer()
	if s.Asks() != RequestCSR {
		t.Fatalf("asks by %s", s.Asks())
	}
	conditions, issue := []certificatesv1.CertificateSigningRequestCondition(nil), false
	l.cluster.PrependReactor("get", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		object, err := l.cluster.Tracker().Get(action.GetResource(), "", action.(clienttesting.GetAction).GetName())
		if err != nil {
			return true, nil, err
		}
		request := object.(*certificatesv1.CertificateSigningRequest).DeepCopy()
		request.Status.Conditions = conditions
		if issue {
			request.Status.Certificate = []byte(l.issue(must.Get(ca.ParseRequest(request.Spec.Request))(t).Raw))
		}
		return true, request, nil
	})
	_, err := s.Certify(soon(t), request(t), about)
	expect.Refusal(t, "nobody approves", err, ErrUnanswered, "nobody has approved it", "'kubectl certificate approve kube-gateway-web-0-")
	conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}
	_, err = s.Certify(soon(t), request(t), about)
	expect.Refusal(t, "approved, and then silent", err, ErrUnanswered, "it has not answered csr/", "'kubectl describe csr/kube-gateway-web-0-")
	if strings.Contains(api.Hint(err), "--signer-request") {
		t.Errorf("by the other request already: %q", api.Hint(err))
	}
	issue = true
	csr := request(t)
	must.Get(s.Certify(t.Context(), csr, about))(t)
	list := must.Get(l.cluster.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{}))(t).Items
	i := slices.IndexFunc(list, func(r certificatesv1.CertificateSigningRequest) bool { return string(r.Spec.Request) == string(csr) })
	expect.Equal(t, "the request", certificatesv1.CertificateSigningRequestSpec{
		SignerName: meshSigner, Request: csr, Usages: []certificatesv1.KeyUsage{"digital signature", "server auth", "client auth"},
	}, list[i].Spec)
	expect.Equal(t, "whom it is for", map[string]string{
		namespaceAnnotation: "shop", podAnnotation: "web-0", podUIDAnnotation: "uid-web-0", accountAnnotation: "web", accountUIDAnnotation: "uid-account",
		nodeAnnotation: "node-1", nodeUIDAnnotation: "uid-node",
	}, list[i].Annotations)
	issue = false
	conditions = append(conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "Backend", Message: "no quorum"})
	_, err = s.Certify(t.Context(), request(t), about)
	expect.Refusal(t, "failed", err, ErrFailed, "Backend: no quorum", "ask who runs the signer")
	conditions[0].Type = certificatesv1.CertificateDenied
	_, err = s.Certify(t.Context(), request(t), about)
	if !errors.Is(err, ErrFailed) && !errors.Is(err, ErrDenied) {
		t.Errorf("denied: %v", err)
	}
}

func TestChoice(t *testing.T) {
	good := Choice{Name: meshSigner, TrustDomain: "cluster.local", Request: RequestCSR}
	must.Do(t, good.Validate())
	for name, edit := range map[string]func(*Choice){
		"not the name of a signer": func(c *Choice) { c.Name = "mesh" }, `"EXAMPLE.com/x" is not the name`: func(c *Choice) { c.Name = "EXAMPLE.com/x" },
		`"example.com/" is not`: func(c *Choice) { c.Name = "example.com/" }, "trust domain": func(c *Choice) { c.TrustDomain = "a b" },
		`request "mail" is unknown`: func(c *Choice) { c.Request = "mail" }, "no certificate": func(c *Choice) { c.TrustBundle = "x" },
	} {
		c := good
		edit(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
