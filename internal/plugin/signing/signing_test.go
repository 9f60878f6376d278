package signing

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const testSigner = "example.com/kube-gateway"

var (
	webID  = identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"}
	webIPs = []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244:1::7")}
)

// lab is a cluster with pod web-0, which has a gateway, and a server that signs for it.
type lab struct {
	*Server
	t         testing.TB
	cluster   *fakecluster.Cluster
	authority *ca.Authority
	key       crypto.Signer
	// mayPatch are the users who may add containers to pods.
	mayPatch []string

	mu     sync.Mutex
	events []watch.Event
}

func newLab(t testing.TB) *lab {
	t.Helper()
	pod := fakecluster.NewPod("web-0")
	config := api.Config{
		Version: api.ConfigVersion, Pod: api.PodRef{Namespace: "shop", Name: "web-0", UID: "uid-web-0"}, TrustDomain: "cluster.local", Mode: api.Permissive,
		OnFailure: api.FailOpen, Capture: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, PodIPs: webIPs,
	}
	fakecluster.AddGateway(pod, string(must.Get(json.Marshal(config))(t)), fakecluster.Running(nil, nil))
	l := &lab{t: t, authority: must.Get(ca.New(ca.Options{}))(t), key: pki.ECKey(t, elliptic.P256()), mayPatch: []string{"alice"}}
	l.cluster = fakecluster.New(t, pod,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-account"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-node"}})
	l.cluster.Resources = []*metav1.APIResourceList{{GroupVersion: "certificates.k8s.io/v1", APIResources: []metav1.APIResource{{Name: "podcertificaterequests"}}}}
	l.cluster.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		want := authorizationv1.ResourceAttributes{Namespace: "shop", Verb: "patch", Resource: "pods", Subresource: "ephemeralcontainers", Name: "web-0"}
		review.Status.Allowed = slices.Contains(l.mayPatch, review.Spec.User) && *review.Spec.ResourceAttributes == want
		return true, review, nil
	})
	l.Server = &Server{
		Client: l.cluster, Name: testSigner,
		Authority: func(context.Context) (*ca.Authority, error) { return l.authority, nil },
		Survey:    func(context.Context, *corev1.Pod) (*survey.Survey, error) { return &survey.Survey{}, nil },
		Report: func(e watch.Event) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.events = append(l.events, e)
		},
	}
	must.Do(t, l.start(t.Context()))
	t.Cleanup(l.queue.ShutDown)
	return l
}

// reported returns what was reported, and forgets it.
func (l *lab) reported() []watch.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.events
	l.events = nil
	return list
}

// der is a request of the lab's key in DER form, changed by edit.
func (l *lab) der(edit func(*x509.CertificateRequest)) []byte {
	l.t.Helper()
	template := &x509.CertificateRequest{}
	if edit != nil {
		edit(template)
	}
	block, _ := pem.Decode(pki.Request(l.t, template, l.key))
	return block.Bytes
}

// full asks for all that pod web-0 gets, as gateways do.
func full(r *x509.CertificateRequest) {
	r.URIs = []*url.URL{webID.URL()}
	for _, ip := range webIPs {
		r.IPAddresses = append(r.IPAddresses, ip.AsSlice())
	}
}

// podRequest files a PodCertificateRequest, changed by edit, and returns what became of it.
func (l *lab) podRequest(edit func(*certificatesv1.PodCertificateRequest)) (*certificatesv1.PodCertificateRequest, error) {
	l.t.Helper()
	r := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "request"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: testSigner, PodName: "web-0", PodUID: "uid-web-0", ServiceAccountName: "web", ServiceAccountUID: "uid-account",
			NodeName: "node-1", NodeUID: "uid-node", MaxExpirationSeconds: new(int32(86400)), StubPKCS10Request: l.der(full),
		},
	}
	if edit != nil {
		edit(r)
	}
	requests, ctx := l.cluster.CertificatesV1().PodCertificateRequests(r.Namespace), context.WithoutCancel(l.t.Context())
	must.Do(l.t, ignoreNotFound(requests.Delete(ctx, r.Name, metav1.DeleteOptions{})))
	r = must.Get(requests.Create(ctx, r, metav1.CreateOptions{}))(l.t)
	err := l.answer(ctx, r)
	return must.Get(requests.Get(ctx, r.Name, metav1.GetOptions{}))(l.t), err
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// csr is as podRequest.
func (l *lab) csr(edit func(*certificatesv1.CertificateSigningRequest)) (*certificatesv1.CertificateSigningRequest, error) {
	l.t.Helper()
	const a = "kubectl-gateway.github.io/"
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "request", Annotations: map[string]string{
			a + "pod-namespace": "shop", a + "pod-name": "web-0", a + "pod-uid": "uid-web-0", a + "service-account": "web", a + "service-account-uid": "uid-account",
			a + "node-name": "node-1", a + "node-uid": "uid-node",
		}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: testSigner, Username: "alice", Request: ca.EncodeRequest(l.der(full)),
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth},
		},
	}
	if edit != nil {
		edit(r)
	}
	requests, ctx := l.cluster.CertificatesV1().CertificateSigningRequests(), context.WithoutCancel(l.t.Context())
	must.Do(l.t, ignoreNotFound(requests.Delete(ctx, r.Name, metav1.DeleteOptions{})))
	r = must.Get(requests.Create(ctx, r, metav1.CreateOptions{}))(l.t)
	err := l.answer(ctx, r)
	return must.Get(requests.Get(ctx, r.Name, metav1.GetOptions{}))(l.t), err
}

