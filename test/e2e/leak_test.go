//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/test/wire"
)

// Addresses outside of the cluster's ranges that lead to a Service of TestLeaks.
const (
	externalIP     = "192.0.2.77"
	loadBalancerIP = "198.51.100.77"
)

// Addresses of the cluster itself that pass.
const (
	apiService = "10.96.0.1:443"
	dnsService = "10.96.0.10:53"
)

// fate is what must become of a byte on its way out of a strict pod, or into one.
type fate int

const (
	// isClosed: it does not arrive, and the network never has it.
	isClosed fate = iota
	// isEncrypted: it arrives, and the network never has it in plaintext.
	isEncrypted
	// isShown: it may pass in plaintext, and the gateway says so.
	isShown
)

// way is one that a byte could take.
type way struct {
	name string
	want fate
	// try sends a canary and says whether it came back.
	try func(canary string) bool
	// later means that the way is there only with a gateway, mute that nothing comes back by it.
	later, mute bool
	// says reports whether the gateway has said that something passed; by default its counters.
	says func(before, after api.Status) bool
}

// passed counts what a gateway says to have let pass in plaintext.
func passed(s api.Status) uint64 {
	c := s.Capture
	return c.Excluded + c.OutsideConnections - c.OutsideRefused + c.ServicePassed + c.PlaintextAllowed + c.UDP - c.UDPRefused +
		s.Traffic.Outbound.Plaintext + s.Traffic.Inbound.Plaintext
}

// stopped counts what a gateway says to have refused.
func stopped(s api.Status) uint64 {
	c := s.Capture
	return c.ServiceRefused + c.Uncapturable + c.NoListener + c.UDPRefused + c.PlaintextRefused + c.OutsideRefused + c.Nested + c.Forwarded +
		s.Traffic.Outbound.Refused + s.Traffic.Inbound.Refused
}

// matrix is one strict pod with the ways that lead out of it or into it.
type matrix struct {
	*inside
	// out means that what is sent is the pod's own: what a client without a gateway sends, nobody
	// can hold back.
	out  bool
	ways []way
	// places are where the pod is joined to the network.
	places []wire.Place
}

func (m *matrix) add(want fate, name string, try func(string) bool) {
	m.ways = append(m.ways, way{name: name, want: want, try: try})
}

// canary is a text that nothing else has.
func (w way) canary(when string) string {
	return "canary." + strings.ReplaceAll(w.name, " ", ".") + "." + when + "."
}

// recordings are those of several places at a time.
type recordings []*recording

func (m *matrix) record() (all recordings) {
	m.t.Helper()
	for _, place := range m.places {
		// Whatever passes there is the pod's.
		all = append(all, recordAt(m.t, place))
	}
	return all
}

func (all recordings) stop() {
	for _, r := range all {
		r.stop()
	}
}

func (all recordings) contains(text string) bool {
	return slices.ContainsFunc(all, func(r *recording) bool { return r.contains(text) })
}

// open makes sure that every way is one: without a gateway it leads to its end, in plaintext, and
// the recording sees that.
func (m *matrix) open() {
	m.t.Helper()
	recorded := m.record()
	for _, w := range m.ways {
		if !w.later && !w.try(w.canary("without")) && !w.mute {
			m.t.Errorf("%s by %s: not reached without a gateway", m, w.name)
		}
	}
	recorded.stop()
	for _, w := range m.ways {
		if !w.later && !w.mute && !recorded.contains(w.canary("without")) {
			m.t.Errorf("%s by %s: the recording does not see it", m, w.name)
		}
	}
}

// judge tries every way. The wire says what became of it, and the gateway must say so.
func (m *matrix) judge() {
	m.t.Helper()
	recorded := m.record()
	before := m.status()
	for _, w := range m.ways {
		reached := w.try(w.canary("with"))
		if reached && w.want == isClosed || !reached && w.want == isEncrypted {
			m.t.Errorf("%s by %s: reached %v", m, w.name, reached)
		}
		before = m.says(w, before)
	}
	recorded.stop()
	for _, w := range m.ways {
		if (m.out || w.want == isEncrypted) && w.want != isShown && recorded.contains(w.canary("with")) {
			m.t.Errorf("%s by %s: on the wire", m, w.name)
		}
	}
}

