//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// hold is an application that keeps one connection: it connects to args[0], from args[1] if that is
// there, sends each line of its input there, and prints what comes back. Killed, it resets the
// connection.
func hold(args []string) int {
	var dialer net.Dialer
	if len(args) > 1 {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(args[1]))
	}
	conn, err := dialer.Dial("tcp", args[0])
	if err == nil && len(args) > 1 {
		err = conn.(*net.TCPConn).SetLinger(0)
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	fmt.Println("connected")
	back := bufio.NewReader(conn)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if _, err := fmt.Fprintln(conn, lines.Text()); err != nil {
			fmt.Println("error:", err)
			return 1
		}
		text, err := back.ReadString('\n')
		if err != nil {
			fmt.Println("error:", err)
			return 1
		}
		fmt.Print("received ", text)
	}
	return 0
}

// held is a connection that stays open.
type held struct {
	t       *testing.T
	process *netlab.Process
	input   io.Writer
}

// hold keeps a connection of the application in a pod.
func (l *lab) hold(n *netlab.Node, address string) *held {
	l.t.Helper()
	return l.holdIn(n, n.AppCgroup, address)
}

func (l *lab) holdIn(n *netlab.Node, cgroup string, addresses ...string) *held {
	l.t.Helper()
	read, write := io.Pipe()
	l.t.Cleanup(func() { write.Close() })
	h := &held{t: l.t, input: write,
		process: n.Start(netlab.Command{Cgroup: cgroup, Path: l.self, Args: append([]string{"hold"}, addresses...), Stdin: read})}
	says(l.t, h.process, "connected\n")
	h.say("first")
	return h
}

// say sends a line that must come back.
func (h *held) say(text string) {
	h.t.Helper()
	if _, err := io.WriteString(h.input, text+"\n"); err != nil {
		h.t.Fatal(err)
	}
	says(h.t, h.process, "received "+text+"\n")
}

// setMode changes the mode of a gateway by the command that the plugin runs.
func setMode(t *testing.T, g *gatewaylab.Gateway, mode api.Mode) {
	t.Helper()
	if s := ask[api.Status](t, g, "mode", string(mode)); s.Mode != mode {
		t.Fatalf("the gateway is in mode %s instead of %s", s.Mode, mode)
	}
}

