package edges

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/muesli/termenv"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

var testTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// testPod returns a pod of a Deployment "NAME" with the address, and a gateway that
// runs if enabled.
func testPod(namespace, name, ip string, enabled bool) corev1.Pod {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name),
			Labels: map[string]string{"pod-template-hash": "5d4f"}},
		Spec: corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}, {IP: "fd00::" + ip[strings.LastIndex(ip, ".")+1:]}},
			HostIPs: []corev1.HostIP{{IP: "192.168.0.1"}}, Phase: corev1.PodRunning},
	}
	if base, _, ok := strings.Cut(name, "-"); ok {
		pod.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: base + "-5d4f", Controller: new(true)}}
	}
	if enabled {
		fakecluster.AddGateway(&pod, "{}", fakecluster.Running(nil, nil))
	}
	return pod
}

func testService(namespace, name, ip string, nodePort int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Port: 80, NodePort: nodePort}}}}
}

// edgeOf returns an edge of c connections of 10 and 100 bytes each.
func edgeOf(direction, source, destination string, c uint64, change func(*api.Edge)) api.Edge {
	e := api.Edge{
		Direction: direction, Source: netip.MustParseAddr(source), Destination: netip.MustParseAddrPort(destination),
		Peer: "spiffe://td/ns/x/sa/y", Wire: api.WirePort, Verdict: api.EdgeEncrypted,
		Connections: c, Sent: 10 * c, Received: 100 * c, LastSeen: testTime.Add(-time.Minute),
	}
	if direction == api.Inbound {
		e.Sent, e.Received = e.Received, e.Sent
	}
	if change != nil {
		change(&e)
	}
	return e
}

func plaintext(reason string) func(*api.Edge) {
	return func(e *api.Edge) {
		e.Verdict, e.Wire, e.Peer, e.Reason = api.EdgePlaintext, api.WireNone, "", reason
	}
}

// cluster is two namespaces with pods of every kind.
func cluster() ([]corev1.Pod, *Names) {
	pods := []corev1.Pod{
		testPod("shop", "web-1", "10.0.0.1", true), testPod("shop", "web-2", "10.0.0.2", true),
		testPod("shop", "api-1", "10.0.0.3", true), testPod("shop", "api-2", "10.0.0.4", true),
		testPod("data", "db", "10.0.0.5", true), testPod("data", "old", "10.0.0.6", false),
	}
	names := newNames()
	for i := range pods {
		names.addPod(&pods[i])
	}
	names.addService(testService("shop", "api", "10.96.0.1", 30080))
	return pods, names
}

func viewOf(pod corev1.Pod, all ...api.Edge) View {
	return View{Pod: &pod, Edges: &api.Edges{Pod: api.PodRef{UID: string(pod.UID)}, Time: testTime, Edges: all}}
}

