//go:build linux

package fidelity_test

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/test/fidelity"
)

func TestMain(m *testing.M) {
	netlab.Helpers{"agent": func([]string) int {
		if err := fidelity.Agent(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}}.Run()
	os.Exit(m.Run())
}

// TestFidelity plays all scenarios in every setting. Those that differ from the direct ones are the
// rows of docs/FIDELITY.md, no more and no less.
func TestFidelity(t *testing.T) {
	must.BeRoot(t, "for network namespaces and cgroups")
	gateway := filepath.Join(t.TempDir(), "kube-gateway")
	if out, err := exec.Command("go", "build", "-o", gateway, "../../cmd/kube-gateway").CombinedOutput(); err != nil {
		t.Fatalf("building the gateway: %v\n%s", err, out)
	}
	stages := make(map[string]*fidelity.Stage)
	transcripts := make(map[string]map[string][]string)
	for _, each := range fidelity.Settings() {
		stages[each.Name], transcripts[each.Name] = stage(t, gateway, each), make(map[string][]string)
	}
	known := knownDifferences(t)
	for try := 1; ; try++ {
		play(stages, transcripts)
		unknown := fidelity.Unknown(known, transcripts)
		if len(unknown) == 0 || try == fidelity.Tries {
			break
		}
		t.Logf("to be played again: %q", unknown)
		for name, s := range stages {
			stages[name] = s.Again(unknown)
		}
	}
	found := fidelity.Compare(transcripts)
	t.Logf("%d scenarios, %d differ", len(fidelity.Scenarios()), len(found))
	if dir := os.Getenv("FIDELITY_TRANSCRIPTS"); dir != "" {
		must.Do(t, fidelity.Write(dir, transcripts))
	}
	checkPage(t, found)
}

// play adds what is played on all stages to the transcripts.
func play(stages map[string]*fidelity.Stage, transcripts map[string]map[string][]string) {
	var all sync.WaitGroup
	for name, s := range stages {
		all.Go(func() { maps.Copy(transcripts[name], s.Transcripts()) })
	}
	all.Wait()
}

// stage makes two pods and what a setting puts between them.
func stage(t *testing.T, gateway string, s fidelity.Setting) *fidelity.Stage {
	lab := netlab.New(t, 2)
	a, b := lab.Node(0), lab.Node(1)
	places := fidelity.Places{
		Dead4: netip.MustParseAddr("10.9.0.77"), Dead6: netip.MustParseAddr("fd00:9::77"),
		Unreachable4: netip.MustParseAddr("10.9.0.78"), Unreachable6: netip.MustParseAddr("fd00:9::78"),
		Second4: netip.MustParseAddr("10.9.0.101"), Second6: netip.MustParseAddr("fd00:9::101"),
		Other4: netip.MustParseAddr("10.8.0.1"), Other6: netip.MustParseAddr("fd00:8::1"),
	}
	must.Do(t, a.Do(func() error { return furnish(places) }))
	authority := must.Get(gatewaylab.NewAuthority())(t)
	for _, n := range []*netlab.Node{a, b}[:s.Gateways] {
		g, err := gatewaylab.Start(t.Context(), gatewaylab.Spec{
			Node: n, Program: gateway, Authority: authority, Dir: t.TempDir(), Mode: s.Mode, Log: discard{},
			Configure: func(c *api.Config) { c.Wire = s.Wire },
		})
		must.Do(t, err)
		t.Cleanup(g.Stop)
	}
	here, there := hardware(t, a), hardware(t, b)
	lead := func(toA, toB net.HardwareAddr) {
		must.Do(t, a.Do(func() error { return neighbours(toB, b.IP4, b.IP6) }))
		must.Do(t, b.Do(func() error {
			return neighbours(toA, a.IP4, a.IP6, places.Second4, places.Second6, places.Other4, places.Other6)
		}))
	}
	must.Do(t, b.Do(func() error { return reach(places.Other4, places.Other6) }))
	lead(here, there)
	return &fidelity.Stage{
		Client: host(t, a), Server: host(t, b), Places: places,
		Cut:  func() { lead(nowhere(), nowhere()) },
		Mend: func() { lead(here, there) },
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// nowhere is a hardware address that no interface has.
func nowhere() net.HardwareAddr { return net.HardwareAddr{2, 9, 9, 9, 9, 9} }

// hardware returns the hardware address of a node.
func hardware(t *testing.T, n *netlab.Node) (address net.HardwareAddr) {
	must.Do(t, n.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			address = eth0.Attrs().HardwareAddr
		}
		return err
	}))
	return address
}