// says checks that the gateway says what has become of a way, and returns its status.
func (m *matrix) says(w way, before api.Status) (after api.Status) {
	m.t.Helper()
	says := w.says
	if says == nil {
		says = func(before, after api.Status) bool {
			switch w.want {
			case isClosed:
				return stopped(after) > stopped(before)
			case isEncrypted:
				return after.Traffic.Outbound.Encrypted > before.Traffic.Outbound.Encrypted
			}
			return passed(after) > passed(before)
		}
	}
	// What a worker decides is counted a moment later.
	for deadline := time.Now().Add(5 * time.Second); ; {
		if after = m.status(); says(before, after) {
			break
		}
		if time.Now().After(deadline) {
			m.t.Errorf("%s by %s: the gateway does not say what became of it: before %+v %+v, after %+v %+v", m, w.name, before.Capture.CaptureCounts, before.Traffic, after.Capture.CaptureCounts, after.Traffic)
			break
		}
	}
	if w.want != isShown && passed(after) > passed(before) {
		m.t.Errorf("%s by %s: the gateway says that plaintext passed", m, w.name)
	}
	return after
}

// talker tries to reach an address by a client of the test application.
func talker(run func(...string) appResult, args ...string) func(string) bool {
	return func(canary string) bool { return run(append(args, canary)...).Received == canary+"\n" }
}

// by is talker with a kind of socket.
func by(run func(...string) appResult, kind, address string, more ...string) func(string) bool {
	return func(canary string) bool {
		return run(append([]string{"socket", kind, address, canary}, more...)...).Received == canary+"\n"
	}
}

