package watch

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

func TestSurveyFollowsTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := func(name, cidr string) *corev1.Node {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: []string{cidr, "fd00::/64"}}}
		}
		client := fake.NewClientset(node("one", "10.244.0.0/16"),
			&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
		p := &Plugin{Client: client}
		ranges := func(pod *corev1.Pod) int {
			t.Helper()
			cluster := must.Get(p.Cluster(t.Context(), pod))(t)
			return len(cluster.Found.Capture)
		}
		pod, far := fakecluster.NewPod("p"), fakecluster.NewPod("far")
		far.Status.PodIP, far.Status.PodIPs = "10.250.1.1", nil
		if n := ranges(pod); n != 2 {
			t.Fatalf("%d ranges", n)
		}
		add := func(n *corev1.Node) {
			must.Get(client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}))(t)
		}
		add(node("two", "10.250.0.0/16"))
		if n := ranges(pod); n != 2 {
			t.Errorf("%d ranges: surveyed again without a reason", n)
		}
		time.Sleep(surveyPause)
		if n := ranges(far); n != 3 {
			t.Errorf("%d ranges when a pod has an address outside of them", n)
		}
		add(node("three", "10.251.0.0/16"))
		p.ClusterChanged()
		if cluster, err := p.Cluster(t.Context(), pod); err != nil || !covers(cluster, "10.251.0.0/16") {
			t.Errorf("%v when the nodes changed, %v", cluster, err)
		}
		add(node("four", "10.9.0.0/16"))
		time.Sleep(surveyAge)
		if cluster, err := p.Cluster(t.Context(), pod); err != nil || !covers(cluster, "10.9.0.0/16") {
			t.Errorf("%v after a while, %v", cluster, err)
		}
	})
}

func covers(cluster *survey.Survey, text string) bool {
	for _, r := range cluster.Found.Capture {
		if r.Overlaps(netip.MustParsePrefix(text)) {
			return true
		}
	}
	return false
}

func TestPluginSaysWhatIsMissing(t *testing.T) {
	away := errors.New("no authority")
	p := &Plugin{Client: fake.NewClientset(), Authority: func(context.Context, func(string)) (ca.Issuer, error) { return nil, away }}
	if out := p.Enable(t.Context(), fakecluster.NewPod("p"), true, nil); !errors.Is(out.Err, away) || out.Refused {
		t.Errorf("%+v", out)
	}
	if out := p.Renew(t.Context(), fakecluster.NewPod("p"), "kube-gateway"); !errors.Is(out.Err, away) {
		t.Errorf("%+v", out)
	}
	authority := must.Get(ca.New(ca.Options{}))(t)
	p = &Plugin{Client: fake.NewClientset(), Authority: func(context.Context, func(string)) (ca.Issuer, error) { return authority, nil },
		Options: inject.Options{Named: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}}}
	pod := fakecluster.NewPod("p")
	pod.Spec.HostNetwork = true
	if out := p.Enable(t.Context(), pod, true, nil); !out.Refused || api.Hint(out.Err) == "" {
		t.Errorf("%+v", out)
	}
}