// leaf checks a chain, and returns its first certificate.
func (l *lab) leaf(chain string, id identity.ID, ips []netip.Addr) *x509.Certificate {
	l.t.Helper()
	certs := must.Get(ca.ParseCertificates([]byte(chain)))(l.t)
	must.Get(ca.Verify(certs, []*x509.Certificate{l.authority.Root()}, time.Now()))(l.t)
	expect.Equal(l.t, "identity", id, must.Get(identity.FromCertificate(certs[0]))(l.t))
	var got []netip.Addr
	for _, name := range certs[0].IPAddresses {
		ip, _ := netip.AddrFromSlice(name)
		got = append(got, ip.Unmap())
	}
	expect.Equal(l.t, "addresses", ips, got)
	if public := l.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !public.Equal(certs[0].PublicKey) {
		l.t.Error("it is for another key")
	}
	pod := "" // that of a service account
	if id == webID {
		pod = "SERIALNUMBER=uid-web-0"
	}
	if certs[0].IsCA || len(certs[0].DNSNames) > 0 || certs[0].Subject.String() != pod {
		l.t.Errorf("%+v", certs[0])
	}
	return certs[0]
}

func TestPodCertificateRequest(t *testing.T) {
	l := newLab(t)
	for name, c := range map[string]struct {
		ttl  time.Duration
		most int32
		want time.Duration
	}{
		"what the request allows":   {30 * 24 * time.Hour, 86400, 24 * time.Hour},
		"the least there is":        {time.Minute, 3600, time.Hour},
		"--cert-ttl below that":     {time.Minute, 86400, time.Hour + ca.Backdate},
		"--cert-ttl":                {2 * time.Hour, 86400, 2*time.Hour + ca.Backdate},
		"no bound but the server's": {30 * 24 * time.Hour, 0, 24 * time.Hour},
	} {
		l.TTL = c.ttl
		r, err := l.podRequest(func(r *certificatesv1.PodCertificateRequest) {
			if r.Spec.MaxExpirationSeconds = &c.most; c.most == 0 {
				r.Spec.MaxExpirationSeconds = nil
			}
		})
		must.Do(t, err)
		leaf, s := l.leaf(r.Status.CertificateChain, webID, webIPs), r.Status
		if len(s.Conditions) != 1 || s.Conditions[0].Type != "Issued" || s.Conditions[0].Status != metav1.ConditionTrue || s.Conditions[0].Reason == "" || s.Conditions[0].LastTransitionTime.IsZero() {
			t.Fatalf("%s: %+v", name, s.Conditions)
		}
		// The API server holds these against the certificate, and wants ten minutes on both sides of the refresh.
		if !s.NotBefore.Time.Equal(leaf.NotBefore) || !s.NotAfter.Time.Equal(leaf.NotAfter) || leaf.NotAfter.Sub(leaf.NotBefore) != c.want ||
			s.BeginRefreshAt.Sub(leaf.NotBefore) < 10*time.Minute || leaf.NotAfter.Sub(s.BeginRefreshAt.Time) < 10*time.Minute {
			t.Errorf("%s: from %v to %v, refreshed at %v; want %v", name, s.NotBefore, s.NotAfter, s.BeginRefreshAt, c.want)
		}
		got := l.reported()
		if len(got) != 1 || got[0].Action != watch.Signed || got[0].Request != "podcertificaterequest/request" || got[0].Pod != "web-0" ||
			got[0].Identity != webID.String() || !got[0].NotAfter.Equal(leaf.NotAfter) {
			t.Errorf("%s: %+v", name, got)
		}
		// What is answered is let alone.
		must.Do(t, l.answer(t.Context(), r))
		if again := l.reported(); len(again) != 0 {
			t.Errorf("%s: again: %+v", name, again)
		}
	}
	// The stub of a kubelet asks for nothing.
	r, err := l.podRequest(func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = l.der(nil) })
	must.Do(t, err)
	l.leaf(r.Status.CertificateChain, webID, webIPs)
	// Requests of other signers, and of other namespaces with -n, are others'.
	l.Namespace = "other"
	for _, signer := range []string{testSigner, "example.com/other"} {
		r, err := l.podRequest(func(r *certificatesv1.PodCertificateRequest) { r.Spec.SignerName = signer })
		if err != nil || len(r.Status.Conditions) > 0 {
			t.Errorf("%s: %+v, %v", signer, r.Status, err)
		}
		l.Namespace = ""
	}
}

