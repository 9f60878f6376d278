package rotate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

var errInterrupted = errors.New("interrupted by the test")

// world is a cluster with gateways in it. The gateways check what they are given
// as real ones do.
type world struct {
	t       *testing.T
	cluster *fake.Clientset
	dir     string
	first   *ca.Authority

	mu       sync.Mutex
	gateways map[string]*fakeGateway // by namespace/pod
	asked    []string                // what gateways were asked for, "renew shop/web"
	// step is called around everything that is done; an error ends that.
	step func(what string) error
}

type fakeGateway struct {
	pod      *corev1.Pod
	chain    []*x509.Certificate
	roots    []*x509.Certificate
	state    api.State
	imposter bool
	// failures are the errors that the next questions are answered with.
	failures []error
	// stubborn gateways keep what they have, and say that all is well.
	stubborn bool
}

// newWorld makes a cluster with an authority. keep is local or both.
func newWorld(t *testing.T, keep string, pods ...string) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "authority"), gateways: map[string]*fakeGateway{}}
	w.cluster = fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: authority.Namespace, UID: "uid-1"}})
	w.step = func(string) error { return nil }
	store := authority.StoreLocal
	if keep == "both" {
		store = authority.StoreCluster
	}
	result, err := authority.Init(t.Context(), authority.InitOptions{Client: w.cluster, Dir: w.dir, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	w.first = result.Authority
	for _, pod := range pods {
		w.enable(pod, w.first)
	}
	for _, verb := range []string{"create", "update", "delete", "get", "list"} {
		w.cluster.PrependReactor(verb, "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
			what := verb + " " + action.GetResource().Resource
			if err := w.step(what); err != nil {
				return true, nil, err
			}
			if verb == "get" || verb == "list" {
				return false, nil, nil
			}
			handled, object, err := clienttesting.ObjectReaction(w.cluster.Tracker())(action)
			if stop := w.step(what + " done"); stop != nil {
				return true, nil, stop
			}
			return handled, object, err
		})
	}
	return w
}

// newPod returns a pod with a gateway that runs.
func newPod(name string) *corev1.Pod {
	namespace, name, _ := strings.Cut(name, "/")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name)},
		Spec:   corev1.PodSpec{ServiceAccountName: "sa-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.0.1.7"}, {IP: "fd00::7"}}}}
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: installed.ContainerName, Image: "gateway:v1", Env: []corev1.EnvVar{{Name: api.EnvConfig, Value: "{}"}}}}}
	setState(pod, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	return pod
}

func setState(pod *corev1.Pod, state corev1.ContainerState) {
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: installed.ContainerName, State: state}}
}

// enable adds a pod with a gateway that has its certificate and roots from a.
func (w *world) enable(name string, a *ca.Authority) *fakeGateway {
	w.t.Helper()
	g := &fakeGateway{pod: newPod(name), state: api.Ready}
	leaf, err := a.Issue(ca.LeafRequest{Identity: installed.Identity(g.pod, a.TrustDomain()), IPs: installed.PodIPs(g.pod)})
	if err != nil {
		w.t.Fatal(err)
	}
	g.chain, g.roots = certificates(leaf.CertPEM), certificates(a.Bundle())
	if err := w.cluster.Tracker().Add(g.pod.DeepCopy()); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gateways[name] = g
	return g
}

// change stores g's pod after edit.
func (w *world) change(g *fakeGateway, edit func(*corev1.Pod)) {
	w.t.Helper()
	edit(g.pod)
	if err := w.cluster.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), g.pod.DeepCopy(), g.pod.Namespace); err != nil {
		w.t.Fatal(err)
	}
}

func certificates(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err)
		}
		list = append(list, cert)
	}
	return list
}

// leads returns the root that a chain leads to, or nil.
func leads(chain, roots []*x509.Certificate) *x509.Certificate {
	return leadsAt(chain, roots, time.Now())
}

