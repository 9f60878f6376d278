//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

// The three kinds of pods. Plain has no gateway.
const (
	plain      = "plain"
	permissive = "permissive"
	strict     = "strict"
)

// outcome is what must become of a connection.
type outcome struct{ reached, encrypted bool }

// expected says what becomes of a connection between two kinds of pods,
// whichever way it takes.
func expected(client, server string) outcome {
	switch {
	case client != plain && server != plain:
		return outcome{reached: true, encrypted: true}
	case client == strict || server == strict:
		return outcome{}
	}
	return outcome{reached: true}
}

// TestMatrix connects every kind of client with every kind of server, by every
// kind of address, over both families, and looks at the wire: is the server
// reached, and does the text cross the network in the clear.
func TestMatrix(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	kinds := []string{plain, permissive, strict}
	var specs []*corev1.Pod
	for _, kind := range kinds {
		specs = append(specs, podSpec("client-"+kind, node1), podSpec("server-"+kind, node2))
	}
	pods := map[string]*pod{}
	for _, p := range startPods(t, ns, specs...) {
		pods[p.name] = p
	}
	for _, kind := range kinds {
		expose(t, ns, "server-"+kind)
	}
	services := map[string]*service{}
	for _, kind := range kinds {
		services[kind] = findService(t, ns, "server-"+kind)
		services[kind].await(pods["client-plain"])
	}
	enable(t, nil, pods["client-permissive"], pods["server-permissive"])
	enable(t, []string{"--mode=strict"}, pods["client-strict"], pods["server-strict"])

	type attempt struct {
		name, client, canary string
		want                 outcome
		got                  appResult
	}
	var attempts []*attempt
	recorded := record(t, slices.Collect(maps.Values(pods))...)
	for _, client := range kinds {
		for _, server := range kinds {
			for _, target := range services[server].targets(pods["server-"+server]) {
				a := &attempt{
					client: client,
					name:   fmt.Sprintf("%s to %s by %s", client, server, target.name),
					canary: fmt.Sprintf("canary-%d-", len(attempts)),
					want:   expected(client, server),
				}
				a.got = pods["client-"+client].app(target.verb, target.address, a.canary)
				attempts = append(attempts, a)
			}
		}
	}
	recorded.stop()
	for _, a := range attempts {
		got := outcome{reached: a.got.Error == "" && a.got.Received == a.canary+"\n"}
		seen := recorded.contains(a.canary)
		got.encrypted = got.reached && !seen
		// What a client without a gateway sends, nobody can hold back.
		leaked := seen && !a.want.reached && a.client != plain
		if got != a.want || leaked {
			t.Errorf("%s: %+v, want %+v; in the clear on the wire: %v; the client says %+v", a.name, got, a.want, seen, a.got)
		}
	}
}

// service is a Service of type NodePort with both families, and a headless one
// beside it.
type service struct {
	namespace, name string
	vips            []netip.Addr
	nodePort        uint16
}

func expose(t *testing.T, ns, name string) {
	t.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: %[1]s}
  ports: [{name: echo, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s-headless}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: %[1]s}
  ports: [{name: echo, port: 9000}]