// stateOf sets the state of web-0's gateway.
func stateOf(state corev1.ContainerState) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.EphemeralContainerStatuses[0].State = state }
}

// TestRefusedPods: each is denied, with its reason.
func TestRefusedPods(t *testing.T) {
	names := func(edit func(*x509.CertificateRequest)) func(*lab, *certificatesv1.PodCertificateRequest) {
		return func(l *lab, r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = l.der(edit) }
	}
	key := func(key crypto.Signer) func(*lab, *certificatesv1.PodCertificateRequest) {
		return func(l *lab, r *certificatesv1.PodCertificateRequest) {
			l.key = key
			r.Spec.StubPKCS10Request = l.der(nil)
		}
	}
	spec := func(edit func(*certificatesv1.PodCertificateRequestSpec)) func(*lab, *certificatesv1.PodCertificateRequest) {
		return func(_ *lab, r *certificatesv1.PodCertificateRequest) { edit(&r.Spec) }
	}
	for name, c := range map[string]struct {
		pod     func(*corev1.Pod)
		request func(*lab, *certificatesv1.PodCertificateRequest)
		reason  string
		words   string
	}{
		"no name of a pod":        {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "../secrets/x" }), reasonPod, `"../secrets/x" in namespace "shop" is not the name`},
		"no such pod":             {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.PodName = "web-9" }), reasonPod, "no pod web-9"},
		"another pod of the name": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "uid-old" }), reasonPod, "UID uid-old"},
		"another service account": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountName = "root" }), reasonMismatch, "is not root"},
		"another UID of it":       {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "uid-old" }), reasonMismatch, "service account web"},
		"another node":            {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeName = "node-2" }), reasonMismatch, "node-2"},
		"another UID of that":     {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeUID = "uid-old" }), reasonMismatch, "node node-1"},
		"annotations": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) {
			s.UnverifiedUserAnnotations = map[string]string{"example.com/dns": "www"}
		}), "InvalidUnverifiedUserAnnotations", "example.com/dns"},
		"too short": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.MaxExpirationSeconds = new(int32(600)) }), reasonLifetime, "3600"},
		"no request": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = []byte("x") }), reasonRequest,
			"cannot be used"},
		"a forged one": {nil, spec(func(s *certificatesv1.PodCertificateRequestSpec) {
			s.StubPKCS10Request[len(s.StubPKCS10Request)-1] ^= 1
		}), reasonRequest,
			"does not have its key"},
		"P-384":   {nil, key(pki.ECKey(t, elliptic.P384())), "UnsupportedKeyType", "ECDSA P-256"},
		"RSA":     {nil, key(pki.RSAKey(t, 3072)), "UnsupportedKeyType", "ECDSA P-256"},
		"Ed25519": {nil, key(pki.Ed25519Key(t)), "UnsupportedKeyType", "ECDSA P-256"},
		"another identity": {nil, names(func(r *x509.CertificateRequest) {
			r.URIs = []*url.URL{identity.ID{TrustDomain: "cluster.local", Namespace: "kube-system", ServiceAccount: "root"}.URL()}
		}), reasonRequest, "it is not for spiffe://cluster.local/ns/shop/sa/web"},
		"one identity too many": {nil, names(func(r *x509.CertificateRequest) {
			full(r)
			r.URIs = append(r.URIs, &url.URL{Scheme: "https", Host: "example.com"})
		}), reasonRequest, "it is not for spiffe"},
		"another address": {nil, names(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 244, 9, 9)} }), reasonRequest, "not for the addresses"},
		"a DNS name":      {nil, names(func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes"} }), reasonRequest, "more than"},
		"a subject":       {nil, names(func(r *x509.CertificateRequest) { r.Subject = pkix.Name{CommonName: "system:masters"} }), reasonRequest, "more than"},
		"an extension": {nil, names(func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}), reasonRequest, "more than"},
		"a name of another kind": {nil, names(func(r *x509.CertificateRequest) {
			full(r)
			pki.AddOtherName(t, r)
		}), reasonRequest, "more than"},
		"an attribute":          {nil, names(pki.AddAttribute), reasonRequest, "more than"},
		"a static pod":          {func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }, nil, reasonMismatch, "static pod"},
		"an end":                {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil, reasonEnded, "web-0"},
		"no gateway":            {func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil }, nil, reasonNoGateway, "--sign-for='ns/shop/sa/web'"},
		"a dead gateway":        {stateOf(fakecluster.Terminated(1, "died")), nil, reasonNoGateway, "no gateway"},
		"a container of others": {func(p *corev1.Pod) { p.Spec.EphemeralContainers[0].Name = "debug" }, nil, reasonNoGateway, "no gateway"},
		"other addresses than the gateway's": {func(p *corev1.Pod) {
			p.Status.PodIP, p.Status.PodIPs = "10.244.1.8", []corev1.PodIP{{IP: "10.244.1.8"}}
		}, nil, reasonAddresses, "addresses which the pod has no more"},
		"no address": {func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, nil, reasonAddresses,
			"no address yet, and no rule gives it a certificate: who runs the signer may add --sign-for='ns/shop/sa/web'"},
	} {
		l := newLab(t)
		if pod := l.cluster.Pod("web-0"); c.pod != nil {
			c.pod(pod)
			l.cluster.Update(pod)
		}
		r, err := l.podRequest(func(r *certificatesv1.PodCertificateRequest) {
			if c.request != nil {
				c.request(l, r)
			}
		})
		must.Do(t, err)
		conditions := r.Status.Conditions
		if r.Status.CertificateChain != "" || r.Status.NotAfter != nil || len(conditions) != 1 || conditions[0].Type != "Denied" || conditions[0].Status != metav1.ConditionTrue ||
			conditions[0].Reason != c.reason || !strings.Contains(conditions[0].Message, c.words) {
			t.Errorf("%s: %+v, want %s: %s", name, r.Status, c.reason, c.words)
		}
		if got := l.reported(); len(got) != 1 || got[0].Action != watch.Denied || !strings.Contains(got[0].Err.Error(), c.reason+": ") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestWhoseAddress: a kubelet that lies about addresses gets no certificate for them.
func TestWhoseAddress(t *testing.T) {
	l := newLab(t)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.244.1.7", ClusterIPs: []string{"10.244.1.7"}}}
	must.Get(l.cluster.CoreV1().Services("shop").Create(t.Context(), service, metav1.CreateOptions{}))(t)
	l.Survey = func(ctx context.Context, pod *corev1.Pod) (*survey.Survey, error) {
		return survey.Run(ctx, l.cluster, []corev1.Pod{*pod}, api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	}
	r, err := l.podRequest(nil)
	if err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Reason != reasonAddresses || !strings.Contains(r.Status.Conditions[0].Message, "Service shop/db") {
		t.Errorf("%+v, %v", r.Status, err)
	}
	// Nobody's own is what no authority signs for.
	l = newLab(t)
	l.For = []api.Rule{must.Get(ParseRule("ns/shop/sa/*"))(t)}
	pod := l.cluster.Pod("web-0")
	pod.Spec.EphemeralContainers, pod.Status.PodIP, pod.Status.PodIPs = nil, "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	l.cluster.Update(pod)
	r, err = l.podRequest(func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = l.der(nil) })
	if err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != "Failed" || r.Status.Conditions[0].Reason != reasonAuthority || r.Status.CertificateChain != "" {
		t.Errorf("loopback: %+v, %v", r.Status, err)
	}
}

// TestRules: a pod without a gateway gets a certificate by a rule alone, and so does one that waits for its volumes,
// before it has addresses and whatever it is created with.
func TestRules(t *testing.T) {
	for what, create := range map[string]func(*corev1.Pod){
		"alone":          func(*corev1.Pod) {},
		"with a sidecar": func(pod *corev1.Pod) { fakecluster.AddSidecar(pod, "{}", corev1.ContainerStatus{}) },
	} {
		l := newLab(t)
		pod := l.cluster.Pod("web-0")
		pod.Spec.EphemeralContainers, pod.Status = nil, corev1.PodStatus{Phase: corev1.PodPending}
		create(pod)
		l.cluster.Update(pod)
		for rule, want := range map[string]string{"ns/shop/sa/web": "Issued", "ns/shop/sa/*": "Issued", "ns/*/sa/w?b": "Issued", "ns/other/sa/web": "Denied", "ns/shop/sa/db": "Denied"} {
			l.For = []api.Rule{must.Get(ParseRule("ns/none/sa/none"))(t), must.Get(ParseRule(rule))(t)}
			r, err := l.podRequest(func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = l.der(nil) })
			if err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != want {
				t.Fatalf("%s, %s: %+v, %v", what, rule, r.Status, err)
			}
			if want == "Issued" {
				l.leaf(r.Status.CertificateChain, webID, nil)
			}
		}
	}
	for _, text := range []string{"", "shop/web", "ns/shop/sa/web:80", "ns//sa/web"} {
		if _, err := ParseRule(text); err == nil {
			t.Errorf("%q is a rule", text)
		}
	}
	for name, good := range map[string]bool{testSigner: true, "kubernetes.io/kube-apiserver-client": false, "x.kubernetes.io/y": false, "mesh": false, "example.com/": false} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertificateSigningRequest(t *testing.T) {
	l := newLab(t)
	l.TTL = 48 * time.Hour
	r, err := l.csr(func(r *certificatesv1.CertificateSigningRequest) { r.Spec.ExpirationSeconds = new(int32(7200)) })
	must.Do(t, err)
	leaf := l.leaf(string(r.Status.Certificate), webID, webIPs)
	if c := r.Status.Conditions; len(c) != 1 || c[0].Type != certificatesv1.CertificateApproved || c[0].Status != corev1.ConditionTrue || leaf.NotAfter.Sub(leaf.NotBefore) != 2*time.Hour+ca.Backdate {
		t.Errorf("%+v, %v", c, leaf.NotAfter)
	}
	if got := l.reported(); len(got) != 1 || got[0].Action != watch.Signed || got[0].Request != "certificatesigningrequest/request" || got[0].Namespace != "shop" {
		t.Errorf("%+v", got)
	}
	account := func(r *certificatesv1.CertificateSigningRequest) {
		r.Annotations, r.Spec.Username, r.Spec.UID, r.Spec.Request = nil, "system:serviceaccount:shop:web", "uid-account", ca.EncodeRequest(l.der(nil))
	}
	for name, c := range map[string]struct {
		edit      func(*certificatesv1.CertificateSigningRequest)
		condition certificatesv1.RequestConditionType
		reason    string
	}{
		"who may not add a gateway": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = "mallory" }, certificatesv1.CertificateDenied, reasonAsker},
		"the pod itself":            {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = "system:serviceaccount:shop:web" }, certificatesv1.CertificateDenied, reasonAsker},
		"about another pod": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Annotations["kubectl-gateway.github.io/pod-name"] = "web-9"
		}, certificatesv1.CertificateDenied, reasonAsker},
		"another UID": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Annotations["kubectl-gateway.github.io/pod-uid"] = "x"
		}, certificatesv1.CertificateDenied, reasonPod},
		"fewer usages": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Usages = r.Spec.Usages[1:] }, certificatesv1.CertificateDenied, reasonUsages},
		"more usages": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageCertSign)
		}, certificatesv1.CertificateDenied, reasonUsages},
		"no request": {func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Request = []byte("x") }, certificatesv1.CertificateDenied, reasonRequest},
		"approved by somebody, too": {func(r *certificatesv1.CertificateSigningRequest) {
			*r = *with(r, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved})
		}, certificatesv1.CertificateApproved, ""},
		"by somebody, and not by us": {func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Username = "mallory"
			*r = *with(r, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved})
		}, certificatesv1.CertificateFailed, reasonAsker},
		"a user without a pod":      {func(r *certificatesv1.CertificateSigningRequest) { r.Annotations = nil }, certificatesv1.CertificateDenied, reasonAsker},
		"an account without a rule": {account, certificatesv1.CertificateDenied, reasonAsker},
		"a user called like one":    {func(r *certificatesv1.CertificateSigningRequest) { account(r); r.Spec.Username = "shop:scraper" }, certificatesv1.CertificateDenied, reasonAsker},
		"an account that was replaced": {func(r *certificatesv1.CertificateSigningRequest) {
			account(r)
			r.Spec.Username, r.Spec.UID = "system:serviceaccount:shop:scraper", "uid-old"
		}, certificatesv1.CertificateDenied, reasonMismatch},
		"an account with a rule": {func(r *certificatesv1.CertificateSigningRequest) {
			account(r)
			r.Spec.Username, r.Spec.UID = "system:serviceaccount:shop:scraper", "uid-scraper"
		}, certificatesv1.CertificateApproved, "Allowed"},
		"and for an address": {func(r *certificatesv1.CertificateSigningRequest) {
			account(r)
			r.Spec.Username, r.Spec.UID, r.Spec.Request = "system:serviceaccount:shop:scraper", "uid-scraper", ca.EncodeRequest(l.der(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 244, 1, 7)} }))
		}, certificatesv1.CertificateDenied, reasonRequest},
	} {
		l.For = []api.Rule{must.Get(ParseRule("ns/shop/sa/scraper"))(t)}
		scraper := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "scraper", UID: "uid-scraper"}}
		if _, err := l.cluster.CoreV1().ServiceAccounts("shop").Create(t.Context(), scraper, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		r, err := l.csr(c.edit)
		must.Do(t, err)
		last := r.Status.Conditions[len(r.Status.Conditions)-1]
		if last.Type != c.condition || last.Reason != c.reason || last.Status != corev1.ConditionTrue || (len(r.Status.Certificate) > 0) != (c.condition == certificatesv1.CertificateApproved) {
			t.Errorf("%s: %+v", name, r.Status)
		}
		if name == "an account with a rule" {
			l.leaf(string(r.Status.Certificate), identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "scraper"}, nil)
		}
	}
	// Those of other namespaces are others'.
	l.Namespace = "other"
	for _, edit := range []func(*certificatesv1.CertificateSigningRequest){nil, account} {
		if r, err := l.csr(edit); err != nil || len(r.Status.Conditions) > 0 {
			t.Errorf("%+v, %v", r.Status, err)
		}
	}
}

