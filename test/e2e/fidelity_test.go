//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/test/fidelity"
)

// fidelityPage has the differences that are known, as rows of a table.
const fidelityPage = "../../docs/FIDELITY.md"

// fidelityPair is two pods of TestFidelity, on two nodes.
type fidelityPair struct {
	// setting is what is between the pods when one dials the other, by the names of
	// fidelity.Settings; service is what is between them when it dials a Service.
	setting, service string
	// flags are those of enable, for the pods that get a gateway.
	flags    []string
	gateways int
}

// fidelityPairs are those that show the most: the wires that pods get by themselves, and the other
// ones. The rest is compared in network namespaces (test/fidelity).
func fidelityPairs() []fidelityPair {
	// The range of no node has the second addresses of the clients.
	const pods = "--capture-cidr=10.244.0.0/16,fd00:10:244::/48"
	return []fidelityPair{
		{fidelity.Direct, fidelity.Direct, nil, 0},
		{"port", "inband", []string{pods}, 2},
		{"inband strict", "inband strict", []string{"--wire=inband", "--mode=strict", pods}, 2},
		{"plaintext port", "plaintext inband", nil, 1},
	}
}

// throughService says which scenarios are also played through a ClusterIP: what an application
// learns from connect(2), and how connections end.
func throughService(name string) bool {
	return slices.ContainsFunc([]string{
		"connect, ", "connect without waiting, ", "closed port", "connect again after a refusal", "bound port, ", "Fast Open to a closed port",
		"half-close, by", "reset, by", "close with unread data, by", "server speaks first",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// TestFidelity plays the scenarios of test/fidelity between pods of the cluster, with gateways and without:
// to the pod itself and through a Service. What differs is what docs/FIDELITY.md says.
func TestFidelity(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	routes := newNodeRoutes(t)
	// Node-2 gives the first and the last address of its range to no pod.
	places := fidelity.Places{
		Dead4: netip.MustParseAddr("10.244.2.255"), Dead6: netip.MustParseAddr("fd00:10:244:2:ffff::1"),
		Unreachable4: netip.MustParseAddr("10.244.2.0"), Unreachable6: netip.MustParseAddr("fd00:10:244:2:ffff::2"),
	}
	routes.add(node1, "blackhole %s", places.Dead4, places.Dead6)
	routes.add(node1, "unreachable %s", places.Unreachable4, places.Unreachable6)

	pairs := fidelityPairs()
	var specs []*corev1.Pod
	for i := range pairs {
		specs = append(specs, podSpec(fmt.Sprint("a", i), node1), podSpec(fmt.Sprint("b", i), node2))
	}
	pods := startPods(t, ns, specs...)
	toPods := fidelityPlay{to: "pods", setting: func(p fidelityPair) string { return p.setting }}
	toServices := fidelityPlay{to: "services", setting: func(p fidelityPair) string { return p.service }}
	both := []*fidelityPlay{&toPods, &toServices}
	for _, p := range both {
		p.found = make([]map[string][]string, len(pairs))
	}
	for i, pair := range pairs {
		a, b := pods[2*i], pods[2*i+1]
		here := places
		here.Second4 = netip.AddrFrom4([4]byte{10, 244, 200, byte(i)})
		here.Second6 = netip.MustParseAddr(fmt.Sprintf("fd00:10:244:200::%d", i))
		routes.lead(a, here.Second4, here.Second6)
		here.Other4 = netip.AddrFrom4([4]byte{10, 245, 200, byte(i)})
		here.Other6 = netip.MustParseAddr(fmt.Sprintf("fd00:10:245:200::%d", i))
		routes.lead(a, here.Other4, here.Other6)
		toPods.stages = append(toPods.stages, &fidelity.Stage{
			Client: startAgent(a), Server: startAgent(b), Places: here,
			Cut: func() {
				routes.add(node1, "blackhole %s", b.ips...)
				routes.add(node2, "blackhole %s", a.ips...)
			},
			Mend: func() {
				routes.remove(node1, "blackhole %s", b.ips...)
				routes.remove(node2, "blackhole %s", a.ips...)
			},
		})
		toServices.stages = append(toServices.stages, &fidelity.Stage{Client: startAgent(a), Server: startAgent(b), Places: here, Only: throughService})
		if pair.gateways > 0 {
			enable(t, pair.flags, pods[2*i:2*i+pair.gateways]...)
		}
	}
	for try := 1; ; try++ {
		for i, service := range toServices.stages {
			service.Server.Service4, service.Server.Service6 = exposePorts(pods[2*i], pods[2*i+1], try, service.Ports())
		}
		var all sync.WaitGroup
		for i := range pairs {
			all.Go(func() { toPods.play(i); toServices.play(i) })
		}
		all.Wait()
		again := 0
		for _, p := range both {
			unknown := fidelity.Unknown(p.known(t, pairs), p.transcripts(pairs))
			for i := range pairs {
				p.stages[i] = p.stages[i].Again(unknown)
			}
			if again += len(unknown); len(unknown) > 0 {
				t.Logf("to %s, other than expected: %q", p.to, unknown)
			}
		}
		if again == 0 || try == fidelity.Tries {
			break
		}
	}
	for _, p := range both {
		bySetting := p.transcripts(pairs)
		if dir := os.Getenv("FIDELITY_TRANSCRIPTS"); dir != "" {
			must.Do(t, fidelity.Write(filepath.Join(dir, p.to), bySetting))
		}
		if diff := gocmp.Diff(p.known(t, pairs), fidelity.Compare(bySetting)); diff != "" {
			t.Errorf("to %s (-%s +found):\n%s", p.to, fidelityPage, diff)
		}
	}
}

// fidelityPlay is what TestFidelity plays to pods, or to Services.
type fidelityPlay struct {
	to      string
	setting func(fidelityPair) string
	// stages and found are those of each pair.
	stages []*fidelity.Stage
	found  []map[string][]string
}

// play plays what the pair with index i plays next.
func (p *fidelityPlay) play(i int) {
	found := unhurried(p.stages[i].Transcripts())
	if p.found[i] == nil {
		p.found[i] = found
	}
	maps.Copy(p.found[i], found)
}

// transcripts returns what was found, by setting.
func (p *fidelityPlay) transcripts(pairs []fidelityPair) map[string]map[string][]string {
	bySetting := make(map[string]map[string][]string)
	for i, pair := range pairs {
		bySetting[p.setting(pair)] = p.found[i]
	}
	return bySetting
}

// known returns what the page says about what was played.
func (p *fidelityPlay) known(t *testing.T, pairs []fidelityPair) []fidelity.Difference {
	return knownDifferences(t, p.transcripts(pairs))
}

// unhurried leaves out how long an unreachable host takes: a router answers a sender with no more than a few
// ICMP messages a second, and a SYN without an answer is sent again.
func unhurried(played map[string][]string) map[string][]string {
	for name, lines := range played {
		if !strings.HasPrefix(name, "unreachable host, ") {
			continue
		}
		for i := range lines {
			if said, _, ok := strings.Cut(lines[i], "UNREACH, "); ok {
				lines[i] = said + "UNREACH"
			}
		}
	}
	return played
}

// knownDifferences returns what the page says about settings and scenarios.
func knownDifferences(t *testing.T, played map[string]map[string][]string) (known []fidelity.Difference) {
	t.Helper()
	for row := range strings.Lines(string(must.Get(os.ReadFile(fidelityPage))(t))) {
		d, ok := fidelity.ParseRow(row)
		if _, was := played[fidelity.Direct][d.Scenario]; !ok || !was {
			continue
		}
		d.Reason = ""
		d.Where = slices.DeleteFunc(slices.Clone(d.Where), func(s string) bool { return played[s] == nil })
		if len(d.Where) > 0 {
			known = append(known, d)
		}
	}
	return known
}

// startAgent starts an agent as a process of a pod. The API server is not on the way to it: a stream through it
// ends when a busy machine pauses.
func startAgent(p *pod) *fidelity.Host {
	p.t.Helper()
	inside := p.enter(p.t)
	cmd := inside.command(inside.pid, "agent")
	in, out := must.Get(cmd.StdinPipe())(p.t), must.Get(cmd.StdoutPipe())(p.t)
	var said lockedBuffer
	cmd.Stderr = &said
	must.Do(p.t, cmd.Start())
	p.t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // the end of the test's context ends it, too
		if text := said.String(); text != "" {
			p.t.Errorf("the agent in %s: %s", p, text)
		}
	})
	return fidelity.NewHost(p.ips[0], p.ips[1], in, out)
}

// exposePorts makes a Service of a pod's ports for one of the tries, and waits until another pod reaches it. It returns
// its addresses.
func exposePorts(from, to *pod, try int, ports []uint16) (v4, v6 netip.Addr) {
	from.t.Helper()
	name := fmt.Sprintf("%s-%d", to.name, try)
	var list strings.Builder
	for _, port := range append(ports, portEcho) {
		fmt.Fprintf(&list, "  - {name: p%[1]d, port: %[1]d}\n", port)
	}
	apply(from.t, to.namespace, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: %[2]s}
  ports:
%[3]s`, name, to.name, &list))
	ips := get[corev1.Service](from.t, "-n", to.namespace, "service", name).Spec.ClusterIPs
	for _, ip := range ips {
		awaitApp(from.t, "the Service "+name, from.app, "talk", net.JoinHostPort(ip, strconv.Itoa(portEcho)), "ready")
	}
	return netip.MustParseAddr(ips[0]), netip.MustParseAddr(ips[1])
}

// nodeRoutes are routes of the nodes that end with the test.
type nodeRoutes struct {
	t    *testing.T
	mu   sync.Mutex
	left map[nodeRoute]bool
}

// lead gives a pod on node-1 further addresses, and has the nodes lead to them. Without a preferred lifetime
// the kernel does not choose one by itself.
func (r *nodeRoutes) lead(p *pod, v4, v6 netip.Addr) {
	p.t.Helper()
	inside := p.enter(p.t)
	for _, ip := range []netip.Addr{v4, v6} {
		inside.ip("addr", "add", netip.PrefixFrom(ip, ip.BitLen()).String(), "dev", "eth0", "valid_lft", "100000", "preferred_lft", "0")
	}
	r.add(node1, "%s dev "+p.link().Device, v4, v6)
	r.add(node2, "%s via 172.30.0.11", v4)
	r.add(node2, "%s via fd00:172:30::11", v6)
}

// nodeRoute is a route as ip(8) takes it, and the node that has it.
type nodeRoute struct{ node, route string }

func newNodeRoutes(t *testing.T) *nodeRoutes {
	r := &nodeRoutes{t: t, left: make(map[nodeRoute]bool)}
	t.Cleanup(func() {
		for route := range r.left {
			r.ip("del", route)
		}
	})
	return r
}

// add adds the same route for several addresses, each in the place of %s.
func (r *nodeRoutes) add(node, format string, to ...netip.Addr) {
	for _, ip := range to {
		route := nodeRoute{node, fmt.Sprintf(format, ip)}
		r.mu.Lock()
		r.left[route] = true
		r.mu.Unlock()
		r.ip("replace", route)
	}
}

func (r *nodeRoutes) remove(node, format string, to ...netip.Addr) {
	for _, ip := range to {
		route := nodeRoute{node, fmt.Sprintf(format, ip)}
		r.mu.Lock()
		delete(r.left, route)
		r.mu.Unlock()
		r.ip("del", route)
	}
}

func (r *nodeRoutes) ip(do string, route nodeRoute) {
	args := []string{"exec", route.node, "--", "ip", "-4", "route", do}
	if strings.Contains(route.route, ":") {
		args[4] = "-6"
	}
	// The end of the test comes after that of its context, and stages cut in goroutines of their own.
	cmd := exec.Command(os.Getenv("KUBE_GATEWAY_CLUSTER"), append(args, strings.Fields(route.route)...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Errorf("%v: %v: %s", cmd.Args, err, out)
	}
}
