package change

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
)

// podIn returns a pod at ip, with a gateway that runs if it is enabled.
func podIn(name, ip string, enabled bool) *corev1.Pod {
	pod := podWith(name, runs())
	if !enabled {
		pod.Spec.EphemeralContainers, pod.Status.EphemeralContainerStatuses = nil, nil
	}
	pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	return &pod
}

// TestRehearse: of what a gateway has seen, those connections are named that strict mode
// would have refused, and no others.
func TestRehearse(t *testing.T) {
	web, db, old, client := podIn("web", "10.0.0.1", true), podIn("db", "10.0.0.2", false), podIn("old", "10.0.0.3", true), podIn("client", "10.0.0.4", false)
	names, _, err := edges.ReadNames(t.Context(), fakecluster.New(t, []runtime.Object{web, db, old, client}...), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	outbound := func(to, verdict, reason string, n uint64) api.Edge {
		return api.Edge{Direction: api.Outbound, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort(to), Wire: api.WirePort,
			Verdict: verdict, Reason: reason, Peer: map[string]string{api.EdgeEncrypted: "spiffe://x"}[verdict], Connections: n, LastSeen: now}
	}
	inbound := func(from, verdict, reason string, n uint64) api.Edge {
		return api.Edge{Direction: api.Inbound, Source: netip.MustParseAddr(from), Destination: netip.MustParseAddrPort("10.0.0.1:8080"),
			Verdict: verdict, Reason: reason, Connections: n, LastSeen: now}
	}
	pod := func(name, ip string) *edges.Endpoint {
		return &edges.Endpoint{Kind: "pod", Namespace: "shop", Name: name, Address: netip.MustParseAddr(ip)}
	}
	source := must.Get(api.ParseSource("10.9.0.0/16:8080"))(t)
	for name, test := range map[string]struct {
		status   api.Status
		edges    api.Edges
		want     []Refused
		unlisted uint64
		failure  string
	}{
		"nothing": {
			edges: api.Edges{Edges: []api.Edge{outbound("10.0.0.2:80", api.EdgeEncrypted, "", 7), outbound("10.0.0.2:81", api.EdgeRefused, "x", 7)}},
		},
		"edges": {
			status: api.Status{Traffic: api.Traffic{Outbound: api.Direction{Plaintext: 12}, Inbound: api.Direction{Plaintext: 5}}},
			edges: api.Edges{Edges: []api.Edge{
				outbound("10.0.0.2:80", api.EdgePlaintext, "peer has no gateway", 3), outbound("10.0.0.3:80", api.EdgePlaintext, "no answer", 4),
				inbound("10.0.0.4", api.EdgePlaintext, "option", 1), inbound("10.9.1.1", api.EdgePlaintext, "option", 2)}},
			want: []Refused{
				{Direction: api.Inbound, Peer: pod("client", "10.0.0.4"), Port: 8080, Connections: 1, LastSeen: now, Reason: "option"},
				{Direction: api.Outbound, Peer: pod("old", "10.0.0.3"), Port: 80, PeerHasGateway: true, Connections: 4, LastSeen: now, Reason: "no answer"},
				{Direction: api.Outbound, Peer: pod("db", "10.0.0.2"), Port: 80, Connections: 3, LastSeen: now, Reason: "peer has no gateway"}},
			// 5 outbound ones and 2 inbound ones.
			unlisted: 7,
		},
		"existing connections": {
			edges: api.Edges{Edges: []api.Edge{}, Existing: &api.ExistingConnections{Outbound: 2, Inbound: 4, Connections: []api.ExistingConnection{
				{Direction: api.Outbound, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.2:80")},
				{Direction: api.Outbound, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.0.0.3:80")},
				{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("10.0.0.4:40000")},
				{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("10.9.1.1:40000")},
				{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.1:8081"), Remote: netip.MustParseAddrPort("10.9.1.1:40000")}}}},
			want: []Refused{
				{Direction: api.Inbound, Peer: pod("client", "10.0.0.4"), Port: 8080, Connections: 1, LastSeen: now, Reason: "client has no gateway", Existing: true},
				{Direction: api.Inbound, Peer: &edges.Endpoint{Address: netip.MustParseAddr("10.9.1.1")}, Port: 8081, Connections: 1, LastSeen: now, Reason: "client has no gateway", Existing: true},
				{Direction: api.Outbound, Peer: pod("db", "10.0.0.2"), Port: 80, Connections: 1, LastSeen: now, Reason: "open before the gateway", Existing: true}},
			unlisted: 1,
		},
		"clients that did not show a gateway": {
			edges: api.Edges{Edges: []api.Edge{inbound("10.0.0.4", api.EdgePlaintext, "client did not show a gateway", 3),
				{Direction: api.Outbound, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("172.16.1.0:0"), Network: netip.MustParsePrefix("172.16.1.0/24"), Verdict: api.EdgePlaintext, Connections: 9}},
				Existing: &api.ExistingConnections{Inbound: 1, Connections: []api.ExistingConnection{
					{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.1:8080"), Remote: netip.MustParseAddrPort("10.0.0.4:40000")}}}},
			want: []Refused{{Direction: api.Inbound, Peer: pod("client", "10.0.0.4"), Port: 8080, Connections: 3, LastSeen: now, Reason: "client did not show a gateway"}},
		},
		"counters": {
			status: api.Status{Capture: api.Capture{BlockUDP: true, Coverage: api.Coverage{Outside: api.OutsideRefuse},
				OutsideNetworks: []api.OutsideNetwork{{Network: netip.MustParsePrefix("172.16.1.0/24"), Connections: 5}},
				CaptureCounts:   api.CaptureCounts{ServicePassed: 2, Uncapturable: 1, OutsideConnections: 6, UDP: 9, UDPRefused: 6}}},
			edges: api.Edges{Edges: []api.Edge{}},
			want: []Refused{
				{Direction: api.Outbound, Network: netip.MustParsePrefix("172.16.1.0/24"), Connections: 5, Reason: reasonOutside},
				{Direction: api.Outbound, Connections: 3, Reason: reasonUDP},
				{Direction: api.Outbound, Connections: 2, Reason: reasonService},
				{Direction: api.Outbound, Connections: 1, Reason: reasonUncapturable},
				{Direction: api.Outbound, Connections: 1, Reason: reasonOutside}},
		},
		"counters of what strict mode lets pass": {
			status: api.Status{Mode: api.Strict, Capture: api.Capture{CaptureCounts: api.CaptureCounts{Uncapturable: 1, OutsideConnections: 6, UDP: 9, Excluded: 4}}},
			edges:  api.Edges{Edges: []api.Edge{}},
		},
		"no edges": {failure: "no room"},
	} {
		t.Run(name, func(t *testing.T) {
			test.status.State, test.status.Pod = api.Ready, api.PodRef{UID: "uid-web"}
			test.status.Capture.PlaintextFrom = []api.Source{source}
			test.edges.Pod, test.edges.Time = test.status.Pod, now
			gateways := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
				switch {
				case call.Op() == "status":
					return test.status, nil
				case call.Op() != "edges":
					t.Errorf("a rehearsal told the gateway %q", call.Words)
				case test.failure != "":
					return nil, errors.New(test.failure)
				}
				return test.edges, nil
			})
			c := Changer{Gateways: gateways.Client(nil), Timeout: expect.Patience, Survey: &survey.Survey{}}
			result := c.Rehearse(t.Context(), web, names)
			if failed := result.Err != nil; failed != (test.failure != "") || failed && !strings.Contains(result.Err.Error(), test.failure) {
				t.Error(result.Err)
			}
			near := cmpopts.EquateApproxTime(expect.Patience)
			expect.Equal(t, "refused", test.want, result.Refused, cmpopts.EquateEmpty(), near)
			expect.Equal(t, "unlisted", test.unlisted, result.Unlisted)
		})
	}
}

// TestRehearseWithTheCoverageToCome: strict mode brings a coverage along, and whom that lets
// in is not refused.
func TestRehearseWithTheCoverageToCome(t *testing.T) {
	dns := podIn("dns", "10.0.0.1", true)
	dns.Namespace, dns.Labels, dns.Spec.NodeName = "kube-system", map[string]string{"k8s-app": "kube-dns"}, "node-1"
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-dns", Labels: dns.Labels},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.10"}, Selector: dns.Labels, Ports: []corev1.ServicePort{{Port: 53}}}}
	c := fakecluster.New(t, dns, service,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24"}},
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16"}}})
	names, _, err := edges.ReadNames(t.Context(), c, nil)
	must.Do(t, err)
	gateways := fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
		status := api.Status{State: api.Ready, Pod: api.PodRef{UID: "uid-dns"}, Capture: api.Capture{Fingerprint: "old"}}
		if call.Op() == "status" {
			return status, nil
		}
		var seen []api.Edge
		for _, to := range []string{"10.0.0.1:53", "10.0.0.1:9153"} {
			seen = append(seen, api.Edge{Direction: api.Inbound, Source: netip.MustParseAddr("10.0.0.9"), Destination: netip.MustParseAddrPort(to),
				Verdict: api.EdgePlaintext, Reason: "client did not show a gateway", Connections: 1})
		}
		return api.Edges{Pod: status.Pod, Edges: seen}, nil
	}).Client(nil)
	surveyed := must.Get(survey.Run(t.Context(), c, nil, api.Coverage{}))(t)
	for want, carry := range map[int]*Cover{1: {Survey: surveyed}, 2: nil} {
		changer := Changer{Gateways: gateways, Timeout: expect.Patience, Carry: carry}
		result := changer.Rehearse(t.Context(), dns, names)
		if result.Err != nil || len(result.Refused) != want || result.Refused[want-1].Port != 9153 && result.Refused[0].Port != 9153 {
			t.Errorf("with %v: %v, %+v", carry, result.Err, result.Refused)
		}
	}
}