// TestModeSwitch: connections that are open stay as they are, in both modes and
// on the way there and back; new ones follow the mode.
func TestModeSwitch(t *testing.T) {
	l := newLab(t)
	ga := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	encrypted := l.hold(l.a, l.b.Addr(portEcho))
	setMode(t, ga, api.Strict)
	encrypted.say("under strict")
	l.talk(l.a, l.b.Addr(portEcho))
	if s := status(t, ga); s.OnFailure != api.FailOpen || s.Worker.Restarts != 0 {
		t.Errorf("the switch changed more than the mode: %+v", s)
	}
	setMode(t, ga, api.Permissive)
	encrypted.say("and back")
	if n := status(t, ga).Traffic.Outbound; n.Encrypted != 2 || n.Refused != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestModeSwitchWithoutAPeer is the same with a peer that has no gateway: what
// was plaintext stays open, and nothing new leaves in plaintext.
func TestModeSwitchWithoutAPeer(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	plaintext := l.hold(l.a, l.b.Addr(portEcho))
	setMode(t, g, api.Strict)
	plaintext.say("under strict")
	l.refused(l.a, l.b.Addr(portEcho), "a new connection in strict mode")
	connection(t, g, "the refused connection", func(c *api.Connection) bool { return c.Error != "" && !c.Encrypted })
	// The next worker is strict, too.
	killWorker(t, g)
	l.refused(l.a, l.b.Addr(portEcho), "after a restart of the worker")
	setMode(t, g, api.Permissive)
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestAllow: identity rules decide about new inbound connections, also after the
// worker was restarted.
func TestAllow(t *testing.T) {
	l := newLab(t)
	l.gateway(strict(l.spec(l.a))) // does not fall back to plaintext when it is turned away
	gb := l.gateway(l.spec(l.b))
	refused := func(when string) {
		t.Helper()
		l.refused(l.a, l.b.Addr(portEcho), when)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	open := l.hold(l.a, l.b.Addr(portEcho))
	if s := ask[api.Status](t, gb, "allow", "ns/prod/sa/*", "ns/lab/sa/none"); !slices.Equal(s.Allow, []string{"ns/prod/sa/*", "ns/lab/sa/none"}) {
		t.Errorf("the rules are %q", s.Allow)
	}
	refused("with rules for others")
	open.say("still there")
	killWorker(t, gb)
	refused("after a restart of the worker")
	awaitStatus(t, gb, "refusals are counted", func(s *api.Status) bool {
		return s.Traffic.Inbound.NotAllowed == 2 && s.Traffic.Inbound.Refused >= 2
	})
	peer := "spiffe://lab.test/ns/lab/sa/pod-" + l.a.IP4.String()
	connection(t, gb, "the refusal", func(c *api.Connection) bool {
		return c.Direction == api.Inbound && c.Peer == peer && c.Error != "" && c.Reason != ""
	})

	ask[api.Status](t, gb, "allow", "ns/lab/sa/pod-*")
	l.talk(l.a, l.b.Addr(portEcho))
	ask[api.Status](t, gb, "allow", "ns/prod/sa/*")
	refused("with rules for others again")
	if s := ask[api.Status](t, gb, "allow", "--everyone"); s.Allow != nil {
		t.Errorf("the rules are %q", s.Allow)
	}
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestRules: ports, deny and audit change in a running gateway, and hold in the next worker, too.
func TestRules(t *testing.T) {
	l := newLab(t)
	l.gateway(strict(l.spec(l.a)))
	gb := l.gateway(l.spec(l.b))
	port := portEcho
	peer := "ns/lab/sa/pod-*"
	ask[api.Status](t, gb, "allow", fmt.Sprintf("%s:%d", peer, port))
	l.talk(l.a, l.b.Addr(portEcho))
	ask[api.Status](t, gb, "allow", fmt.Sprintf("%s:1-%d", peer, port-1), fmt.Sprintf("%s:%d-65535", peer, port+1))
	l.refused(l.a, l.b.Addr(portEcho), "with rules for other ports")
	denied := api.Rules{Deny: []string{fmt.Sprintf("%s:%d", peer, port)}}
	if s := ask[api.Status](t, gb, "allow", "--everyone", "--deny="+denied.Deny[0]); !s.Rules.Equal(denied) {
		t.Errorf("the rules are %+v", s.Rules)
	}
	l.refused(l.a, l.b.Addr(portEcho), "denied")
	killWorker(t, gb)
	l.refused(l.a, l.b.Addr(portEcho), "denied by the next worker")
	denied.Audit, denied.MaxPerPeer = true, 3
	if s := ask[api.Status](t, gb, "allow", "--everyone", "--deny", denied.Deny[0], "--audit", "--max-connections-per-peer=3"); !s.Rules.Equal(denied) {
		t.Errorf("the rules are %+v", s.Rules)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	if n := status(t, gb).Traffic.Inbound; n.Audited != 1 || n.NotAllowed != 3 {
		t.Errorf("counted %+v", n)
	}
	connection(t, gb, "the audited one", func(c *api.Connection) bool { return c.Reason == "identity would not be allowed" && c.Encrypted })
}

// TestAllowResets: with --existing=reset, open connections that new rules forbid end; without, and
// after other changes, they stay.
func TestAllowResets(t *testing.T) {
	l := newLab(t)
	l.gateway(l.spec(l.a))
	gb := l.gateway(l.spec(l.b))
	open := l.hold(l.a, l.b.Addr(portEcho))
	if s := ask[api.Status](t, gb, "allow", "ns/prod/sa/*"); s.Reset != 0 {
		t.Errorf("%d connections were reset", s.Reset)
	}
	open.say("still there")
	if s := ask[api.Status](t, gb, "allow", "ns/lab/sa/*", "--existing=reset"); s.Reset != 0 {
		t.Errorf("%d connections were reset", s.Reset)
	}
	open.say("allowed again")
	if s := ask[api.Status](t, gb, "allow", "ns/prod/sa/*", "--existing=reset"); s.Reset != 1 || s.Traffic.Inbound.Reset != 1 {
		t.Errorf("%d connections were reset, %+v", s.Reset, s.Traffic.Inbound)
	}
	open.broken("connection reset by peer")
	// The request does not stay with the settings.
	ask[api.Status](t, gb, "allow", "--everyone")
	open = l.hold(l.a, l.b.Addr(portEcho))
	ask[api.Status](t, gb, "allow", "ns/prod/sa/*")
	if s := status(t, gb); s.Reset != 0 || s.Traffic.Inbound.Reset != 1 {
		t.Errorf("%d connections were reset, %+v", s.Reset, s.Traffic.Inbound)
	}
	open.say("left alone")
}

// TestStrictResets: with --existing=reset, strict mode ends what the gateway carries in plaintext,
// and what no gateway carries.
func TestStrictResets(t *testing.T) {
	l := newLab(t)
	before := l.hold(l.a, l.b.Addr(portEcho))
	g := l.gateway(with(l.spec(l.a), func(c *api.Config) { c.Existing = api.ExistingLeave }))
	plaintext := l.hold(l.a, l.b.Addr(portEcho))
	inbound := dial(t, l.b, l.a.Addr(portEcho))
	if s := ask[api.Status](t, g, "mode", "strict"); s.Reset != 0 {
		t.Errorf("%d connections were reset", s.Reset)
	}
	before.say("from before")
	plaintext.say("plaintext")
	s := ask[api.Status](t, g, "mode", "strict", "--existing=reset")
	if s.Reset != 3 || s.Traffic.Outbound.Reset != 1 || s.Existing == nil || s.Existing.Reset != 2 {
		t.Errorf("%d connections were reset, %+v, %+v", s.Reset, s.Traffic.Outbound, s.Existing)
	}
	before.broken("connection abort")
	plaintext.broken("connection reset by peer")
	if err := <-outcome(inbound); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the inbound one: %v", err)
	}
}

// TestBadSettings: what cannot be applied changes nothing.
func TestBadSettings(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	before := ask[api.Status](t, g, "allow", "ns/lab/sa/*")
	for _, args := range [][]string{
		{"mode"}, {"mode", "lenient"}, {"mode", "strict", "strict"}, {"mode", "strict", "--existing=report"}, {"mode", "--everyone"},
		{"allow"}, {"allow", "prod"}, {"allow", "--everyone", "ns/a/sa/b"}, {"allow", "ns/a/sa/b", "ns/*"}, {"allow", "--everyone", "--deny", "ns/a/sa/b:0"},
		{"status", "more"}, {"status", "-o", "xml"}, {"kill"}, {},
	} {
		var stdout, stderr bytes.Buffer
		all := append([]string{"ctl"}, args...)
		if len(args) > 0 {
			all = append(all, "--control-socket", g.Socket())
		}
		if code := run(all, nil, &stdout, &stderr); code != 1 || stdout.Len() != 0 || !strings.HasPrefix(stderr.String(), "error: ") {
			t.Errorf("ctl %q: exit code %d, %q, %q", args, code, stdout.String(), stderr.String())
		}
	}
	after := status(t, g)
	if after.Mode != before.Mode || !slices.Equal(after.Allow, before.Allow) || after.Worker.PID != before.Worker.PID {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// TestStuckWorker: a worker that does not answer is replaced, with the settings
// that were in force.
func TestStuckWorker(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	pid := status(t, g).Worker.PID
	pause(t, pid)
	if s, err := g.Call(t.Context(), control.Request{Op: control.OpMode, Mode: api.Strict}); err == nil || api.Hint(err) == "" {
		t.Errorf("a stopped worker answered: %+v, %v", s, err)
	}
	awaitStatus(t, g, "another worker serves", func(s *api.Status) bool {
		return s.State == api.Ready && s.Worker.PID != pid && s.Mode == api.Permissive
	})
	l.talk(l.a, l.b.Addr(portEcho))
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
		t.Errorf("the stuck worker is still there")
	}
}

// TestChangesAtOnce: requests that come together are carried out one by one.
func TestChangesAtOnce(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	const n = 20
	errs := make(chan error, n)
	for i := range n {
		go func() {
			r := control.Request{Op: control.OpMode, Mode: []api.Mode{api.Strict, api.Permissive}[i%2]}
			if i%4 > 1 {
				r = control.Request{Op: control.OpAllow, Rules: api.Rules{Allow: []string{fmt.Sprintf("ns/lab/sa/pod-%d", i)}}}
			}
			_, err := g.Call(t.Context(), r)
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	setMode(t, g, api.Permissive)
	l.talk(l.a, l.b.Addr(portEcho))
	if s := status(t, g); s.Worker.Restarts != 0 || len(s.Allow) != 1 {
		t.Errorf("afterwards %+v", s)
	}
}

// cover changes what a gateway captures by the command that the plugin runs.
func cover(t *testing.T, g *gatewaylab.Gateway, c api.Cover) (*api.Status, string) {
	t.Helper()
	line := must.Get(json.Marshal(c))(t)
	s, err := tryAsk[api.Status](t, g, bytes.NewReader(append(line, '\n')), "cover")
	if err != nil {
		return nil, err.Error()
	}
	return s, ""
}

// TestCover: a node that joins later is captured as soon as the gateway knows it, and
// counted before. Connections that are open go on.
func TestCover(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	spec.Mode, spec.Capture = api.Strict, []netip.Prefix{netip.MustParsePrefix("10.99.0.0/24")}
	ga := l.gateway(spec)
	l.gateway(l.spec(l.b))
	before := l.hold(l.a, l.b.Addr(portEcho))
	s := status(t, ga)
	network := api.OutsideNetwork{Network: netip.PrefixFrom(l.b.IP4, 24).Masked(), Connections: 1}
	if s.Capture.OutsideConnections != 1 || len(s.Capture.OutsideNetworks) != 1 || s.Capture.OutsideNetworks[0] != network {
		t.Errorf("outside are %d, %v", s.Capture.OutsideConnections, s.Capture.OutsideNetworks)
	}
	next := s.Capture.Coverage
	next.Capture = append(next.Capture, network.Network)
	named := api.Coverage{Exclude: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}
	if _, complaint := cover(t, ga, api.Cover{Coverage: next, Named: named, Seen: "other"}); !strings.Contains(complaint, "changed meanwhile") {
		t.Errorf("made from settings that are not the gateway's: %q", complaint)
	}
	if _, complaint := cover(t, ga, api.Cover{Seen: s.Capture.Named.Fingerprint()}); !strings.Contains(complaint, "no range is to be captured") {
		t.Errorf("no range: %q", complaint)
	}
	s, complaint := cover(t, ga, api.Cover{Coverage: next, Named: named, Seen: s.Capture.Named.Fingerprint()})
	if complaint != "" || s.Capture.Fingerprint != next.Fingerprint() || s.Capture.Named.Fingerprint() != named.Fingerprint() || s.Worker.Restarts != 0 {
		t.Fatalf("%s %+v", complaint, s)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	before.say("still in plaintext")

	// The next worker knows it, too.
	must.Do(t, syscall.Kill(s.Worker.PID, syscall.SIGKILL))
	eventually(t, "a new worker", func() error {
		if n := status(t, ga); n.Worker.Restarts != 1 || n.State != api.Ready {
			return fmt.Errorf("%s after %d restarts", n.State, n.Worker.Restarts)
		}
		return nil
	})
	l.talk(l.a, l.b.Addr(portEcho))
	s = status(t, ga)
	if n := s.Traffic.Outbound; n.Encrypted != 2 || n.Refused != 0 || s.Capture.OutsideConnections != 1 || s.Capture.Fingerprint != next.Fingerprint() {
		t.Errorf("counted %+v, %d outside", n, s.Capture.OutsideConnections)
	}
}
