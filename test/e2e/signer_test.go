//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// testSigner is a signer of the cluster that is written with the API alone. It signs for the pods that the
// API server has, publishes what it is trusted by, and can be told to do worse.
type testSigner struct {
	t    *testing.T
	kube kubernetes.Interface
	name string

	mu     sync.Mutex
	signs  *testRoot
	answer func(request *certificatesv1.PodCertificateRequest, leaf *x509.Certificate) *metav1.Condition
	// signed counts the answers.
	signed int
}

// testRoot is a self-signed authority.
type testRoot struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// print is the fingerprint that gateways report.
func (r *testRoot) print() string { return ca.Fingerprint(r.cert) }

func newTestRoot(t *testing.T, name string) *testRoot {
	t.Helper()
	key := must.Get(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must.Get(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	return &testRoot{must.Get(x509.ParseCertificate(der))(t), key}
}

// startSigner starts a signer that ends with the test.
func startSigner(t *testing.T, name string) *testSigner {
	t.Helper()
	config := must.Get(clientcmd.BuildConfigFromFlags("", os.Getenv(clientcmd.RecommendedConfigPathEnvVar)))(t)
	s := &testSigner{t: t, kube: must.Get(kubernetes.NewForConfig(config))(t), name: name, signs: newTestRoot(t, "first root")}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { s.serve(ctx) })
	t.Cleanup(func() {
		cancel()
		ended.Wait()
		s.publish()
	})
	s.publish(s.signs)
	return s
}

// become has the signer sign with root, and answer as answer says unless that is nil.
func (s *testSigner) become(root *testRoot, answer func(*certificatesv1.PodCertificateRequest, *x509.Certificate) *metav1.Condition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signs, s.answer = root, answer
}

// count returns how many requests were answered.
func (s *testSigner) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signed
}

// publish makes roots what the signer is trusted by; without any, it takes that away.
func (s *testSigner) publish(roots ...*testRoot) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	bundles := s.kube.CertificatesV1().ClusterTrustBundles()
	name := strings.ReplaceAll(s.name, "/", ":") + ":roots"
	if len(roots) == 0 {
		if err := bundles.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			s.t.Errorf("taking the roots of the signer away: %v", err)
		}
		return
	}
	var text []byte
	for _, root := range roots {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})...)
	}
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: s.name, TrustBundle: string(text)}}
	old, err := bundles.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = bundles.Create(ctx, b, metav1.CreateOptions{})
	} else if err == nil {
		b.ResourceVersion = old.ResourceVersion
		_, err = bundles.Update(ctx, b, metav1.UpdateOptions{})
	}
	must.Do(s.t, err)
}

