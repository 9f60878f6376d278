//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// node3 is a node that joins during the tests, with the addresses of its pods.
const (
	node3     = "node-3"
	node3Pods = "10.244.3.0/24"
)

// nodes sets the number of nodes of the test cluster.
func nodes(ctx context.Context, t *testing.T, n string) {
	t.Helper()
	cluster(ctx, t, "nodes", n)
	if n == "3" {
		cluster(ctx, t, append([]string{"load"}, strings.Fields(os.Getenv("KUBE_GATEWAY_IMAGES"))...)...)
	}
}

// captures reports whether p's gateway captures a range.
func (p *pod) captures(r string) bool {
	p.t.Helper()
	return slices.ContainsFunc(p.status().Capture.Coverage.Capture, netip.MustParsePrefix(r).Overlaps)
}

// TestNodeJoins has a node join and leave while strict pods talk. No request fails. What goes
// to the new node before its gateway knows is counted, and said to be a danger; after
// 'refresh', or by 'watch', it is encrypted or refused. It does not run beside other tests,
// which would lack the node as well.
func TestNodeJoins(t *testing.T) {
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, []string{"--mode=strict"}, a, b)
	load := startLoad(a, b.addr(portTraffic))
	load.more(10)

	t.Cleanup(func() { nodes(context.WithoutCancel(t.Context()), t, "2") })
	nodes(t.Context(), t, "3")
	late := startPods(t, ns, podSpec("late", node3))[0]
	before := a.status().Capture.CaptureCounts
	a.talk(late.addr(portEcho), "canary-unknown")
	s := a.status().Capture
	if s.OutsideConnections != before.OutsideConnections+1 || !slices.ContainsFunc(s.OutsideNetworks, func(n api.OutsideNetwork) bool {
		return n.Network == netip.MustParsePrefix(node3Pods)
	}) {
		t.Errorf("a connection to a node that is not known is not counted: %+v", s)
	}
	out := tryGateway(t, "-n", ns, "status", a.String())
	for _, text := range []string{node3, node3Pods, "kubectl gateway refresh pod/a -n " + ns} {
		if !strings.Contains(out.stdout+out.stderr, text) {
			t.Errorf("status does not say %q:\n%s%s", text, out.stdout, out.stderr)
		}
	}

	if out := gateway(t, "-n", ns, "refresh", a.String(), b.String()); !strings.Contains(out.stdout+out.stderr, node3Pods) {
		t.Errorf("refresh does not name what is added: %s%s", out.stdout, out.stderr)
	}
	if r := a.app("talk", late.addr(portEcho), "canary-refused"); r.Error == "" {
		t.Errorf("a pod without a gateway is reached from a strict one: %+v", r)
	}
	enable(t, []string{"--mode=strict"}, late)
	wire := record(t, a, late)
	a.talk(late.addr(portEcho), "canary-known")
	wire.stop()
	if wire.contains("canary-known") || wire.contains("canary-refused") || wire.count(tlsData) == 0 {
		t.Error("connections to the new node are not encrypted")
	}
	if out := gateway(t, "-n", ns, "refresh", a.String()); !strings.Contains(out.stdout+out.stderr, "unchanged") {
		t.Errorf("a second refresh: %s%s", out.stdout, out.stderr)
	}

	startWatch(t, "-n", ns)
	kubectl(t, "-n", ns, "delete", "pod", "late", "--force", "--grace-period=0")
	for _, n := range []string{"2", "3", "2"} {
		nodes(t.Context(), t, n)
		for _, p := range []*pod{a, b} {
			eventually(t, fmt.Sprintf("%s knows %s nodes", p, n), func() error {
				if p.captures(node3Pods) != (n == "3") {
					return fmt.Errorf("it captures %v", p.status().Capture.Coverage.Capture)
				}
				return nil
			})
		}
		load.more(10)
	}
	load.stopClean(b)
}

// TestNodeThatLiesAboutAddresses has a node, without a kubelet of ours, that says of its pod that it has the address
// of a pod of another node, or of loopback, and then that its own range has it. It runs beside no other test, which would
// know the node as well.
func TestNodeThatLiesAboutAddresses(t *testing.T) {
	ns := namespace(t)
	victim := startPods(t, ns, podSpec("victim", node1))[0]
	t.Cleanup(func() {
		runCommand(context.WithoutCancel(t.Context()), t, "", "kubectl", "delete", "node", "liar", "--ignore-not-found")
	})
	apply(t, ns, "apiVersion: v1\nkind: Node\nmetadata: {name: liar}\n", mustYAML(t, podSpec("liar", "liar")))
	claim := func(address, want string) {
		t.Helper()
		kubectl(t, "-n", ns, "patch", "pod", "liar", "--subresource=status", "--type=merge", "-p",
			fmt.Sprintf(`{"status": {"phase": "Running", "podIP": %q, "podIPs": [{"ip": %[1]q}]}}`, address))
		for _, delivery := range []string{"secret", "csr"} {
			out := tryGateway(t, "-n", ns, "enable", "pod/liar", "--delivery="+delivery, "--timeout=20s")
			if out.code == 0 || !strings.Contains(out.stderr, want) {
				t.Errorf("%s with delivery %s: exit %d, %s%s", address, delivery, out.code, out.stdout, out.stderr)
			}
		}
	}
	claim("127.0.0.1", "address 127.0.0.1")
	claim("169.254.169.254", "address 169.254.169.254")
	foreign := "and its address " + victim.ips[0].String() + " lies in the range of the pods of " + node1
	claim(victim.ips[0].String(), foreign)
	enable(t, nil, victim)
	// A kubelet may write that as long as its node has no range.
	kubectl(t, "patch", "node", "liar", "--type=merge", "-p", `{"spec": {"podCIDR": "0.0.0.0/0", "podCIDRs": ["0.0.0.0/0", "::/0"]}}`)
	claim(victim.ips[0].String(), foreign)
	if names := strings.Fields(kubectl(t, "-n", ns, "get", "secrets", "-o", "name")); len(names) != 0 {
		t.Errorf("Secrets are left: %v", names)
	}
	kubectl(t, "-n", ns, "delete", "pod", "liar", "--force", "--grace-period=0")
}