// TestPluginSaysWhatStrictModeMayCutOff: what may not be read is a warning in strict mode, once.
func TestPluginSaysWhatStrictModeMayCutOff(t *testing.T) {
	for mode, want := range map[api.Mode]int{api.Strict: 1, api.Permissive: 0} {
		client := fakecluster.New(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/16", "fd00:10:244:1::/64"}}},
			&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
		client.Forbid("list", "validatingwebhookconfigurations")
		var warned []string
		p := &Plugin{Client: client, Options: inject.Options{Mode: mode}, Warn: func(list []string) { warned = append(warned, list...) }}
		for range 2 {
			must.Get(p.Cluster(t.Context(), fakecluster.NewPod("p")))(t)
			p.ClusterChanged()
		}
		if len(warned) != want {
			t.Errorf("%s: warned of %q", mode, warned)
		}
	}
}

// TestCoveredByWhatIsKnown: a survey from before there were gateways brings none back to what was.
func TestCoveredByWhatIsKnown(t *testing.T) {
	client := fakecluster.New(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.0.0/16", "fd00:10:244:1::/64"}}},
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	p, pod := &Plugin{Client: client}, fakecluster.NewPod("p")
	other := &api.Status{Capture: api.Capture{Coverage: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, Fingerprint: "other"}}
	if !p.Covered(pod, other) || !p.Known(pod) {
		t.Error("judged without a survey")
	}
	must.Do(t, p.Survey(t.Context(), []corev1.Pod{*pod}))
	if p.Covered(pod, other) || !p.Covered(pod, &api.Status{}) || !p.Known(pod) {
		t.Error("not judged by the survey")
	}
	coverage := p.latest.Load().For(pod, api.Coverage{})
	if !p.Covered(pod, &api.Status{Capture: api.Capture{Coverage: coverage, Fingerprint: coverage.Fingerprint()}}) {
		t.Error("a gateway that has everything lacks something")
	}
	far := fakecluster.NewPod("far")
	far.Status.PodIP, far.Status.PodIPs = "10.250.1.1", nil
	if p.Known(far) {
		t.Error("an address that nobody announced is known")
	}
	must.Do(t, p.Survey(t.Context(), nil))
	if !p.Covered(pod, other) {
		t.Error("judged by a survey that is old")
	}
}

// TestPluginSaysWhatIsToBeKnownOfTheAuthority: each remark once, until there is another one.
func TestPluginSaysWhatIsToBeKnownOfTheAuthority(t *testing.T) {
	signer := must.Get(ca.New(ca.Options{}))(t)
	var now, warned []string
	p := &Plugin{Warn: func(list []string) { warned = append(warned, strings.Join(list, ", ")) },
		Authority: func(_ context.Context, remark func(string)) (ca.Issuer, error) {
			for _, text := range now {
				remark(text)
			}
			return signer, nil
		}}
	for _, now = range [][]string{nil, {"two roots"}, {"two roots"}, nil, {"two roots"}, {"two roots", "one is back"}} {
		p.authority.Outdate()
		must.Get(p.Issuer(t.Context()))(t)
	}
	expect.Equal(t, "warnings", []string{"two roots", "", "two roots", "two roots, one is back"}, warned)
}

// TestAskBringsWhatIsRevoked: whoever is asked, and lacks it, gets it; whoever has it, does not.
func TestAskBringsWhatIsRevoked(t *testing.T) {
	signer := must.Get(ca.New(ca.Options{}))(t)
	now := time.Now()
	revoked := must.Get(signer.Revoke(nil, []ca.Revocation{{Serial: "a1", At: now, Until: now.Add(time.Hour)}}, now))(t)
	var has map[string]int64
	var told []string
	gateways := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
		told = append(told, call.Op())
		if call.Op() == "trust" {
			var trust api.TrustBundle
			if err := call.Read(&trust); err != nil {
				return nil, err
			}
			got, err := ca.ParseRevocations(trust.Revoked, []*x509.Certificate{signer.Root()}, signer.TrustDomain())
			if err != nil {
				return nil, err
			}
			has = got.Numbers()
		}
		return &api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-p"}, Cert: api.Certificate{Revocations: has}}, nil
	}).Client(nil)
	p := &Plugin{Gateways: gateways, Authority: func(context.Context, func(string)) (ca.Issuer, error) { return signer.Revoking(revoked), nil }}
	for range 2 {
		status := must.Get(p.Ask(t.Context(), fakecluster.NewPod("p"), "kube-gateway"))(t)
		expect.Equal(t, "what the gateway has", revoked.Numbers(), status.Cert.Revocations)
	}
	expect.Equal(t, "what it was told", []string{"status", "trust", "status"}, told)
}