`, name)
	apply(t, ns, manifest)
}

func findService(t *testing.T, ns, name string) *service {
	t.Helper()
	object := get[corev1.Service](t, "-n", ns, "service", name)
	s := &service{namespace: ns, name: name, nodePort: uint16(object.Spec.Ports[0].NodePort)}
	for _, ip := range object.Spec.ClusterIPs {
		s.vips = append(s.vips, netip.MustParseAddr(ip))
	}
	return s
}

// target is one way to reach a server.
type target struct{ name, verb, address string }

// nodeIP is the address of node-1 between the nodes. A NodePort of the
// client's own node leads to the server on the other one.
const nodeIP = "172.30.0.11"

func (s *service) targets(server *pod) []target {
	port := strconv.Itoa(portEcho)
	headless := net.JoinHostPort(s.name+"-headless."+s.namespace+".svc.cluster.local", port)
	list := []target{
		{"NodePort", "talk", net.JoinHostPort(nodeIP, strconv.Itoa(int(s.nodePort)))},
		{"headless", "talk", headless},
		{"headless over IPv6", "talk6", headless},
	}
	for _, ip := range server.ips {
		list = append(list, target{"pod IP " + family(ip), "talk", netip.AddrPortFrom(ip, portEcho).String()})
	}
	for _, ip := range s.vips {
		list = append(list, target{"ClusterIP " + family(ip), "talk", netip.AddrPortFrom(ip, portEcho).String()})
	}
	return list
}

func family(ip netip.Addr) string {
	if ip.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// await waits until every address of the Service leads to its pod.
func (s *service) await(from *pod) {
	from.t.Helper()
	server := findPod(from.t, s.namespace, s.name)
	for _, target := range s.targets(server) {
		awaitApp(from.t, s.name+" by "+target.name, from.app, target.verb, target.address, "ready")
	}
}

// TestHairpin has pods of every kind reach themselves through their Service.
func TestHairpin(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	for _, kind := range []string{plain, permissive, strict} {
		p := startPods(t, ns, podSpec("self-"+kind, node1))[0]
		expose(t, ns, p.name)
		s := findService(t, ns, p.name)
		s.await(p)
		if kind != plain {
			enable(t, []string{"--mode=" + kind}, p)
		}
		wire := recordAt(t, p.link(), p)
		for i, vip := range s.vips {
			p.talk(netip.AddrPortFrom(vip, portEcho).String(), fmt.Sprintf("canary-%s-%d", kind, i))
		}
		wire.stop()
		if seen := wire.contains("canary-" + kind); seen != (kind == plain) {
			t.Errorf("%s: in the clear outside the pod: %v", kind, seen)
		}
	}
}

// link returns the node's end of the link to the pod, which must run on node-1.
func (p *pod) link() wire.Place {
	p.t.Helper()
	route, err := wire.OnNode(p.t.Context(), "ip", "-o", "route", "get", p.ips[0].String()).Output()
	if err != nil {
		p.t.Fatalf("the route to %s: %v", p, err)
	}
	fields := strings.Fields(string(route))
	i := slices.Index(fields, "dev")
	if i < 0 || i+1 == len(fields) {
		p.t.Fatalf("the route to %s is %q", p, route)
	}
	return wire.Place{Device: fields[i+1], Beyond: p.ips[0].String()}
}

// TestLoadBalancing sends connections through a Service with three backends,
// of which one has no gateway: the spread stays even, and status reports how
// many were encrypted.
func TestLoadBalancing(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	client, backends, spread := balanced(t, ns)
	enable(t, nil, client, backends[0], backends[1])
	const n = 90
	got := must.Get(spread(n))(t)
	// A fair choice among three gives 30 with a standard deviation of 4.5: each
	// of these bounds is missed once in a million runs.
	for _, b := range backends {
		if hits := got[b.ips[0].String()]; hits < 8 || hits > 52 {
			t.Errorf("%d of %d connections reached %s: %v", hits, n, b, got)
		}
	}
	without := uint64(got[backends[2].ips[0].String()])
	client.traffic("the split is reported", func(tr api.Traffic) bool {
		return tr.Outbound.Encrypted == n-without && tr.Outbound.Plaintext == without
	})
}

// balanced starts a client and three backends behind one Service. spread makes n connections
// to it and counts them by the backend.
func balanced(t *testing.T, ns string) (client *pod, backends []*pod, spread func(n int) (map[string]int, error)) {
	t.Helper()
	specs := []*corev1.Pod{podSpec("client", node1)}
	for i := range 3 {
		s := podSpec(fmt.Sprintf("backend-%d", i), node2)
		s.Labels["app"] = "backend"
		specs = append(specs, s)
	}
	pods := startPods(t, ns, specs...)
	kubectl(t, "-n", ns, "create", "service", "clusterip", "backend", "--tcp=9001:9001")
	address := net.JoinHostPort(strings.TrimSpace(kubectl(t, "-n", ns, "get", "service", "backend", "-o", "jsonpath={.spec.clusterIP}")), "9001")
	spread = func(n int) (map[string]int, error) {
		seen := map[string]int{}
		r := pods[0].app("whose", address, strconv.Itoa(n))
		if r.Error != "" {
			return nil, errors.New(r.Error)
		}
		for _, server := range strings.Fields(r.Received) {
			seen[server]++
		}
		return seen, nil
	}
	eventually(t, "the Service has three backends", func() error {
		got, err := spread(90)
		if err == nil && len(got) != 3 {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
	return pods[0], pods[1:], spread
}

// TestProbes has the kubelet probe a strict pod over HTTP, TCP and gRPC, from
// the node's own address and in plaintext.
func TestProbes(t *testing.T) {
	ns := namespace(t)
	probes := map[string]corev1.ProbeHandler{
		"http": {HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(portHTTP)}},
		"tcp":  {TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(portEcho)}},
		"grpc": {GRPC: &corev1.GRPCAction{Port: portGRPC}},
	}
	var specs []*corev1.Pod
	for name, handler := range probes {
		s := podSpec("probed-"+name, node1)
		// A busy machine may take its time; what is refused fails at once.
		probe := &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 10}
		s.Spec.Containers[0].ReadinessProbe = probe
		s.Spec.Containers[0].LivenessProbe = probe.DeepCopy()
		specs = append(specs, s)
	}
	pods := append(startPods(t, ns, specs...), startPods(t, ns, podSpec("other", node2))...)
	other := pods[len(pods)-1]
	pods = pods[:len(pods)-1]
	enable(t, []string{"--mode=strict"}, pods...)
	before := map[string]uint64{}
	for _, p := range pods {
		before[p.name] = p.status().Capture.PlaintextAllowed
	}
	for _, p := range pods {
		eventually(t, "the kubelet has probed "+p.name+" several times", func() error {
			if n := p.status().Capture.PlaintextAllowed - before[p.name]; n < 6 {
				return fmt.Errorf("%d probes", n)
			}
			return nil
		})
		state := kubectl(t, "-n", ns, "get", "pod", p.name, "-o",
			"jsonpath={.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].ready}")
		if state != "0/true" {
			t.Errorf("%s: restarts and readiness are %s", p, state)
		}
		if r := other.app("talk", p.addr(portEcho), "x"); r.Error == "" {
			t.Errorf("%s is open to plaintext from another pod: %+v", p, r)
		}
	}
}

// TestModeChange makes a running gateway strict and permissive again, under
// traffic of a pod with a gateway, and while a plaintext connection is open.
func TestModeChange(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a, b)
	third := startPods(t, ns, podSpec("third", node1))[0]
	third.talk(b.addr(portEcho), "permissive")
	l := startLoad(a, b.addr(portTraffic), b.clusterIP())
	plain := startLoadWith(third, []string{"--workers=0"}, b.addr(portTraffic))
	for range 3 {
		gateway(t, "-n", ns, "mode", "pod/a", "pod/b", "strict")
		if r := third.app("talk", b.addr(portEcho), "strict"); r.Error == "" {
			t.Errorf("after the change to strict: %+v", r)
		}
		l.more(10)
		gateway(t, "-n", ns, "mode", "pod/b", "pod/a", "permissive")
		third.talk(b.addr(portEcho), "permissive again")
		l.more(10)
	}
	plain.stopClean()
	l.stopClean(b)
}

// TestIdentityRules lets only one service account in.
func TestIdentityRules(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "serviceaccount", "friend")
	friendly := podSpec("friend", node1)
	friendly.Spec.ServiceAccountName = "friend"
	pods := startPods(t, ns, podSpec("server", node2), friendly, podSpec("stranger", node1))
	server, friend, stranger := pods[0], pods[1], pods[2]
	enable(t, nil, friend, stranger)
	enable(t, []string{"--mode=strict", "--allow=ns/" + ns + "/sa/friend"}, server)
	friend.talk(server.addr(portEcho), "hello")
	if r := stranger.app("talk", server.addr(portEcho), "hello"); r.Error == "" {
		t.Errorf("a stranger was let in: %+v", r)
	}
	server.traffic("the refusal is counted", func(tr api.Traffic) bool { return tr.Inbound.NotAllowed == 1 })
	gateway(t, "-n", ns, "allow", "pod/server", "ns/"+ns+"/sa/*")
	stranger.talk(server.addr(portEcho), "hello again")
}

// TestSessionAffinity: a Service with ClientIP affinity sends all connections
// of a client to one backend, with gateways as without.
func TestSessionAffinity(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	client, backends, spread := balanced(t, ns)
	kubectl(t, "-n", ns, "patch", "service", "backend", "-p", `{"spec":{"sessionAffinity":"ClientIP"}}`)
	const n = 20
	var before map[string]int
	eventually(t, "affinity is in force", func() (err error) {
		before, err = spread(n)
		if err == nil && len(before) != 1 {
			err = fmt.Errorf("%v", before)
		}
		return err
	})

	enable(t, []string{"--mode=strict"}, append(backends, client)...)
	after, err := spread(n)
	if err != nil || !maps.Equal(before, after) {
		t.Errorf("before %v, with gateways %v (%v)", before, after, err)
	}
}

// TestExternalTrafficPolicy: with the policy Local a NodePort keeps the client's
// address and leads to backends of its own node only; gateways change neither.
func TestExternalTrafficPolicy(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("client", node2), podSpec("backend", node1))
	client, backend := pods[0], pods[1]
	manifest := `