// serve answers requests until ctx ends.
func (s *testSigner) serve(ctx context.Context) {
	mine := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.signerName", s.name).String()}
	for ctx.Err() == nil {
		list, err := s.kube.CertificatesV1().PodCertificateRequests(metav1.NamespaceAll).List(ctx, mine)
		if err == nil {
			for i := range list.Items {
				if r := &list.Items[i]; len(r.Status.Conditions) == 0 {
					s.judge(ctx, r)
				}
			}
		}
		csrs, err := s.kube.CertificatesV1().CertificateSigningRequests().List(ctx, mine)
		if err == nil {
			for i := range csrs.Items {
				s.judgeCSR(ctx, &csrs.Items[i])
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// leaf describes the certificate for a pod, according to the API server and not to the request.
func (s *testSigner) leaf(ctx context.Context, namespace, name, uid string) (*x509.Certificate, error) {
	pod, err := s.kube.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if string(pod.UID) != uid {
		return nil, errors.New("another pod")
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute).Truncate(time.Second), NotAfter: time.Now().Add(2 * time.Hour).Truncate(time.Second),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/" + namespace + "/sa/" + pod.Spec.ServiceAccountName}},
	}
	for _, ip := range pod.Status.PodIPs {
		leaf.IPAddresses = append(leaf.IPAddresses, net.ParseIP(ip.IP))
	}
	return leaf, nil
}

// judge answers a PodCertificateRequest. What the cluster refuses meanwhile is tried again.
func (s *testSigner) judge(ctx context.Context, r *certificatesv1.PodCertificateRequest) {
	leaf, err := s.leaf(ctx, r.Namespace, r.Spec.PodName, string(r.Spec.PodUID))
	if err != nil {
		return
	}
	s.mu.Lock()
	root, answer := s.signs, s.answer
	s.mu.Unlock()
	condition := &metav1.Condition{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Reason: "Issued", Message: "issued"}
	if answer != nil {
		if condition = answer(r, leaf); condition == nil {
			return
		}
	}
	condition.Status, condition.LastTransitionTime = metav1.ConditionTrue, metav1.Now()
	r.Status.Conditions = []metav1.Condition{*condition}
	if condition.Type == certificatesv1.PodCertificateRequestConditionTypeIssued {
		request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil {
			return
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root.cert, request.PublicKey, root.key)
		if err != nil {
			return
		}
		r.Status.CertificateChain = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		r.Status.NotBefore, r.Status.NotAfter = &metav1.Time{Time: leaf.NotBefore}, &metav1.Time{Time: leaf.NotAfter}
		r.Status.BeginRefreshAt = &metav1.Time{Time: leaf.NotAfter.Add(-time.Hour)}
	}
	if _, err := s.kube.CertificatesV1().PodCertificateRequests(r.Namespace).UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			s.t.Logf("answering %s: %v", r.Name, err)
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed++
}

// judgeCSR approves and answers a CertificateSigningRequest.
func (s *testSigner) judgeCSR(ctx context.Context, r *certificatesv1.CertificateSigningRequest) {
	if len(r.Status.Certificate) > 0 {
		return
	}
	of := func(key string) string { return r.Annotations["kubectl-gateway.github.io/"+key] }
	leaf, err := s.leaf(ctx, of("pod-namespace"), of("pod-name"), of("pod-uid"))
	if err != nil {
		return
	}
	requests := s.kube.CertificatesV1().CertificateSigningRequests()
	if len(r.Status.Conditions) == 0 {
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", Message: "the pod is there"}}
		if r, err = requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil {
			return
		}
	}
	block, _ := pem.Decode(r.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return
	}
	s.mu.Lock()
	root := s.signs
	s.mu.Unlock()
	der, err := x509.CreateCertificate(rand.Reader, leaf, root.cert, request.PublicKey, root.key)
	if err != nil {
		return
	}
	r.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, _ = requests.UpdateStatus(ctx, r, metav1.UpdateOptions{}) // it is tried again
}

// unanswered has a gateway that runs give up on a signer that does not answer. Filing the request takes a second of this.
const unanswered = "--timeout=10s"

// withSigner has the signer issue the certificates of the cluster during the test.
func withSigner(t *testing.T, s *testSigner) {
	t.Helper()
	withoutAuthority(t)
	gateway(t, "init-ca", "--signer="+s.name)
}

// withoutAuthority takes the authority of the other tests away. It stays where it is, and is back at the end.
func withoutAuthority(t *testing.T) {
	t.Helper()
	own := os.Getenv("KUBE_GATEWAY_AUTHORITY_DIR")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		runCommand(ctx, t, "", "kubectl", "-n", "kube-system", "delete", "configmap", "kube-gateway-trust")
		cmd := exec.CommandContext(ctx, "kubectl-gateway", "init-ca")
		cmd.Env = append(os.Environ(), "KUBE_GATEWAY_AUTHORITY_DIR="+own)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("bringing the authority back: %v\n%s", err, out)
		}
	})
	t.Setenv("KUBE_GATEWAY_AUTHORITY_DIR", filepath.Join(t.TempDir(), "signer"))
	// Gateways of tests that have just ended are no concern of this one.
	kubectl(t, "-n", "kube-system", "delete", "configmap", "kube-gateway-trust")
}

// TestSigner has a signer of the cluster issue the certificates of gateways, renews them, and changes the signer's
// root, all under traffic.
func TestSigner(t *testing.T) {
	s := startSigner(t, "e2e.example.com/mesh")
	withSigner(t, s)
	ns := namespace(t)
	seen := watchSecrets(t, ns)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	first := s.signs
	follows := func(what string, issuer *testRoot, trusted ...*testRoot) {
		t.Helper()
		var want []string
		for _, root := range trusted {
			want = append(want, root.print())
		}
		slices.Sort(want)
		for _, p := range []*pod{a, b} {
			cert := p.status().Cert
			if got := slices.Sorted(slices.Values(cert.Authorities)); cert.Issuer != issuer.print() || !slices.Equal(got, want) {
				t.Errorf("%s: %s has the issuer %.16s and trusts %v, want %.16s and %v", what, p, cert.Issuer, got, issuer.print(), want)
			}
		}
	}
	follows("enabled", first, first)
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())

	before := a.status().Cert.Serial
	gateway(t, "-n", ns, "rotate", "pod/a")
	if after := a.status().Cert.Serial; after == before {
		t.Error("the certificate was not renewed")
	}
	l.more(10)

	// The signer gets a new root and uses it at once.
	second := newTestRoot(t, "second root")
	s.publish(first, second)
	s.become(second, nil)
	if out := tryGateway(t, "-n", ns, "rotate", "pod/b"); out.code == 0 || !strings.Contains(out.stderr, "leads to a new root") || !strings.Contains(out.stderr, "rotate --ca") {
		t.Errorf("a certificate of a root that no gateway trusts: exit %d, %s", out.code, out.stderr)
	}
	follows("before the new root", first, first)
	l.more(10)
	gateway(t, "rotate", "--ca")
	follows("brought the new root", first, first, second)
	gateway(t, "-n", ns, "rotate", "pod/b")
	l.more(10)
	late := startPods(t, ns, podSpec("late", node1))[0]
	enable(t, []string{"--mode=strict"}, late)
	late.talk(b.addr(portEcho), "late")
	a.talk(late.addr(portEcho), "late")
	// It drops the old one.
	s.publish(second)
	gateway(t, "rotate", "--ca")
	follows("only the new root", second, second)
	l.more(10)

	// The same once more, and watch does it.
	w := start(t, "kubectl-gateway", "watch", "-n", ns)
	w.says("watch")
	third := newTestRoot(t, "third root")
	s.publish(second, third)
	eventually(t, "all gateways trust the third root", func() error {
		for _, p := range []*pod{a, b, late} {
			if !slices.Contains(p.status().Cert.Authorities, third.print()) {
				return fmt.Errorf("%s does not", p)
			}
		}
		return nil
	})
	s.become(third, nil)
	s.publish(third)
	eventually(t, "all gateways have certificates of the third root, and trust it alone", func() error {
		for _, p := range []*pod{a, b, late} {
			if cert := p.status().Cert; cert.Issuer != third.print() || len(cert.Authorities) != 1 {
				return fmt.Errorf("%s: %+v", p, cert)
			}
		}
		return nil
	})
	l.more(10)
	must.Do(t, w.interrupt())
	l.stopClean(b)
	if names := appeared(t, ns, seen); len(names) != 0 {
		t.Errorf("Secrets appeared: %v", names)
	}
	checkNoKey(t, ns)
	gateway(t, "check", "-n", ns)
}