// TestTrouble is tried again, and told once. A request that somebody else has answered is no trouble.
func TestTrouble(t *testing.T) {
	l := newLab(t)
	away := errors.New("away")
	read := l.Authority
	l.Authority = func(context.Context) (*ca.Authority, error) { return nil, away }
	for range 2 {
		if r, err := l.podRequest(nil); !errors.Is(err, away) || len(r.Status.Conditions) > 0 {
			t.Errorf("%+v, %v", r.Status, err)
		}
	}
	if got := l.reported(); len(got) != 1 || got[0].Action != watch.Noticed || !strings.Contains(got[0].Warnings[0], "signer example.com/kube-gateway: answering requests: reading the authority: away") {
		t.Errorf("%+v", got)
	}
	l.Authority = read
	for verb, resource := range map[string]string{"get": "nodes", "create": "subjectaccessreviews"} {
		failed := true
		l.cluster.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return failed, nil, apierrors.NewInternalError(away)
		})
		if r, err := l.csr(nil); err == nil || len(r.Status.Conditions) > 0 {
			t.Errorf("%s %s: %+v, %v", verb, resource, r.Status, err)
		}
		failed = false
	}
	r, err := l.csr(nil)
	if err != nil || len(r.Status.Certificate) == 0 {
		t.Errorf("%+v, %v", r.Status, err)
	}
	l.reported()
	for _, lost := range []error{apierrors.NewConflict(certificatesv1.Resource("x"), "x", away), apierrors.NewNotFound(certificatesv1.Resource("x"), "x")} {
		lose := true
		l.cluster.PrependReactor("update", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) { return lose, nil, lost })
		if r, err := l.podRequest(nil); err != nil || len(r.Status.Conditions) > 0 || len(l.reported()) > 0 {
			t.Errorf("%+v, %v", r.Status, err)
		}
		lose = false
	}
	// A certificate that the server does not take.
	first := true
	l.cluster.PrependReactor("update", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		was := first
		first = false
		return was, nil, apierrors.NewInvalid(certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest").GroupKind(), "x", nil)
	})
	if r, err := l.podRequest(nil); err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != "Failed" || r.Status.Conditions[0].Reason != reasonNotTaken || r.Status.CertificateChain != "" {
		t.Errorf("%+v, %v", r.Status, err)
	}
	// An authority that ends sooner than certificates may.
	l.authority = must.Get(ca.New(ca.Options{TTL: 30 * time.Minute}))(t)
	if r, err := l.podRequest(nil); err != nil || len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != "Failed" || !strings.Contains(r.Status.Conditions[0].Message, "the authority ends on") {
		t.Errorf("%+v, %v", r.Status, err)
	}
}