// shop is a day in the life of cluster.
func shop() *List {
	pods, names := cluster()
	inband := func(dialled string) func(*api.Edge) {
		return func(e *api.Edge) {
			e.Wire = api.WireInband
			if dialled != "" {
				e.Dialled = netip.MustParseAddrPort(dialled)
			}
		}
	}
	refused := func(reason, peer string) func(*api.Edge) {
		return func(e *api.Edge) {
			e.Verdict, e.Wire, e.Peer, e.Reason = api.EdgeRefused, api.WireNone, peer, reason
		}
	}
	web1 := viewOf(pods[0],
		edgeOf(api.Outbound, "10.0.0.1", "10.96.0.1:80", 8, inband("")),
		edgeOf(api.Outbound, "fd00::1", "[fd00::5]:5432", 2, nil),
		edgeOf(api.Outbound, "10.0.0.1", "10.0.0.5:5432", 3, func(e *api.Edge) { e.Open = 2 }),
		edgeOf(api.Outbound, "10.0.0.1", "10.0.0.6:6379", 4, plaintext("peer has no gateway: connection refused")),
		// Others' edges are not its own to tell.
		edgeOf(api.Outbound, "10.0.0.2", "10.0.0.5:1", 1, nil),
		edgeOf(api.Inbound, "10.0.0.2", "10.0.0.3:1", 1, nil),
	)
	web1.Edges.Forgotten = 5
	web2 := viewOf(pods[1],
		edgeOf(api.Outbound, "10.0.0.2", "192.168.0.1:30080", 1, inband("")),
		edgeOf(api.Outbound, "10.0.0.2", "10.0.0.5:5432", 2, refused("not allowed", "spiffe://td/ns/data/sa/db")),
	)
	web2.Edges.Existing = &api.ExistingConnections{Outbound: 3, Inbound: 1, Connections: []api.ExistingConnection{
		{Direction: api.Outbound, Local: netip.MustParseAddrPort("10.0.0.2:40000"), Remote: netip.MustParseAddrPort("10.0.0.3:80")},
		{Direction: api.Outbound, Local: netip.MustParseAddrPort("10.0.0.2:40001"), Remote: netip.MustParseAddrPort("10.0.0.3:80")},
		{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.2:80"), Remote: netip.MustParseAddrPort("10.0.0.6:50000")},
	}}
	api1 := viewOf(pods[2], edgeOf(api.Inbound, "10.0.0.1", "10.0.0.3:8080", 5, inband("10.96.0.1:80")))
	api1.Edges.Existing = &api.ExistingConnections{Inbound: 2, Connections: []api.ExistingConnection{
		{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.3:80"), Remote: netip.MustParseAddrPort("10.0.0.2:40000")},
		{Direction: api.Inbound, Local: netip.MustParseAddrPort("10.0.0.3:80"), Remote: netip.MustParseAddrPort("10.0.0.2:40001")},
	}}
	api2 := viewOf(pods[3], edgeOf(api.Inbound, "10.0.0.1", "10.0.0.4:8080", 4, inband("10.96.0.1:80")))
	db := viewOf(pods[4],
		edgeOf(api.Inbound, "fd00::1", "[fd00::5]:5432", 2, nil),
		edgeOf(api.Inbound, "10.0.0.1", "10.0.0.5:5432", 3, nil),
		edgeOf(api.Inbound, "10.0.0.2", "10.0.0.5:5432", 2, refused("identity is not allowed", "spiffe://td/ns/shop/sa/web")),
		edgeOf(api.Inbound, "203.0.113.9", "10.0.0.5:18443", 7, refused("no valid TLS handshake", "")),
		edgeOf(api.Inbound, "192.168.0.1", "10.0.0.5:5432", 1, refused("plaintext is not allowed", "")),
	)
	return Join([]View{web1, web2, api1, api2, db}, names)
}

func table(t *testing.T, l *List, o TableOptions, profile termenv.Profile) string {
	t.Helper()
	var out strings.Builder
	style := terminal.New(&out, profile != termenv.Ascii, profile)
	must.Do(t, l.Table(&out, style, o))
	must.Do(t, l.Summary(&out, style, []string{"a note"}))
	return out.String()
}

func TestTable(t *testing.T) {
	golden.Check(t, "table.golden", table(t, shop(), TableOptions{Now: testTime, Home: "shop"}, termenv.Ascii))
	golden.Check(t, "wide.golden", table(t, shop(), TableOptions{Now: testTime, Wide: true}, termenv.Ascii))
	golden.Check(t, "terminal.golden", table(t, shop(), TableOptions{Home: "shop"}, termenv.ANSI))
	_, names := cluster()
	by := shop()
	by.ByWorkload(names)
	golden.Check(t, "workload.golden", table(t, by, TableOptions{Now: testTime, Wide: true}, termenv.Ascii))
}

// TestNetwork: destinations that are not known one by one are a network, without a port
// and without an age.
func TestNetwork(t *testing.T) {
	pods, names := cluster()
	out := edgeOf(api.Outbound, "10.0.0.1", "172.16.1.0:0", 5, func(e *api.Edge) {
		plaintext("outside of all captured ranges")(e)
		e.Network, e.Sent, e.Received, e.LastSeen = netip.MustParsePrefix("172.16.1.0/24"), 0, 0, time.Time{}
	})
	view := viewOf(pods[0], out)
	view.ahead = time.Hour
	got := table(t, Join([]View{view}, names), TableOptions{Now: testTime, Home: "shop"}, termenv.Ascii)
	const want = "pod/web-1   172.16.1.0/24   × outside of all captured ranges   -      5             0      0B     0B         -\n"
	if _, rows, _ := strings.Cut(got, "\n"); !strings.HasPrefix(rows, want) {
		t.Errorf("got\n%swant\n%s", rows, want)
	}
}

// TestBothEndsAreOneEdge also when the ends disagree.
func TestBothEndsAreOneEdge(t *testing.T) {
	pods, names := cluster()
	out := edgeOf(api.Outbound, "10.0.0.1", "10.0.0.5:5432", 3, nil)
	// The worker at the source was started again, and has counted less.
	in := edgeOf(api.Inbound, "10.0.0.1", "10.0.0.5:5432", 9, func(e *api.Edge) { e.LastSeen = testTime })
	for _, views := range [][]View{{viewOf(pods[0], out), viewOf(pods[4], in)}, {viewOf(pods[4], in), viewOf(pods[0], out)}} {
		list := Join(views, names)
		if len(list.Items) != 1 {
			t.Fatalf("%+v", list.Items)
		}
		e := list.Items[0]
		if e.Connections != 9 || e.Sent != 90 || e.Received != 900 || !slices.Equal(e.SeenBy, []string{"source", "destination"}) || !e.LastSeen.Equal(testTime) {
			t.Errorf("%+v", e)
		}
	}
	// What was plaintext before it was encrypted is another edge.
	list := Join([]View{viewOf(pods[0], out, edgeOf(api.Outbound, "10.0.0.1", "10.0.0.5:5432", 1, plaintext("x"))), viewOf(pods[4], in)}, names)
	if len(list.Items) != 2 || list.Items[0].Verdict != Encrypted || list.Items[0].Connections != 9 || list.Items[1].Connections != 1 {
		t.Errorf("%+v", list.Items)
	}
}

// TestAuditedEdge: only the destination knows whom its rules would have refused.
func TestAuditedEdge(t *testing.T) {
	pods, names := cluster()
	out := edgeOf(api.Outbound, "10.0.0.1", "10.0.0.5:5432", 1, nil)
	in := edgeOf(api.Inbound, "10.0.0.1", "10.0.0.5:5432", 1, func(e *api.Edge) { e.Reason = "identity would not be allowed" })
	list := Join([]View{viewOf(pods[0], out), viewOf(pods[4], in)}, names)
	if len(list.Items) != 1 {
		t.Fatalf("%+v", list.Items)
	}
	if e := list.Items[0]; e.Verdict != Encrypted || e.secured().Text != "√ identity would not be allowed" {
		t.Errorf("%+v is shown as %+v", e, e.secured())
	}
}

// TestPropose: a rule for each peer that was let in, with its ports; what else there is stays.
func TestPropose(t *testing.T) {
	peer := func(id string, change func(*api.Edge)) func(*api.Edge) {
		return func(e *api.Edge) {
			e.Peer = "spiffe://td/" + id
			if change != nil {
				change(e)
			}
		}
	}
	in := func(destination, id string, change func(*api.Edge)) api.Edge {
		return edgeOf(api.Inbound, "10.0.0.1", destination, 1, peer(id, change))
	}
	status := &api.Status{State: api.Ready, Rules: api.Rules{Allow: []string{"ns/x/sa/*"}, Deny: []string{"ns/dev/sa/*"}, Audit: true}}
	gateway := func(pod string) (*api.Status, *api.Edges) {
		st := *status
		st.Pod.UID = "uid-" + pod
		seen := &api.Edges{Pod: api.PodRef{UID: "uid-" + pod}, Since: testTime, Forgotten: 7, Edges: []api.Edge{}}
		switch pod {
		case "db":
			seen.Edges = []api.Edge{
				in("10.0.0.5:9001", "ns/shop/sa/web", nil), in("10.0.0.5:5432", "ns/shop/sa/web", func(e *api.Edge) { e.Wire = api.WireInband }),
				in("[fd00::5]:9000", "ns/shop/sa/web", func(e *api.Edge) { e.Source = netip.MustParseAddr("fd00::1") }),
				in("10.0.0.5:5432", "ns/ops/sa/backup", func(e *api.Edge) { e.Reason = "identity would not be allowed" }),
				// None of these was let in, here, encrypted.
				in("10.0.0.5:5432", "ns/bad/sa/refused", func(e *api.Edge) { e.Verdict = api.EdgeRefused }),
				in("10.0.0.6:5432", "ns/bad/sa/elsewhere", nil), in("10.0.0.5:80", "ns/bad", nil),
				edgeOf(api.Inbound, "10.0.0.1", "10.0.0.5:80", 1, plaintext("x")), edgeOf(api.Outbound, "10.0.0.5", "10.0.0.1:80", 1, nil),
				edgeOf(api.Outbound, "10.0.0.5", "10.0.0.5:80", 1, peer("ns/bad/sa/out", nil)),
			}
		case "liar":
			st.Deny = []string{"'; rm -rf /; '"}
		}
		return &st, seen
	}
	c := Collector{Gateways: fakegateway.Gateways(func(_ context.Context, call *fakegateway.Call) (any, error) {
		st, seen := gateway(call.Pod)
		switch {
		case call.Pod == "failing":
			return nil, errors.New("it failed")
		case call.Op() == "status":
			return st, nil
		}
		return seen, nil
	}).Client(nil)}
	for name, want := range map[string]Proposal{
		"db":     {Rules: api.Rules{Allow: []string{"ns/ops/sa/backup:5432", "ns/shop/sa/web:5432,9000-9001"}, Deny: status.Deny, Audit: true}, Since: testTime, Forgotten: 7},
		"nobody": {Rules: api.Rules{Deny: status.Deny, Audit: true}, Since: testTime, Forgotten: 7},
	} {
		pod := testPod("shop", name, "10.0.0.5", true)
		want.Pod = &pod
		if diff := cmp.Diff(want, c.Propose(t.Context(), &pod)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, enabled := range map[string]bool{"failing": true, "liar": true, "none": false} {
		pod := testPod("shop", name, "10.0.0.5", enabled)
		if p := c.Propose(t.Context(), &pod); p.Err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestOnlyWhatIsKnownToBeEncryptedIs has gateways say odd things.
func TestOnlyWhatIsKnownToBeEncryptedIs(t *testing.T) {
	pods, names := cluster()
	for name, change := range map[string]func(*api.Edge){
		"another verdict": func(e *api.Edge) { e.Verdict = "superb" },
		"no verdict":      func(e *api.Edge) { e.Verdict = "" },
		"no peer":         func(e *api.Edge) { e.Peer = "" },
		"no wire":         func(e *api.Edge) { e.Wire = api.WireNone },
	} {
		list := Join([]View{viewOf(pods[0], edgeOf(api.Outbound, "10.0.0.1", "10.0.0.5:5432", 1, change))}, names)
		if len(list.Items) != 1 || list.Items[0].Verdict != Plaintext || list.Items[0].Reason == "" || list.Items[0].Wire != "" {
			t.Errorf("%s: %+v", name, list.Items)
		}
	}
}

func TestCollect(t *testing.T) {
	dead := testPod("shop", "dead", "10.0.0.7", true)
	dead.Status.EphemeralContainerStatuses[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
	pods := []corev1.Pod{
		testPod("shop", "good", "10.0.0.1", true), testPod("shop", "liar", "10.0.0.2", true), testPod("shop", "failing", "10.0.0.3", true),
		testPod("shop", "slow", "10.0.0.4", true), testPod("shop", "plain", "10.0.0.5", false), dead,
	}
	c := Collector{Timeout: time.Millisecond, Now: func() time.Time { return testTime }, Gateways: fakegateway.Gateways(func(ctx context.Context, call *fakegateway.Call) (any, error) {
		if call.Container != "kube-gateway" || call.Op() != "edges" {
			return nil, fmt.Errorf("asked %v for %q", call.Ref, call.Words)
		}
		switch call.Pod {
		case "slow":
			<-ctx.Done()
			return nil, ctx.Err()
		case "failing":
			return nil, api.WithHint(errors.New("it \x1b[2Jfailed"), "do \x1b[2Jsomething")
		case "liar":
			return &api.Edges{Pod: api.PodRef{UID: "uid-good"}, Edges: []api.Edge{}}, nil
		}
		return &api.Edges{Pod: api.PodRef{UID: "uid-" + call.Pod}, Time: testTime.Add(time.Hour), Edges: []api.Edge{
			edgeOf(api.Outbound, "10.0.0.1", "10.0.0.9:80", 1, func(e *api.Edge) { e.LastSeen = testTime.Add(time.Hour - time.Minute) }),
		}}, nil
	}).Client(nil)}
	views := must.Get(c.Collect(t.Context(), pods))(t)
	list := Join(views, newNames())
	golden.Check(t, "unasked.golden", table(t, list, TableOptions{Now: testTime}, termenv.Ascii))
	if len(list.Unasked) != 4 || len(list.Items) != 1 || !list.Items[0].LastSeen.Equal(testTime.Add(-time.Minute)) {
		t.Errorf("%+v", list)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Collect(ctx, pods); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
