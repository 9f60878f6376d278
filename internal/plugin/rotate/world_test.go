package rotate

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
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
	cluster *fakecluster.Cluster
	dir     string
	first   *ca.Authority

	mu       sync.Mutex
	gateways map[string]*fakeGateway // by namespace/pod
	asked    []string                // what gateways were asked for, "renew shop/web"
	// honest has gateways ask for the names that they are to have.
	honest bool
	// step is called around everything that is done; an error ends that.
	step func(what string) error
}

type fakeGateway struct {
	fakegateway.Material
	pod      *corev1.Pod
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
	w.cluster = fakecluster.New(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: authority.Namespace, UID: "uid-1"}})
	w.step = func(string) error { return nil }
	store := authority.StoreLocal
	if keep == "both" {
		store = authority.StoreCluster
	}
	result := must.Get(authority.Init(t.Context(), authority.InitOptions{Location: authority.Location{Client: w.cluster, Dir: w.dir}, Store: store}))(t)
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
	pod := fakecluster.NewPod(name)
	pod.Namespace, pod.Spec.ServiceAccountName, pod.Status.PodIP = namespace, "sa-"+name, ""
	fakecluster.AddGateway(pod, "{}", fakecluster.Running(nil, nil))
	return pod
}

func setState(pod *corev1.Pod, state corev1.ContainerState) {
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: installed.ContainerName, State: state}}
}

// enable adds a pod with a gateway that has its certificate and roots from a.
func (w *world) enable(name string, a *ca.Authority) *fakeGateway {
	w.t.Helper()
	g := &fakeGateway{pod: newPod(name), state: api.Ready}
	leaf := must.Get(a.Issue(ca.LeafRequest{Identity: installed.Identity(g.pod, a.TrustDomain()), IPs: installed.PodIPs(g.pod)}))(w.t)
	g.Chain, g.Roots = fakegateway.Certificates(leaf.CertPEM), fakegateway.Certificates(a.Bundle())
	must.Do(w.t, w.cluster.Tracker().Add(g.pod.DeepCopy()))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gateways[name] = g
	return g
}

// change stores g's pod after edit.
func (w *world) change(g *fakeGateway, edit func(*corev1.Pod)) {
	w.t.Helper()
	edit(g.pod)
	must.Do(w.t, w.cluster.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), g.pod.DeepCopy(), g.pod.Namespace))
}

// leads reports whether a chain leads to one of roots now.
func leads(chain, roots []*x509.Certificate) bool {
	return fakegateway.Root(chain, roots, time.Now()) != nil
}

func (g *fakeGateway) status() *api.Status {
	s := &api.Status{State: g.state, Pod: api.PodRef{UID: string(g.pod.UID)}, Time: time.Now()}
	if g.imposter {
		s.Pod.UID = "uid-other"
	}
	if g.Chain == nil {
		return s
	}
	s.Cert = g.Certificate()
	return s
}

// answer is what the gateways of the world do.
func (w *world) answer(ctx context.Context, call *fakegateway.Call) (any, error) {
	name := call.Namespace + "/" + call.Pod
	if err := w.step(call.Op() + " " + name); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	w.mu.Lock()
	w.asked = append(w.asked, call.Op()+" "+name)
	g := w.gateways[name]
	var err error
	switch {
	case g == nil:
		err = fmt.Errorf("%w: %s", remote.ErrPodGone, name)
	case len(g.failures) > 0:
		err = g.failures[0]
		g.failures = g.failures[1:]
	}
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	// The plugin reads the pod before it signs: that must not wait for w.mu.
	material := g.Material
	switch call.Op() {
	case "renew":
		if w.honest {
			material, err = call.RenewFor(installed.Identity(g.pod, ca.DefaultTrustDomain), installed.PodIPs(g.pod))
		} else {
			material, err = call.Renew()
		}
		if err == nil {
			err = g.accept(call.Namespace, material.Chain[0])
		}
	case "trust":
		var trust api.TrustBundle
		if err = call.Read(&trust); err == nil {
			if material.Roots = fakegateway.Certificates([]byte(trust.Bundle)); !leads(g.Chain, material.Roots) {
				err = fakegateway.Refuse("the gateway's own certificate leads to none of the new roots")
			}
		}
	}
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	if !g.stubborn {
		g.Material = material
		if call.Op() == "renew" && g.state == api.Uncertified {
			g.state = api.Ready
		}
	}
	status := g.status()
	w.mu.Unlock()
	if call.Op() != "status" {
		if err := w.step(call.Op() + " " + name + " done"); err != nil {
			return nil, err
		}
	}
	return status, nil
}

// accept checks that a certificate is for g's pod.
func (g *fakeGateway) accept(namespace string, leaf *x509.Certificate) error {
	id, err := identity.FromCertificate(leaf)
	switch {
	case err != nil:
		return err
	case id.Namespace != namespace || id.ServiceAccount != g.pod.Spec.ServiceAccountName:
		return fmt.Errorf("for another pod: %v", id)
	}
	for _, ip := range g.pod.Status.PodIPs {
		if err := leaf.VerifyHostname(ip.IP); err != nil {
			return fmt.Errorf("for other addresses: %w", err)
		}
	}
	return nil
}

// client reaches the gateways of the world, and is as persistent as the real one.
func (w *world) client() *remote.Client {
	return &remote.Client{Kube: w.cluster, Runner: fakegateway.Gateways(w.answer), Backoff: wait.Backoff{Steps: 3, Duration: time.Millisecond}}
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
			if g.serving() && h.serving() && !leads(g.Chain, h.Roots) {
				w.t.Fatalf("%s: %s refuses %s", when, other, name)
			}
		}
	}
}

// checkNew is check for a gateway that is enabled now with what lies in dir.
func (w *world) checkNew(when, dir string, mayBeForeign bool) {
	w.t.Helper()
	a, err := authority.Load(w.t.Context(), authority.Location{Client: w.cluster, Dir: dir})
	if mayBeForeign && errors.Is(err, authority.ErrForeign) {
		return
	}
	if err != nil {
		w.t.Fatalf("%s: loading: %v", when, err)
	}
	leaf := must.Get(a.Issue(ca.LeafRequest{Identity: identity.ID{TrustDomain: a.TrustDomain(), Namespace: "x", ServiceAccount: "y"}}))(w.t)
	chain, roots := fakegateway.Certificates(leaf.CertPEM), fakegateway.Certificates(a.Bundle())
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, g := range w.gateways {
		if g.serving() && (!leads(chain, g.Roots) || !leads(g.Chain, roots)) {
			w.t.Fatalf("%s: one that is enabled from %s now and %s refuse each other", when, dir, name)
		}
	}
}

func (w *world) rotator() *AuthorityRotator {
	return &AuthorityRotator{Gateways: w.client(), Parallel: 2, Timeout: 10 * time.Second,
		Location: authority.Location{Client: w.cluster, Dir: w.dir, Step: func(name string) error { return w.step("file " + name) }}}
}

// did reports whether a gateway was asked for something.
func (w *world) did(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.asked, what)
}