// bundle returns what the ClusterTrustBundle holds.
func (l *lab) bundle() string {
	l.t.Helper()
	b := must.Get(l.cluster.CertificatesV1().ClusterTrustBundles().Get(l.t.Context(), "example.com:kube-gateway:kube-gateway-trust", metav1.GetOptions{}))(l.t)
	expect.Equal(l.t, "signer", testSigner, b.Spec.SignerName)
	return b.Spec.TrustBundle
}

// TestTrust follows a rotation of the authority.
func TestTrust(t *testing.T) {
	l := newLab(t)
	old := l.authority
	expect.Equal(t, "at the start", string(old.Bundle()), l.bundle())
	next := must.Get(ca.New(ca.Options{}))(t)
	for _, a := range []*ca.Authority{old.Trusting(next.Root()), next.Trusting(old.Root()), next} {
		l.authority = a
		must.Do(t, l.refresh(t.Context()))
		expect.Equal(t, "during a rotation", string(a.Bundle()), l.bundle())
	}
	// A certificate never comes before its root.
	l.authority = must.Get(ca.New(ca.Options{}))(t)
	r, err := l.podRequest(nil)
	must.Do(t, err)
	l.leaf(r.Status.CertificateChain, webID, webIPs)
	expect.Equal(t, "a new root", string(l.authority.Bundle()), l.bundle())
	// What somebody else writes there is undone.
	b := must.Get(l.cluster.CertificatesV1().ClusterTrustBundles().Get(t.Context(), BundleName(testSigner), metav1.GetOptions{}))(t)
	b.Spec.TrustBundle = string(old.Bundle())
	must.Get(l.cluster.CertificatesV1().ClusterTrustBundles().Update(t.Context(), b, metav1.UpdateOptions{}))(t)
	must.Do(t, l.refresh(t.Context()))
	expect.Equal(t, "restored", string(l.authority.Bundle()), l.bundle())
	if writes := slices.DeleteFunc(l.cluster.Actions(), func(a clienttesting.Action) bool {
		return a.GetVerb() != "update" || a.GetResource().Resource != "clustertrustbundles"
	}); len(writes) != 6 {
		t.Errorf("%d updates", len(writes))
	}
	// Without the objects, certificates are issued all the same.
	l = newLab(t)
	l.published = ""
	for _, verb := range []string{"get", "create"} {
		l.cluster.PrependReactor(verb, "clustertrustbundles", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundles"), "x")
		})
	}
	for range 2 {
		must.Do(t, l.refresh(t.Context()))
	}
	if got := l.reported(); len(got) != 1 || !strings.Contains(got[0].Warnings[0], "has no ClusterTrustBundle") {
		t.Errorf("%+v", got)
	}
	if r, err := l.podRequest(nil); err != nil || r.Status.CertificateChain == "" {
		t.Errorf("%+v, %v", r.Status, err)
	}
}

