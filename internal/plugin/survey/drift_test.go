package survey

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
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
	sources := func(list ...string) (out []api.Source) {
		for _, text := range list {
			out = append(out, must.Get(api.ParseSource(text))(t))
		}
		return out
	}
	lacksSource := func(source string) Drift { return Drift{Lacks: []Part{{PartPlaintext, source, ""}}} }
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
		"a narrower Service range by hand": {have: with(func(c *api.Coverage) { c.Services = prefixes("10.96.0.0/17") }), named: api.Coverage{Services: prefixes("10.96.0.0/17")},
			want: Drift{Lacks: []Part{{PartServices, "10.96.128.0/17", ""}}, Flags: []string{"--service-cidr=auto"}}},
		"a node excluded by hand": {have: with(func(c *api.Coverage) {
			c.Nodes, c.NodePorts, c.Exclude = nodes[:1], ports, prefixes("192.168.1.2/32")
		}), named: api.Coverage{NodePorts: ports, Exclude: prefixes("192.168.1.2/32")}},
		"a node that left": {have: with(func(c *api.Coverage) { c.Nodes, c.NodePorts = append(nodes, netip.MustParseAddr("192.168.1.9")), ports }),
			named: api.Coverage{NodePorts: ports}, want: Drift{Extra: []Part{{PartNode, "192.168.1.9", ""}}}},
		"an external address excluded by hand": {have: with(func(c *api.Coverage) { c.Endpoints, c.Exclude = nil, prefixes("192.0.2.0/24") }),
			named: api.Coverage{Exclude: prefixes("192.0.2.0/24")}},
		"an external address whose port is excluded by hand": {have: with(func(c *api.Coverage) { c.Endpoints, c.ExcludePorts = nil, []uint16{80} }),
			named: api.Coverage{ExcludePorts: []uint16{80}}},
		"an external address within a range by hand": {have: with(func(c *api.Coverage) {
			c.Endpoints, c.Capture = nil, append(c.Capture, netip.MustParsePrefix("192.0.2.0/24"))
		}),
			named: api.Coverage{Capture: append(slices.Clone(all.Capture), netip.MustParsePrefix("192.0.2.0/24"))}},
		"the API server is not captured": {have: with(func(c *api.Coverage) { c.Pass, c.Services = nil, nil }),
			want: Drift{Lacks: []Part{{PartServices, "10.96.0.0/16", ""}}}},
		"the API server is an endpoint and does not pass": {have: with(func(c *api.Coverage) {
			c.Pass, c.Services, c.Endpoints = nil, nil, endpointsOf("10.96.0.1:443", "192.0.2.7:80")
		}), want: Drift{Lacks: []Part{{PartServices, "10.96.0.0/16", ""}, {PartPass, "10.96.0.1:443", ""}}, Extra: []Part{{PartEndpoint, "10.96.0.1:443", ""}}}},
		"a plaintext source":               {have: all, named: api.Coverage{PlaintextFrom: sources("192.0.2.0/24:80")}, want: lacksSource("192.0.2.0/24:80")},
		"a plaintext source, to all ports": {have: with(func(c *api.Coverage) { c.PlaintextFrom = sources("192.0.2.0/24:80") }), named: api.Coverage{PlaintextFrom: sources("192.0.2.0/24")}, want: lacksSource("192.0.2.0/24")},
		"a plaintext source, other ports":  {have: with(func(c *api.Coverage) { c.PlaintextFrom = sources("192.0.2.0/24:81-90") }), named: api.Coverage{PlaintextFrom: sources("192.0.2.0/24:80")}, want: lacksSource("192.0.2.0/24:80")},
		"a plaintext source, in part":      {have: with(func(c *api.Coverage) { c.PlaintextFrom = sources("192.0.2.0/25:80") }), named: api.Coverage{PlaintextFrom: sources("192.0.2.0/24:80")}, want: lacksSource("192.0.2.0/24:80")},
		"a plaintext source within others": {have: with(func(c *api.Coverage) { c.PlaintextFrom = sources("192.0.0.0/16:1-100", "198.51.100.7/32") }), named: api.Coverage{PlaintextFrom: sources("192.0.2.0/24:80", "198.51.100.7/32:80")}},
		"captured in part within what is excluded": {have: with(func(c *api.Coverage) { c.Capture, c.Exclude = prefixes("10.244.1.0/24"), prefixes("10.0.0.0/8") }), named: api.Coverage{Exclude: prefixes("10.0.0.0/8")},
			want: Drift{Lacks: []Part{{PartPods, "10.244.2.0/24", "node-2"}}}},
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
			expect.Equal(t, "drift", test.want, got)
		})
	}
	if got := found.Drift(pod, &api.Capture{}); len(got.Lacks) > 0 {
		t.Errorf("a gateway that does not tell lacks %v", got.Lacks)
	}
}