// TestLeaks tries every way by which plaintext could get out of a strict pod, or into one. First
// each must be found open without a gateway.
func TestLeaks(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	probed := podSpec("guarded", node1)
	// It is declared and does not run yet: each probe is plaintext that the gateway counts.
	probed.Spec.Containers[0].LivenessProbe = &corev1.Probe{InitialDelaySeconds: 3600, ProbeHandler: corev1.ProbeHandler{
		TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(portServerFirst)}}}
	pods := startPods(t, ns, podSpec("client", node1), podSpec("server", node2), podSpec("peer", node2), probed, podSpec("other", node2),
		podSpec("router", node1), podSpec("dies-closed", node1), podSpec("dies-open", node1))
	client, server, peer, guarded, other := pods[0], pods[1], pods[2], pods[3], pods[4]
	for _, p := range []*pod{server, guarded} {
		expose(t, ns, p.name)
	}
	kubectl(t, "-n", ns, "patch", "service", "server", "-p", `{"spec":{"type":"LoadBalancer","externalIPs":["`+externalIP+`"]}}`)
	kubectl(t, "-n", ns, "patch", "service", "server", "--subresource=status", "-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+loadBalancerIP+`"}]}}}`)
	findService(t, ns, "server").await(client)
	findService(t, ns, "guarded").await(other)
	for _, ip := range []string{externalIP, loadBalancerIP} {
		awaitApp(t, ip, client.app, "talk", ip+":9000", "ready")
	}
	t.Run("out", func(t *testing.T) {
		t.Parallel()
		leaksOut(t, client, server, peer)
	})
	t.Run("in", func(t *testing.T) {
		t.Parallel()
		leaksIn(t, guarded, other)
	})
	t.Run("networks", func(t *testing.T) {
		t.Parallel()
		leaksOfNetworks(t, pods[5], server, other)
	})
	t.Run("death", func(t *testing.T) {
		t.Parallel()
		leaksOfDeath(t, pods[6], pods[7], server, other)
	})
}

// leaksOut has the pod's own processes send, by every kind of address and of socket.
func leaksOut(t *testing.T, from, server, peer *pod) {
	client := from.enter(t)
	m := &matrix{inside: client, out: true, places: []wire.Place{client.link()}}
	bare, other := server.addr(portEcho), peer.addr(portEcho)
	for _, target := range findService(t, server.namespace, "server").targets(server) {
		m.add(isClosed, target.name, talker(client.app, target.verb, target.address))
	}
	m.add(isClosed, "an external address", talker(client.app, "talk", externalIP+":9000"))
	m.add(isClosed, "the address of a load balancer", talker(client.app, "talk", loadBalancerIP+":9000"))
	m.add(isClosed, "a socket bound to a device", by(client.app, "device", bare))
	m.add(isClosed, "a raw socket", talker(client.app, "raw", bare))
	m.ways = append(m.ways, way{name: "a datagram", want: isClosed, try: func(canary string) bool {
		return client.app("datagram", bare, canary).Error == ""
	}})
	for name, address := range map[string]string{
		"the API server": apiService, "DNS over TCP": dnsService, "a port of a node that belongs to no Service": "172.30.0.12:10250",
		"private space that no range names": "172.30.0.1:53",
	} {
		m.ways = append(m.ways, way{name: name, want: isShown, mute: true, try: talker(client.app, "talk", address)})
	}
	m.add(isEncrypted, "a peer", talker(client.app, "talk", other))
	m.add(isEncrypted, "a peer's IPv6", talker(client.app, "talk", netip.AddrPortFrom(peer.ips[1], portEcho).String()))
	m.add(isEncrypted, "a v4-mapped address", talker(client.app, "mapped", other))
	m.add(isEncrypted, "MPTCP", by(client.app, "multipath", other))
	m.add(isEncrypted, "Fast Open by sendmsg", by(client.app, "fastopen", other))
	m.add(isEncrypted, "Fast Open by connect", by(client.app, "fastopenconnect", other))
	m.add(isEncrypted, "a socket that was connected within the pod", by(client.app, "again", other, "127.0.0.1:9000"))
	m.add(isEncrypted, "a socket that was connected to a peer", by(client.app, "again", other, other))
	m.add(isClosed, "a socket that was connected to a peer, to a pod", by(client.app, "again", bare, other))
	switch rings := client.app("rings"); {
	case rings.Error != "":
		t.Errorf("whether io_uring is a way is not known: %s", rings.Error)
	case rings.Count == 1:
		m.add(isEncrypted, "io_uring", by(client.app, "uring", other))
		m.add(isEncrypted, "io_uring in a thread of the kernel", by(client.app, "uringasync", other))
	default:
		t.Logf("io_uring is no way: %s", rings.Received)
	}

	before := client.converse(bare)
	m.ways = append(m.ways, way{name: "a connection from before", want: isShown, try: before.say, says: func(_, after api.Status) bool {
		return after.Existing != nil && after.Existing.Outbound == 1
	}}, way{name: "a connection from before that was reset", later: true, try: func(canary string) bool {
		enable(t, []string{"--existing=reset"}, client.pod)
		return before.say(canary)
	}, says: func(before, after api.Status) bool {
		return after.Existing != nil && after.Existing.Outbound == 0 && after.Existing.Reset > before.Existing.Reset
	}}, way{name: "the death of a worker", want: isEncrypted, later: true, try: func(canary string) bool {
		kill(t, processesOf(t, client.pod, "worker")...)
		return client.app("talk", other, canary).Received == canary+"\n"
	}})
	m.open()
	enable(t, nil, peer.of(t))
	enable(t, []string{"--mode=strict", "--block-udp"}, client.pod)
	m.judge()
}

// leaksIn has others connect to the pod.
func leaksIn(t *testing.T, to, from *pod) {
	guarded, other := to.enter(t), from.enter(t)
	m := &matrix{inside: guarded, places: []wire.Place{guarded.link()}}
	for _, target := range findService(t, guarded.namespace, "guarded").targets(to) {
		m.add(isClosed, target.name, talker(other.app, target.verb, target.address))
	}
	echo := to.addr(portEcho)
	m.add(isClosed, "MPTCP", by(other.app, "multipath", echo))
	m.add(isClosed, "Fast Open by sendmsg", by(other.app, "fastopen", echo))
	m.add(isClosed, "a raw socket", talker(other.app, "raw", echo))
	m.add(isClosed, "the node, to a port that is not probed", talker(guarded.fromNode, "talk", echo))
	m.add(isClosed, "the node, over the link", talker(guarded.fromNode, "talk", netip.AddrPortFrom(linkLocal(t, guarded), portEcho).String()))
	m.ways = append(m.ways, way{name: "the node, to a port that is probed", want: isShown, try: func(canary string) bool {
		return strings.Contains(guarded.fromNode("first", to.addr(portServerFirst), canary).Received, canary)
	}})
	m.open()
	enable(t, []string{"--mode=strict"}, guarded.pod)
	m.judge()
}

// fromNode runs a client of the test application on node-1.
func (i *inside) fromNode(args ...string) appResult {
	i.t.Helper()
	return parse[appResult](i.t, onNode(i.t, node1, append([]string{i.program()}, args...)...))
}

// linkLocal returns the address that IPv6 gives the pod's interface by itself, as its node
// reaches it.
func linkLocal(t *testing.T, p *inside) netip.Addr {
	t.Helper()
	out := p.ip("-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
	for field := range strings.FieldsSeq(out) {
		if prefix, err := netip.ParsePrefix(field); err == nil {
			return prefix.Addr().WithZone(p.link().Device)
		}
	}
	t.Fatalf("%s has no link-local address: %s", p, out)
	return netip.Addr{}
}

// leaksOfDeath kills gateways. Nobody is there to say what passes: status says that nobody is.
func leaksOfDeath(t *testing.T, closedPod, openPod, server, other *pod) {
	enable(t, []string{"--mode=strict"}, closedPod.of(t))
	enable(t, []string{"--mode=strict", "--on-failure=open"}, openPod.of(t))
	stranger := other.enter(t)
	for _, p := range []*inside{closedPod.enter(t), openPod.enter(t)} {
		open := p.name == openPod.name
		recorded := recordAt(t, p.link())
		killWhole(t, p.pod)
		for _, w := range []way{
			{name: "out to a pod", try: talker(p.app, "talk", server.addr(portEcho))},
			{name: "out to a pod's IPv6", try: talker(p.app, "talk", netip.AddrPortFrom(server.ips[1], portEcho).String())},
			{name: "out to a Service", try: talker(p.app, "talk", netip.AddrPortFrom(findService(t, server.namespace, "server").vips[0], portEcho).String())},
			{name: "out by MPTCP", try: by(p.app, "multipath", server.addr(portEcho))},
			{name: "in from a pod", try: talker(stranger.app, "talk", p.addr(portEcho))},
			{name: "in from a pod over IPv6", try: talker(stranger.app, "talk", netip.AddrPortFrom(p.ips[1], portEcho).String())},
			{name: "in from the node", try: talker(p.fromNode, "talk", p.addr(portEcho))},
		} {
			if reached := w.try(w.canary(p.name)); reached != open {
				t.Errorf("%s, %s: reached %v", p, w.name, reached)
			}
		}
		recorded.stop()
		if passed := recorded.contains("canary.out."); passed != open {
			t.Errorf("%s: plaintext on the wire: %v", p, passed)
		}
		checkSaysDead(t, p.pod)
	}
}

// Networks of TestLeaks that no range of the cluster names.
const (
	secondNetwork = "10.77.1." // captured by name
	thirdNetwork  = "10.77.2."
	secondAddress = "10.77.3.1"
	nestedNetwork = "10.77.4."
)

const (
	// secondLink is node-1's end of the second interface.
	secondLink = "leaks0"
	// publishedPort of the pod leads to the nested namespace.
	publishedPort = 9200
)

// join gives the pod a second interface with two networks, a second address, and a way to a network
// namespace of its own.
func (i *inside) join(inner int) {
	onNode(i.t, node1, "ip", "link", "add", secondLink, "type", "veth", "peer", "name", "net1", "netns", fmt.Sprint(i.pid))
	for _, network := range []string{secondNetwork, thirdNetwork} {
		onNode(i.t, node1, "ip", "addr", "add", network+"254/24", "dev", secondLink)
		i.ip("addr", "add", network+"1/24", "dev", "net1")
	}
	onNode(i.t, node1, "ip", "link", "set", secondLink, "up")
	i.ip("link", "set", "net1", "up")
	i.ip("addr", "add", secondAddress+"/32", "dev", "eth0")

	i.ip("link", "add", "inner", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(inner))
	i.ip("addr", "add", nestedNetwork+"1/24", "dev", "inner")
	i.ip("link", "set", "inner", "up")
	for _, args := range []string{"addr add " + nestedNetwork + "2/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via " + nestedNetwork + "1"} {
		i.enterNetwork(inner, append([]string{"ip"}, strings.Fields(args)...)...)
	}
}

// leave takes back what join has done.
func (i *inside) leave() {
	i.ip("link", "del", "net1")
	i.ip("link", "del", "inner")
	i.ip("addr", "del", secondAddress+"/32", "dev", "eth0")
}

// route has the pod forward for the nested namespace, and node-1 send there.
func (i *inside) route() {
	i.enterNetwork(i.pid, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	i.enterNetwork(i.pid, "nft", `add table ip leaks;
		add chain ip leaks out { type nat hook postrouting priority srcnat; };
		add rule ip leaks out oifname != inner masquerade;
		add chain ip leaks in { type nat hook prerouting priority dstnat; };
		add rule ip leaks in iifname eth0 tcp dport `+fmt.Sprint(publishedPort)+` dnat to `+nestedNetwork+`2:9000`)
	for _, to := range []string{secondAddress + "/32", nestedNetwork + "0/24"} {
		onNode(i.t, node1, "ip", "route", "replace", to, "via", i.ips[0].String(), "dev", i.link().Device, "onlink")
	}
}

// leaksOfNetworks has a pod with further interfaces, addresses and network namespaces, as Multus and
// Docker in Docker make them. They come after the gateway.
func leaksOfNetworks(t *testing.T, p, server, other *pod) {
	router, stranger := p.enter(t), other.enter(t)
	echo := server.addr(portEcho)
	inner := nest(t)
	router.join(inner)
	router.route()
	for _, network := range []string{secondNetwork, thirdNetwork} {
		listen(t, os.Getenv("KUBE_GATEWAY_CLUSTER"), "exec", node1, "--", router.program(), "listen", network+"254:9000")
	}
	listen(t, "nsenter", "-t", fmt.Sprint(inner), "-n", router.program(), "listen", nestedNetwork+"2:9000")

	places := []wire.Place{router.link(), {Device: secondLink, Beyond: secondNetwork + "1"}}
	nested := func(args ...string) appResult { return router.appIn(inner, args...) }
	behind := func(args ...string) appResult { return router.stranger(inner, args...) }
	out := &matrix{inside: router, out: true, places: places}
	out.add(isClosed, "a second interface", talker(router.app, "talk", secondNetwork+"254:9000"))
	out.add(isClosed, "a second interface by its name", by(router.app, "device", secondNetwork+"254:9000"))
	out.add(isShown, "a second interface into private space", talker(router.app, "talk", thirdNetwork+"254:9000"))
	out.add(isClosed, "a nested namespace", talker(nested, "talk", echo))
	out.add(isClosed, "forwarding", talker(behind, "talk", echo))
	out.add(isClosed, "forwarding of a raw socket", talker(behind, "raw", echo))
	out.add(isClosed, "forwarding to a second interface", talker(behind, "talk", secondNetwork+"254:9000"))
	out.ways = append(out.ways, way{name: "forwarding to the API server", want: isShown, mute: true, try: talker(behind, "talk", apiService)})
	out.add(isShown, "forwarding into private space", talker(behind, "talk", thirdNetwork+"254:9000"))

	in := &matrix{inside: router, places: places[:1]}
	in.add(isClosed, "a second address", talker(router.fromNode, "talk", secondAddress+":9000"))
	in.add(isClosed, "a port that leads to a nested namespace", talker(stranger.app, "talk", router.addr(publishedPort)))
	in.add(isShown, "a route to a nested namespace", talker(router.fromNode, "talk", nestedNetwork+"2:9000"))
	second := &matrix{inside: router, places: places[1:]}
	second.add(isClosed, "a second interface", talker(router.fromNode, "talk", secondNetwork+"1:9000"))
	second.add(isClosed, "a second interface, to the pod's address", func(canary string) bool {
		device := router.link().Device
		onNode(t, node1, "ip", "route", "replace", p.ips[0].String(), "via", secondNetwork+"1")
		defer onNode(t, node1, "ip", "route", "replace", p.ips[0].String(), "dev", device, "scope", "host")
		return router.fromNode("talk", router.addr(portEcho), canary).Received == canary+"\n"
	})
	all := []*matrix{out, in, second}
	for _, m := range all {
		m.open()
	}
	router.leave()
	enable(t, []string{"--mode=strict", "--capture-cidr=10.244.0.0/16,fd00:10:244::/48," + secondNetwork + "0/24"}, router.pod)
	router.join(inner)
	for _, m := range all {
		m.judge()
	}
}

// newRange is a Service range that the cluster gets during a test.
const newRange = "10.200.0.0/24"

// newServiceRange gives the cluster newRange until the end of the test, for a Service "late" of ns.
func newServiceRange(t *testing.T, ns string) {
	t.Helper()
	// The range ends with its last Service, which is deleted before it.
	atEnd(t, "delete", "servicecidr", "leaks", "--ignore-not-found", "--timeout="+patience.String())
	atEnd(t, "-n", ns, "delete", "service", "late", "--ignore-not-found")
	apply(t, ns, `{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: leaks}, spec: {cidrs: ["`+newRange+`"]}}`)
	kubectl(t, "wait", "--for=condition=Ready", "servicecidr/leaks", "--timeout="+patience.String())
}

// TestNewServiceRange gives the cluster one more range of Services: what goes there before a gateway
// knows is counted, and said to be a danger; after 'refresh' it is refused or encrypted. It does not
// run beside other tests, which would lack the range as well.
func TestNewServiceRange(t *testing.T) {
	ns := namespace(t)
	pods := startPods(t, ns, podSpec("client", node1), podSpec("server", node2))
	client, server := pods[0].enter(t), pods[1]
	enable(t, []string{"--mode=strict"}, client.pod)
	newServiceRange(t, ns)
	const late = "10.200.0.77"
	awaitKubectl(t, "a Service in the new range", "-n", ns, "create", "service", "clusterip", "late", "--clusterip="+late, "--tcp=9000:9000")
	kubectl(t, "-n", ns, "patch", "service", "late", "-p", `{"spec":{"selector":{"app":"server"}}}`)
	awaitApp(t, "the Service leads to its pod", client.app, "talk", late+":9000", "ready")
	judge := func(want fate, name string) {
		t.Helper()
		m := &matrix{inside: client, out: true, places: []wire.Place{client.link()}}
		m.add(want, name, talker(client.app, "talk", late+":9000"))
		m.judge()
	}
	judge(isShown, "a range that is not known")
	out := tryGateway(t, "-n", ns, "status", client.String())
	for _, text := range []string{newRange, "kubectl gateway refresh pod/client -n " + ns} {
		if !strings.Contains(out.stdout+out.stderr, text) {
			t.Errorf("status does not say %q:\n%s%s", text, out.stdout, out.stderr)
		}
	}
	gateway(t, "-n", ns, "refresh", client.String())
	judge(isClosed, "a range that is known")
	enable(t, nil, server)
	judge(isEncrypted, "a range that is known, to a peer")
}