// FuzzCertificateSigningRequest: whatever somebody asks for who may ask, the certificate is for the pod, with its addresses.
func FuzzCertificateSigningRequest(f *testing.F) {
	l := newLab(f)
	f.Add("shop", "web-0", "uid-web-0", "web", "node-1", ca.EncodeRequest(l.der(full)))
	f.Add("shop", "web-0", "uid-web-0", "web", "node-1", ca.EncodeRequest(l.der(func(r *x509.CertificateRequest) { r.DNSNames = []string{"x"} })))
	f.Add("", "../x", "", "\x00", "%s", []byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, namespace, pod, uid, account, node string, request []byte) {
		const a = "kubectl-gateway.github.io/"
		_, leaf, err := l.forCSR(t.Context(), &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: "request", Annotations: map[string]string{
				a + "pod-namespace": namespace, a + "pod-name": pod, a + "pod-uid": uid, a + "service-account": account, a + "service-account-uid": "uid-account",
				a + "node-name": node, a + "node-uid": "uid-node",
			}},
			Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: testSigner, Username: "alice", Request: request, Usages: usages},
		})
		var refusal *Refusal
		switch {
		case errors.As(err, &refusal):
			if leaf != nil || refusal.Failed || refusal.Message == "" || utf8.RuneCountInString(refusal.Message) > maxMessage || strings.ContainsAny(refusal.Message, "\x00\x1b\n") {
				t.Errorf("%v, %+v", leaf, refusal)
			}
		case err != nil:
			t.Error(err)
		default:
			cert := must.Get(ca.ParseCertificates(leaf.CertPEM))(t)[0]
			if id, err := identity.FromCertificate(cert); err != nil || id != webID || len(cert.IPAddresses) != len(webIPs) || cert.IsCA || namespace != "shop" || pod != "web-0" || uid != "uid-web-0" {
				t.Errorf("%v, %v", cert, err)
			}
		}
	})
}