// TestSignerThatDoesNotServe is slow, refuses, issues the wrong thing, or says nothing.
func TestSignerThatDoesNotServe(t *testing.T) {
	s := startSigner(t, "e2e.example.com/bad")
	withSigner(t, s)
	ns := namespace(t)
	a := startPods(t, ns, podSpec("a", node1))[0]
	root := s.signs
	issued := func() *metav1.Condition {
		return &metav1.Condition{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Reason: "Issued", Message: "issued"}
	}
	fails := func(what string, answer func(*certificatesv1.PodCertificateRequest, *x509.Certificate) *metav1.Condition, words string, flags ...string) {
		t.Helper()
		s.become(root, answer)
		out := tryGateway(t, append([]string{"-n", ns, "enable", "pod/a"}, flags...)...)
		if text := out.stdout + out.stderr; out.code == 0 || !strings.Contains(text, words) || !strings.Contains(text, "hint:") {
			t.Errorf("%s: exit %d, %s", what, out.code, text)
		}
		if n := len(get[corev1.Pod](t, "-n", ns, "pod", "a").Spec.EphemeralContainers); n != 1 {
			t.Errorf("%s: %d containers", what, n)
		}
	}
	fails("refused", func(*certificatesv1.PodCertificateRequest, *x509.Certificate) *metav1.Condition {
		return &metav1.Condition{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Reason: "NotYours", Message: "pods of other teams get nothing"}
	}, "it has denied the request: NotYours: pods of other teams get nothing")
	fails("without addresses", func(_ *certificatesv1.PodCertificateRequest, leaf *x509.Certificate) *metav1.Condition {
		leaf.IPAddresses = nil
		return issued()
	}, "it lacks the address "+a.ips[0].String()+" of the pod")
	fails("for servers alone", func(_ *certificatesv1.PodCertificateRequest, leaf *x509.Certificate) *metav1.Condition {
		leaf.ExtKeyUsage = leaf.ExtKeyUsage[:1]
		return issued()
	}, "it lacks the key usage clientAuth")
	fails("silent", func(*certificatesv1.PodCertificateRequest, *x509.Certificate) *metav1.Condition { return nil },
		"it has not answered podcertificaterequest/kube-gateway-a-", unanswered)
	// Slow: each request has to be there for some seconds.
	s.become(root, func(r *certificatesv1.PodCertificateRequest, _ *x509.Certificate) *metav1.Condition {
		if time.Since(r.CreationTimestamp.Time) < 4*time.Second {
			return nil
		}
		return issued()
	})
	enable(t, []string{"--timeout=2m"}, a)
	if cert := a.status().Cert; cert.Issuer != root.print() {
		t.Errorf("%+v", cert)
	}
	if containers := get[corev1.Pod](t, "-n", ns, "pod", "a").Spec.EphemeralContainers; len(containers) != 1 {
		t.Errorf("%d containers", len(containers))
	}
	// The same signer by the older object.
	s.become(root, nil)
	before, answered := a.status().Cert.Serial, s.count()
	gateway(t, "init-ca", "--signer="+s.name, "--signer-request=csr")
	gateway(t, "-n", ns, "rotate", "pod/a")
	if after := a.status().Cert.Serial; after == before || s.count() != answered {
		t.Errorf("by CertificateSigningRequest: serial %s, then %s; %d requests of the other kind", before, after, s.count()-answered)
	}
}