// TestDriftOfNodePorts: an external address that is a node's is captured if its port is a node port.
func TestDriftOfNodePorts(t *testing.T) {
	external := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.3.3"}, ExternalIPs: []string{"192.168.1.1"}, Ports: []corev1.ServicePort{{Port: 30080}}}}
	cluster := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), serviceCIDR("10.96.0.0/16"), external)
	found := must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	for ports, want := range map[[2]uint16][]Part{
		{30000, 32767}: nil,
		{30000, 30080}: nil,
		{30081, 32767}: {{PartEndpoint, "192.168.1.1:30080", "node-1"}},
		{30000, 30079}: {{PartEndpoint, "192.168.1.1:30080", "node-1"}},
	} {
		have := api.Coverage{Capture: prefixes("10.244.1.0/24"), Services: prefixes("10.96.0.0/16"), Nodes: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, NodePorts: ports}
		got := found.Drift(podAt("p", "10.244.1.7"), &api.Capture{Coverage: have, Named: api.Coverage{NodePorts: ports}, Fingerprint: have.Fingerprint()})
		expect.Equal(t, fmt.Sprintf("node ports %v", ports), Drift{Lacks: want}, got)
	}
}

// TestDifference: every part of a coverage has its words, and a line names the first of them.
func TestDifference(t *testing.T) {
	cluster := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), serviceCIDR("10.96.0.0/16"))
	found := must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	from := api.Coverage{Capture: prefixes("10.244.1.0/24"), Outside: api.OutsideCount, Probes: api.NewPorts(api.PortRange{First: 80, Last: 80}),
		PlaintextFrom: []api.Source{must.Get(api.ParseSource("198.51.100.0/24"))(t)}}
	to := api.Coverage{
		Capture: prefixes("10.244.0.0/23"), Services: prefixes("10.96.0.0/16"), Exclude: prefixes("10.9.0.0/16"), ExcludePorts: []uint16{22},
		Nodes: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, NodePorts: [2]uint16{1, 2}, Endpoints: endpointsOf("192.0.2.7:80"), Pass: endpointsOf("10.96.0.1:443"),
		PlaintextFrom: []api.Source{must.Get(api.ParseSource("192.0.2.0/24:80"))(t)}, Probes: api.NewPorts(api.PortRange{First: 8080, Last: 8081}), Outside: api.OutsideRefuse,
	}
	added, removed := found.Difference(from, to)
	want := []Part{{PartPods, "10.244.0.0/24", ""}, {PartServices, "10.96.0.0/16", ""}, {PartExclusion, "10.9.0.0/16", ""}, {PartNode, "192.168.1.1", "node-1"},
		{PartPort, "22", ""}, {PartEndpoint, "192.0.2.7:80", ""}, {PartPass, "10.96.0.1:443", ""}, {PartPlaintext, "192.0.2.0/24:80", ""},
		{PartNodePorts, "1-2", ""}, {PartProbes, "8080-8081", ""}, {PartOutside, string(api.OutsideRefuse), ""}}
	expect.Equal(t, "added", want, added)
	expect.Equal(t, "removed", []Part{{PartPlaintext, "198.51.100.0/24", ""}, {PartProbes, "80", ""}, {PartOutside, string(api.OutsideCount), ""}}, removed)
	expect.Equal(t, "a line", "10.244.0.0/24 (pods), 10.96.0.0/16 (Services), 10.9.0.0/16 (exclusion), 192.168.1.1 (node node-1), and 7 more", List(added))
	if added, removed := found.Difference(to, to); len(added)+len(removed) > 0 {
		t.Errorf("the same differs: %v, %v", added, removed)
	}
}

// TestAgain: what cannot be read is not taken away.
func TestAgain(t *testing.T) {
	cluster := fakecluster.New(t, node("node-1", "192.168.1.1", "10.244.1.0/24"), serviceCIDR("10.96.0.0/16"))
	have := api.Coverage{Capture: prefixes("10.9.0.0/16"), Endpoints: endpointsOf("192.0.2.7:80"), Pass: endpointsOf("10.96.0.1:443"),
		PlaintextFrom: []api.Source{{From: netip.MustParsePrefix("192.168.1.1/32")}}, Probes: api.NewPorts(api.PortRange{First: 8080, Last: 8080}),
		Exclude: prefixes("10.9.9.0/24"), Nodes: []netip.Addr{netip.MustParseAddr("192.168.1.9")}, NodePorts: api.DefaultNodePorts()}
	pod := podAt("p", "10.244.1.7")
	found := must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	if got := found.Again(pod, api.Coverage{}, have); len(got.Endpoints)+len(got.Pass)+len(got.PlaintextFrom)+len(got.Probes)+len(got.Exclude)+len(got.Nodes) > 0 {
		t.Errorf("what is gone stays: %+v", got)
	}
	cluster.Forbid("list", "services")
	found = must.Get(Run(t.Context(), cluster, nil, api.Coverage{}))(t)
	want := have
	want.Capture, want.Services = prefixes("10.244.1.0/24"), prefixes("10.96.0.0/16")
	want.Exclude, want.Nodes, want.NodePorts = nil, nil, [2]uint16{}
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

	cluster.Forbid("list", "nodes")
	named := api.Coverage{Capture: prefixes("10.244.0.0/16")}
	found = must.Get(Run(t.Context(), cluster, nil, named))(t)
	want = have
	want.Capture, want.Services = named.Capture, prefixes("10.96.0.0/16")
	expect.Equal(t, "without nodes", want, found.Again(pod, named, have), cmpopts.EquateEmpty())
}
