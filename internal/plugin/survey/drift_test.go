package survey

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestDrift(t *testing.T) {
	apiServer := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1"}, Ports: []corev1.ServicePort{{Port: 443}}}}
	external := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.3.3"}, ExternalIPs: []string{"192.0.2.7"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	cluster := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), node("node-2", "192.168.1.2", "10.244.2.0/24"),
		serviceCIDR("10.96.0.0/16"), apiServer, external)
	found := must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	pod := podAt("p", "10.244.1.7")
	ports := api.DefaultNodePorts()
	passes, endpoints := endpointsOf("10.96.0.1:443"), endpointsOf("192.0.2.7:80")
	nodes := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("192.168.1.2")}
	all := api.Coverage{Capture: prefixes("10.244.1.0/24", "10.244.2.0/24"), Services: prefixes("10.96.0.0/16"), Pass: passes, Endpoints: endpoints}
	with := func(change func(*api.Coverage)) api.Coverage {
		c := all
		change(&c)
		return c
	}
	for name, test := range map[string]struct {
		have, named api.Coverage
		want        Drift
	}{
		"what it should have": {have: found.For(pod, api.Coverage{NodePorts: ports}), named: api.Coverage{NodePorts: ports}},
		"the same in parts":   {have: with(func(c *api.Coverage) { c.Capture = prefixes("10.244.1.0/24", "10.244.2.0/25", "10.244.2.128/25") })},
		"a node joined": {have: with(func(c *api.Coverage) { c.Capture, c.Nodes, c.NodePorts = prefixes("10.244.1.0/24"), nodes[:1], ports }), named: api.Coverage{NodePorts: ports},
			want: Drift{Lacks: []Part{{PartPods, "10.244.2.0/24", "node-2"}, {PartNode, "192.168.1.2", "node-2"}}}},
		"a Service range was added": {have: with(func(c *api.Coverage) { c.Services = prefixes("10.96.0.0/17") }),
			want: Drift{Lacks: []Part{{PartServices, "10.96.128.0/17", ""}}}},
		"an external address was added": {have: with(func(c *api.Coverage) { c.Endpoints = nil }),
			want: Drift{Lacks: []Part{{PartEndpoint, "192.0.2.7:80", ""}}}},
		"the API server does not pass": {have: with(func(c *api.Coverage) { c.Pass = nil }),
			want: Drift{Lacks: []Part{{PartPass, "10.96.0.1:443", ""}}}},
		"wider by hand": {have: with(func(c *api.Coverage) { c.Capture, c.Exclude = prefixes("10.0.0.0/8"), nil }), named: api.Coverage{Capture: prefixes("10.0.0.0/8")}},
		"wider by hand, over a node": {have: with(func(c *api.Coverage) {
			c.Capture, c.Exclude = prefixes("10.0.0.0/8", "192.168.0.0/16"), prefixes("192.168.1.1/32")
		}),
			named: api.Coverage{Capture: prefixes("10.0.0.0/8", "192.168.0.0/16")},
			want:  Drift{Lacks: []Part{{PartExclusion, "192.168.1.2/32", "node-2"}}}},
		"narrower by hand": {have: with(func(c *api.Coverage) { c.Capture = prefixes("10.244.1.0/24") }), named: api.Coverage{Capture: prefixes("10.244.1.0/24")},
			want: Drift{Lacks: []Part{{PartPods, "10.244.2.0/24", "node-2"}}, Flags: []string{"--capture-cidr=auto"}}},
		"excluded by hand":                 {have: with(func(c *api.Coverage) { c.Exclude = prefixes("10.244.2.0/25") }), named: api.Coverage{Exclude: prefixes("10.244.2.0/25")}},
		"captured within what is excluded": {have: with(func(c *api.Coverage) { c.Exclude = prefixes("10.0.0.0/8") }), named: api.Coverage{Exclude: prefixes("10.0.0.0/8")}},
		"an exclusion that is stale": {have: with(func(c *api.Coverage) { c.Exclude = prefixes("10.244.2.9/32") }),
			want: Drift{Lacks: []Part{{PartPods, "10.244.2.9/32", "node-2"}}}},
		"more than the cluster has": {have: with(func(c *api.Coverage) {
			c.Capture = prefixes("10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24")
			c.Endpoints, c.Pass = endpointsOf("192.0.2.7:80", "192.0.2.8:80"), endpointsOf("10.96.0.1:443", "10.96.0.10:53")
		}),
			want: Drift{Extra: []Part{{PartPods, "10.244.3.0/24", ""}, {PartEndpoint, "192.0.2.8:80", ""}, {PartPass, "10.96.0.10:53", ""}}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := found.Drift(pod, &api.Capture{Coverage: test.have, Named: test.named, Fingerprint: test.have.Fingerprint()})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
		})
	}
	if got := found.Drift(pod, &api.Capture{}); len(got.Lacks) > 0 {
		t.Errorf("a gateway that does not tell lacks %v", got.Lacks)
	}
}

// TestAgain: what cannot be read is not taken away.
func TestAgain(t *testing.T) {
	cluster := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), serviceCIDR("10.96.0.0/16"))
	have := api.Coverage{Capture: prefixes("10.9.0.0/16"), Endpoints: endpointsOf("192.0.2.7:80"), Pass: endpointsOf("10.96.0.1:443"),
		PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("192.168.1.1/32")}}}
	pod := podAt("p", "10.244.1.7")
	found := must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	if got := found.Again(pod, api.Coverage{}, have); len(got.Endpoints)+len(got.Pass)+len(got.PlaintextFrom) > 0 {
		t.Errorf("what is gone stays: %+v", got)
	}
	cluster.Forbid("list", "services")
	found = must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	want := have
	want.Capture, want.Services = prefixes("10.244.1.0/24"), prefixes("10.96.0.0/16")
	got := found.Again(pod, api.Coverage{}, have)
	if got.Fingerprint() != want.Fingerprint() {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if again := found.Again(pod, api.Coverage{}, got); again.Fingerprint() != got.Fingerprint() {
		t.Errorf("the next one differs: %+v", again)
	}
	if d := found.Drift(pod, &api.Capture{Coverage: have, Fingerprint: "x"}); len(d.Extra) > 0 {
		t.Errorf("extra, of what is not known: %v", d.Extra)
	}
}