// TestRun answers those who are there and those who come, many at once: a few requests to the API server for each, and
// no other ones.
func TestRun(t *testing.T) {
	const askers = 200
	l := newLab(t)
	file := func(i int) {
		r := &certificatesv1.PodCertificateRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("request-%d", i)},
			Spec: certificatesv1.PodCertificateRequestSpec{
				SignerName: testSigner, PodName: "web-0", PodUID: "uid-web-0", ServiceAccountName: "web", ServiceAccountUID: "uid-account",
				NodeName: "node-1", NodeUID: "uid-node", StubPKCS10Request: l.der(nil),
			},
		}
		must.Get(l.cluster.CertificatesV1().PodCertificateRequests("shop").Create(t.Context(), r, metav1.CreateOptions{}))(t)
	}
	for i := range askers / 2 {
		file(i)
	}
	l.cluster.ClearActions()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.events)
	}
	expect.Eventually(t, "those that were there are answered", func() bool { return count() == askers/2 })
	for i := range askers / 2 {
		file(askers/2 + i)
	}
	expect.Eventually(t, "all are answered", func() bool { return count() == askers })
	cancel()
	must.Do(t, <-done)
	requests := map[string]int{}
	for _, action := range l.cluster.Actions() {
		requests[strings.TrimSuffix(action.GetVerb()+" "+action.GetResource().Resource+"/"+action.GetSubresource(), "/")]++
	}
	for _, what := range []string{"get pods", "get serviceaccounts", "get nodes", "update podcertificaterequests/status"} {
		if requests[what] != askers {
			t.Errorf("%s: %d for %d askers", what, requests[what], askers)
		}
		delete(requests, what)
	}
	// They are refreshed one after the other.
	refreshes := map[time.Time]bool{}
	list := must.Get(l.cluster.CertificatesV1().PodCertificateRequests("shop").List(t.Context(), metav1.ListOptions{}))(t)
	for _, r := range list.Items {
		refreshes[r.Status.BeginRefreshAt.Truncate(time.Minute)] = true
	}
	if len(refreshes) < 20 {
		t.Errorf("refreshed in %d different minutes", len(refreshes))
	}
	delete(requests, "create podcertificaterequests")
	for what, n := range requests {
		// Looks after the roots come with time.
		if n > 50 {
			t.Errorf("%s: %d", what, n)
		}
	}
}

func TestOnce(t *testing.T) {
	l := newLab(t)
	for name, uid := range map[string]types.UID{"good": "uid-web-0", "bad": "uid-old"} {
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: testSigner, PodName: "web-0", PodUID: uid, ServiceAccountName: "web", ServiceAccountUID: "uid-account", NodeName: "node-1", NodeUID: "uid-node", StubPKCS10Request: l.der(nil),
		}}
		must.Get(l.cluster.CertificatesV1().PodCertificateRequests("shop").Create(t.Context(), r, metav1.CreateOptions{}))(t)
	}
	if failures, err := l.Once(t.Context()); failures != 0 || err != nil || len(l.reported()) != 2 {
		t.Errorf("%d, %v", failures, err)
	}
	l.cluster.Forbid("list", "certificatesigningrequests")
	if _, err := l.Once(t.Context()); !apierrors.IsForbidden(err) {
		t.Error(err)
	}
}