apiVersion: v1
kind: Service
metadata: {name: backend}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: backend}
  ports: [{name: first, port: 9001}]
`
	apply(t, ns, manifest)
	address := net.JoinHostPort(nodeIP, strconv.Itoa(int(findService(t, ns, "backend").nodePort)))
	sees := func() error {
		r := client.app("first", address, "hello")
		if r.Error != "" {
			return errors.New(r.Error)
		}
		if want := "hello " + r.Local + " from " + backend.addr(portServerFirst); !strings.HasPrefix(r.Received, want) {
			return fmt.Errorf("the backend says %q, want %q", r.Received, want)
		}
		return nil
	}
	eventually(t, "without gateways the backend sees the client's address", sees)
	enable(t, []string{"--mode=strict"}, client, backend)
	if err := sees(); err != nil {
		t.Error(err)
	}
	client.traffic("the connection was encrypted", func(tr api.Traffic) bool { return tr.Outbound.Encrypted == 1 })
}

// TestUDP: datagrams into captured ranges are not encrypted, which status says;
// they can be refused in strict mode, except DNS.
func TestUDP(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict", "--block-udp"}, a)
	if r := a.app("datagram", b.addr(9999), "x"); !r.NotPermitted {
		t.Errorf("a datagram was let out: %+v", r)
	}
	enable(t, nil, b)
	if r := b.app("datagram", a.addr(9999), "x"); r.Error != "" {
		t.Errorf("a datagram was refused in permissive mode: %+v", r)
	}
	if c := a.status().Capture; c.UDPRefused == 0 {
		t.Errorf("the refusal is not counted: %+v", c)
	}
	if c := b.status().Capture; c.UDP == 0 || c.UDPRefused != 0 {
		t.Errorf("the datagram is not counted: %+v", c)
	}
	out := gateway(t, "-n", ns, "status")
	if !strings.Contains(out.stdout+out.stderr, "UDP") {
		t.Errorf("status does not mention UDP: %s%s", out.stdout, out.stderr)
	}
	// Names are still resolved, which takes UDP to the cluster's name service.
	kubectl(t, "-n", ns, "expose", "pod", "b", "--cluster-ip=None", "--port=9000", "--name=b")
	awaitApp(t, "a name is resolved and reached", a.app, "talk", "b."+ns+".svc.cluster.local:9000", "by name")
}