// furnish gives the calling thread's namespace its places.
func furnish(p fidelity.Places) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, ip := range []netip.Addr{p.Second4, p.Second6, p.Other4, p.Other6} {
		// Without a preferred lifetime the kernel does not choose the address by itself.
		if err := netlink.AddrAdd(eth0, &netlink.Addr{IPNet: only(ip), Flags: unix.IFA_F_NODAD, ValidLft: 1 << 30}); err != nil {
			return fmt.Errorf("adding a second address: %w", err)
		}
	}
	for _, ip := range []netip.Addr{p.Unreachable4, p.Unreachable6} {
		if err := netlink.RouteAdd(&netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: only(ip)}); err != nil {
			return fmt.Errorf("adding an unreachable host: %w", err)
		}
	}
	return neighbours(nowhere(), p.Dead4, p.Dead6)
}

// reach leads the calling thread's namespace to addresses of another network.
func reach(addresses ...netip.Addr) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, ip := range addresses {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: only(ip)}); err != nil {
			return fmt.Errorf("leading to %v: %w", ip, err)
		}
	}
	return nil
}

func only(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

// neighbours makes packets of the calling thread's namespace to some addresses go to a hardware
// address.
func neighbours(to net.HardwareAddr, addresses ...netip.Addr) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, ip := range addresses {
		if err := netlink.NeighSet(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: to,
		}); err != nil {
			return fmt.Errorf("leading %v to %v: %w", ip, to, err)
		}
	}
	return nil
}

// host starts an agent in a node, as an application of its pod.
func host(t *testing.T, n *netlab.Node) *fidelity.Host {
	stdin, in, err := os.Pipe()
	must.Do(t, err)
	out, stdout, err := os.Pipe()
	must.Do(t, err)
	p := n.Start(netlab.Command{Cgroup: n.AppCgroup, Helper: "agent", Stdin: stdin, Stdout: stdout})
	stdin.Close()
	stdout.Close()
	t.Cleanup(func() {
		in.Close()
		p.Stop()
		out.Close()
		if text := p.Output(); text != "" {
			t.Errorf("agent: %s", text)
		}
	})
	return fidelity.NewHost(n.IP4, n.IP6, in, out)
}

// page is where the differences are written down, between two lines.
const (
	page      = "../../docs/FIDELITY.md"
	pageBegin = "<!-- The rows are checked by test/fidelity; its -update writes all but the last column. -->\n"
	pageEnd   = "<!-- end -->\n"
)

// knownDifferences returns the rows of the page.
func knownDifferences(t *testing.T) (known []fidelity.Difference) {
	for row := range strings.Lines(string(must.Get(os.ReadFile(page))(t))) {
		if d, ok := fidelity.ParseRow(row); ok {
			known = append(known, d)
		}
	}
	return known
}

// checkPage compares the differences with the rows of the page, each of which has a reason that is a
// heading of the page.
func checkPage(t *testing.T, found []fidelity.Difference) {
	content := string(must.Get(os.ReadFile(page))(t))
	head, rest, ok := strings.Cut(content, pageBegin)
	rows, tail, ok2 := strings.Cut(rest, pageEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for differences", page)
	}
	reasons := make(map[string]string)
	for _, d := range knownDifferences(t) {
		reasons[d.Scenario] = d.Reason
	}
	var got strings.Builder
	fmt.Fprintln(&got, "| scenario | where | without a gateway | with gateways | reason |\n| --- | --- | --- | --- | --- |")
	used := make(map[string]bool)
	for _, d := range found {
		d.Reason = reasons[d.Scenario]
		used[d.Reason] = true
		got.WriteString(d.String())
		if !strings.Contains(tail, "\n### "+d.Reason+"\n") {
			t.Errorf("%s: the reason %q is no heading of %s", d.Scenario, d.Reason, page)
		}
	}
	for line := range strings.Lines(tail) {
		if heading, ok := strings.CutPrefix(strings.TrimSpace(line), "### "); ok && !used[heading] {
			t.Errorf("%s: nothing differs because of %q", page, heading)
		}
	}
	if golden.Updating() {
		must.Do(t, os.WriteFile(page, []byte(head+pageBegin+got.String()+pageEnd+tail), 0o644))
		return
	}
	if diff := gocmp.Diff(rows, got.String()); diff != "" {
		t.Errorf("%s (-written down +found), -update writes it anew:\n%s", page, diff)
	}
}
