//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Addresses outside of the cluster's ranges that lead to a Service of TestLeaks.
const (
	externalIP     = "192.0.2.77"
	loadBalancerIP = "198.51.100.77"
)

// shown counts what a gateway says to have let pass in plaintext.
func shown(s api.Status) uint64 {
	c := s.Capture
	return c.Excluded + c.OutsideConnections + c.ServicePassed + c.Uncapturable + c.NoListener + c.PlaintextAllowed +
		s.Traffic.Outbound.Plaintext + s.Traffic.Inbound.Plaintext
}

// way is one that plaintext could take.
type way struct {
	name string
	// try sends a canary and says whether it came back.
	try func(canary string) bool
	// passes means that it may, if the gateway shows it. Other ways must be closed.
	passes bool
}

// TestLeaks tries every way by which plaintext could get out of a strict pod, or into one.
// The wire says whether it did, and a gateway that lets it pass must say so.
func TestLeaks(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	probed := podSpec("guarded", node1)
	// It is declared and does not run yet: each probe is plaintext that the gateway counts.
	probed.Spec.Containers[0].LivenessProbe = &corev1.Probe{InitialDelaySeconds: 3600, ProbeHandler: corev1.ProbeHandler{
		TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(portServerFirst)}}}
	pods := startPods(t, ns, podSpec("client", node1), podSpec("server", node2), probed, podSpec("other", node2))
	client, server, guarded, other := pods[0], pods[1], pods[2], pods[3]
	for _, p := range []*pod{server, guarded} {
		expose(t, ns, p.name)
	}
	kubectl(t, "-n", ns, "patch", "service", "server", "-p", `{"spec":{"type":"LoadBalancer","externalIPs":["`+externalIP+`"]}}`)
	kubectl(t, "-n", ns, "patch", "service", "server", "--subresource=status", "-p", `{"status":{"loadBalancer":{"ingress":[{"ip":"`+loadBalancerIP+`"}]}}}`)
	out, in := findService(t, ns, "server"), findService(t, ns, "guarded")
	out.await(client)
	in.await(other)
	for _, ip := range []string{externalIP, loadBalancerIP} {
		eventually(t, ip, func() error {
			if r := client.app("talk", ip+":9000", "ready"); r.Error != "" {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
	}
	enable(t, []string{"--mode=strict"}, client, guarded)

	talk := func(from *pod, verb, address string) func(string) bool {
		return func(canary string) bool { return from.app(verb, address, canary).Received == canary+"\n" }
	}
	fromNode := func(address netip.Addr, port int) func(string) bool {
		return func(canary string) bool {
			command := fmt.Sprintf("exec 3<>/dev/tcp/%v/%d && echo %s >&3 && timeout 5 head -n 1 <&3; exit 0", address, port, canary)
			return strings.Contains(onNode(t, node1, "bash", "-c", command), canary)
		}
	}
	ways := map[*pod][]way{
		client: {
			{"an external address", talk(client, "talk", externalIP+":9000"), false},
			{"the address of a load balancer", talk(client, "talk", loadBalancerIP+":9000"), false},
			{"the API server", talk(client, "talk", "10.96.0.1:443"), true},
			{"DNS over TCP", talk(client, "talk", "10.96.0.10:53"), true},
			{"a port of a node that belongs to no Service", talk(client, "talk", "172.30.0.12:10250"), true},
			{"private space that no range names", talk(client, "talk", "172.30.0.1:53"), true},
		},
		guarded: {
			{"the node, to a port that is not probed", fromNode(guarded.ips[0], portEcho), false},
			{"the node, to a port that is probed", fromNode(guarded.ips[0], portServerFirst), true},
			{"the node, over the link", fromNode(linkLocal(t, guarded), portEcho), false},
		},
	}
	for _, target := range out.targets(server) {
		ways[client] = append(ways[client], way{target.name, talk(client, target.verb, target.address), false})
	}
	for _, target := range in.targets(guarded) {
		ways[guarded] = append(ways[guarded], way{target.name, talk(other, target.verb, target.address), false})
	}
	for _, p := range []*pod{client, guarded} {
		wire := recordAt(t, p.link(), p)
		said := map[string]bool{}
		canary := func(w way) string { return "canary." + strings.ReplaceAll(w.name, " ", ".") + "." }
		for _, w := range ways[p] {
			before := shown(p.status())
			reached := w.try(canary(w))
			if reached && !w.passes {
				t.Errorf("%s by %s: reached", p, w.name)
			}
			said[w.name] = shown(p.status()) > before
			if w.passes != said[w.name] {
				t.Errorf("%s by %s: the gateway says that plaintext passed: %v", p, w.name, said[w.name])
			}
		}
		wire.stop()
		for _, w := range ways[p] {
			// What a client without a gateway sends, nobody can hold back.
			if p == client && wire.contains(canary(w)) && !said[w.name] {
				t.Errorf("%s by %s: on the wire in silence", p, w.name)
			}
		}
	}
}

// linkLocal returns the address that IPv6 gives the pod's interface by itself, as its node
// reaches it.
func linkLocal(t *testing.T, p *pod) netip.Addr {
	t.Helper()
	pids := processesOf(t, p, "serve")
	if len(pids) == 0 {
		t.Fatalf("%s has no process", p)
	}
	out := runCommand(t.Context(), t, "", "nsenter", "-t", strconv.Itoa(pids[0]), "-n", "ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
	for field := range strings.FieldsSeq(out.stdout) {
		if prefix, err := netip.ParsePrefix(field); err == nil {
			return prefix.Addr().WithZone(p.link().Device)
		}
	}
	t.Fatalf("%s has no link-local address: %s%s", p, out.stdout, out.stderr)
	return netip.Addr{}
}
