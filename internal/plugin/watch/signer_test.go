package watch

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// signerOf returns a signer that is trusted by the root of a.
func signerOf(t *testing.T, a *ca.Authority) *signer.Signer {
	t.Helper()
	choice := signer.Choice{Name: "example.com/mesh", TrustDomain: "cluster.local", Request: signer.RequestPod, TrustBundle: string(a.Bundle())}
	return must.Get(signer.New(t.Context(), fake.NewClientset(), choice, nil))(t)
}

// TestPluginFollowsASigner when its roots have changed, and overlooks who cannot be reached after some minutes.
func TestPluginFollowsASigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := must.Get(ca.New(ca.Options{}))(t)
		issuer := ca.Issuer(own)
		var calls []bool
		var fails error
		p := &Plugin{Authority: func(context.Context, func(string)) (ca.Issuer, error) { return issuer, nil }}
		if changed, words, err := p.FollowSigner(t.Context()); changed || words != nil || err != nil {
			t.Errorf("without a signer: %v, %q, %v", changed, words, err)
		}
		s := signerOf(t, own)
		p.FollowRoots = func(_ context.Context, overlook bool) (*rotate.SignerResult, error) {
			calls = append(calls, overlook)
			return &rotate.SignerResult{Signer: s, Blocked: []rotate.Blocked{{Pod: fakecluster.NewPod("far"), Container: "kube-gateway", Err: errors.New("no answer in time")}}}, fails
		}
		ask := func(after time.Duration, want bool) []string {
			t.Helper()
			time.Sleep(after)
			changed, words, err := p.FollowSigner(t.Context())
			if changed != want || !errors.Is(err, fails) {
				t.Errorf("changed: %v, %v", changed, err)
			}
			return words
		}
		issuer = s.Knowing(s.Trust())
		ask(time.Minute, false)
		if len(calls) != 0 {
			t.Errorf("%d calls with nothing to do", len(calls))
		}
		issuer, fails = s, errors.New("in the way")
		p.authority.Outdate()
		if words := ask(0, false); len(words) != 1 || !strings.Contains(words[0], "pod/far -n shop (kube-gateway) was not brought the roots of signer example.com/mesh: no answer") {
			t.Errorf("%q", words)
		}
		ask(time.Minute, false)
		ask(overlookAfter-time.Minute, false)
		fails = nil
		ask(time.Minute, true)
		expect.Equal(t, "overlooks", []bool{false, false, true, true}, calls)
		// It begins anew with the next change.
		ask(time.Minute, true)
		expect.Equal(t, "overlooks", []bool{false, false, true, true, false}, calls)
	})
}

// TestAskBringsRootsOfASigner to a gateway that was enabled while they changed, and a certificate to one whose own
// leads to none of them.
func TestAskBringsRootsOfASigner(t *testing.T) {
	own, other := must.Get(ca.New(ca.Options{}))(t), must.Get(ca.New(ca.Options{}))(t)
	s := signerOf(t, own.Trusting(other.Root()))
	s = s.Knowing(s.Trust())
	cert := api.Certificate{Authorities: other.Roots(), Issuer: other.Roots()[0]}
	var told []string
	gateways := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
		told = append(told, call.Op())
		if call.Op() == "trust" {
			var trust api.TrustBundle
			if err := call.Read(&trust); err != nil {
				return nil, err
			}
			cert.Authorities = ca.Fingerprints(fakegateway.Certificates([]byte(trust.Bundle)))
		}
		if call.Op() == "renew" {
			return nil, fakegateway.Refuse("no")
		}
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-p"}, Cert: cert}, nil
	}).Client(nil)
	p := &Plugin{Gateways: gateways, Authority: func(context.Context, func(string)) (ca.Issuer, error) { return s, nil }}
	for range 2 {
		must.Get(p.Ask(t.Context(), fakecluster.NewPod("p"), "kube-gateway"))(t)
	}
	expect.Equal(t, "what it was told", []string{"status", "trust", "status"}, told)
	expect.Equal(t, "what it trusts", slices.Sorted(slices.Values(ca.Fingerprints([]*x509.Certificate{own.Root(), other.Root()}))), slices.Sorted(slices.Values(cert.Authorities)))
	told, cert = nil, api.Certificate{Authorities: []string{"gone"}, Issuer: "gone"}
	if _, err := p.Ask(t.Context(), fakecluster.NewPod("p"), "kube-gateway"); err == nil {
		t.Error("no error of the renewal")
	}
	expect.Equal(t, "what it was told", []string{"status", "renew"}, told)
}

// TestWatcherTellsOfASigner: the same words once, and what had failed is tried again when the roots are there.
func TestWatcherTellsOfASigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []Event
		w := &Watcher{Report: func(e Event) { events = append(events, e) }}
		var results []error
		ctx, cancel := context.WithCancel(t.Context())
		away := errors.New("one is away")
		world := &world{followSigner: func(context.Context) (bool, []string, error) {
			switch len(results) {
			case 0, 1:
				results = append(results, away)
				return false, []string{"pod/far"}, away
			case 2:
				results = append(results, nil)
				return false, nil, nil
			}
			cancel()
			return false, nil, nil
		}}
		w.Actions = world
		start := time.Now()
		w.followSigner(ctx)
		if took := time.Since(start); took != 2*signerRetry+signerInterval {
			t.Errorf("it took %v", took)
		}
		if len(events) != 1 || events[0].Action != Noticed || !slices.Equal(events[0].Warnings, []string{"pod/far", "the roots of the signer were not brought to all gateways: one is away"}) {
			t.Errorf("%+v", events)
		}
	})
}