func leadsAt(chain, roots []*x509.Certificate, now time.Time) *x509.Certificate {
	options := x509.VerifyOptions{CurrentTime: now, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	verified, err := chain[0].Verify(options)
	if err != nil {
		return nil
	}
	return verified[0][len(verified[0])-1]
}

func (g *fakeGateway) status() *api.Status {
	s := &api.Status{State: g.state, Pod: api.PodRef{UID: string(g.pod.UID)}, Time: time.Now()}
	if g.imposter {
		s.Pod.UID = "uid-other"
	}
	if g.chain == nil {
		return s
	}
	s.Cert = api.Certificate{Serial: g.chain[0].SerialNumber.Text(16), NotBefore: g.chain[0].NotBefore, NotAfter: g.chain[0].NotAfter}
	for _, root := range g.roots {
		s.Cert.Authorities = append(s.Cert.Authorities, ca.Fingerprint(root))
	}
	// As if it had looked before the certificate ended.
	if root := leadsAt(g.chain, g.roots, g.chain[0].NotAfter.Add(-time.Second)); root != nil {
		s.Cert.Issuer = ca.Fingerprint(root)
	}
	return s
}

// ask runs do in a gateway, if it answers.
func (w *world) ask(ctx context.Context, verb, namespace, pod string, do func(*fakeGateway) error) (*api.Status, error) {
	name := namespace + "/" + pod
	if err := w.step(verb + " " + name); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.mu.Lock()
	w.asked = append(w.asked, verb+" "+name)
	g := w.gateways[name]
	if g == nil {
		w.mu.Unlock()
		return nil, fmt.Errorf("%w: %s", remote.ErrPodGone, name)
	}
	if len(g.failures) > 0 {
		err := g.failures[0]
		g.failures = g.failures[1:]
		w.mu.Unlock()
		return nil, err
	}
	var err error
	if !g.stubborn {
		err = do(g)
	}
	status := g.status()
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if verb != "status" {
		if err := w.step(verb + " " + name + " done"); err != nil {
			return nil, err
		}
	}
	return status, nil
}

func (w *world) Status(ctx context.Context, namespace, pod, _ string, _ time.Duration) (*api.Status, error) {
	return w.ask(ctx, "status", namespace, pod, func(*fakeGateway) error { return nil })
}

func (w *world) Renew(ctx context.Context, namespace, pod, _ string, sign remote.Sign) (*api.Status, error) {
	return w.ask(ctx, "renew", namespace, pod, func(g *fakeGateway) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		// What a gateway asks for is nothing that it gets.
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"kubernetes"}}, key)
		if err != nil {
			return err
		}
		issued, err := sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		if err != nil {
			return err
		}
		chain, roots := certificates([]byte(issued.Certificate)), certificates([]byte(issued.Bundle))
		id, err := identity.FromCertificate(chain[0])
		switch {
		case err != nil:
			return err
		case !key.PublicKey.Equal(chain[0].PublicKey):
			return errors.New("for another key")
		case id.Namespace != namespace || id.ServiceAccount != g.pod.Spec.ServiceAccountName || len(chain[0].DNSNames) != 0:
			return fmt.Errorf("for another pod: %v %v", id, chain[0].DNSNames)
		case chain[0].VerifyHostname(netip.MustParseAddr("10.0.1.7").String()) != nil || chain[0].VerifyHostname("fd00::7") != nil:
			return errors.New("for other addresses")
		case leads(chain, roots) == nil:
			return errors.New("leads to no root")
		}
		g.chain, g.roots = chain, roots
		if g.state == api.Uncertified {
			g.state = api.Ready
		}
		return nil
	})
}

func (w *world) Trust(ctx context.Context, namespace, pod, _ string, bundle []byte) (*api.Status, error) {
	return w.ask(ctx, "trust", namespace, pod, func(g *fakeGateway) error {
		roots := certificates(bundle)
		if leads(g.chain, roots) == nil {
			return errors.New("the gateway's own certificate leads to none of the new roots")
		}
		g.roots = roots
		return nil
	})
}

// serving reports whether g takes part in the traffic.
func (g *fakeGateway) serving() bool { return g.state == api.Ready && !g.imposter }

// check is the promise: every gateway accepts the certificates of all others, and
// of what anybody enables now.
func (w *world) check(when string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, g := range w.gateways {
		for other, h := range w.gateways {
			if g.serving() && h.serving() && leads(g.chain, h.roots) == nil {
				w.t.Fatalf("%s: %s refuses %s", when, other, name)
			}
		}
	}
}

// checkNew is check for a gateway that is enabled now with what lies in dir.
func (w *world) checkNew(when, dir string, mayBeForeign bool) {
	w.t.Helper()
	a, err := authority.Load(w.t.Context(), authority.LoadOptions{Client: w.cluster, Dir: dir, Getenv: func(string) string { return "" }})
	if mayBeForeign && errors.Is(err, authority.ErrForeign) {
		return
	}
	if err != nil {
		w.t.Fatalf("%s: loading: %v", when, err)
	}
	leaf, err := a.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: a.TrustDomain(), Namespace: "x", ServiceAccount: "y"}})
	if err != nil {
		w.t.Fatal(err)
	}
	chain, roots := certificates(leaf.CertPEM), certificates(a.Bundle())
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, g := range w.gateways {
		if g.serving() && (leads(chain, g.roots) == nil || leads(g.chain, roots) == nil) {
			w.t.Fatalf("%s: one that is enabled from %s now and %s refuse each other", when, dir, name)
		}
	}
}

func (w *world) rotator() *AuthorityRotator {
	return &AuthorityRotator{Client: w.cluster, Gateways: w, Parallel: 2, Timeout: 10 * time.Second, Where: authority.RotationOptions{
		LoadOptions: authority.LoadOptions{Client: w.cluster, Dir: w.dir, Getenv: func(string) string { return "" }},
		Step:        func(name string) error { return w.step("file " + name) },
	}}
}

// did reports whether a gateway was asked for something.
func (w *world) did(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.asked, what)
}
