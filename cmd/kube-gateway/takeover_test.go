//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// successor changes a gateway to one that takes over from another one of its pod: it runs in a container
// of its own.
func (l *lab) successor(s gatewaylab.Spec, container string) gatewaylab.Spec {
	l.t.Helper()
	s.Cgroup, s.Dir = filepath.Join(s.Node.PodCgroup, container), l.t.TempDir()
	if err := os.Mkdir(s.Cgroup, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		l.t.Fatal(err)
	}
	configure := s.Configure
	return with(s, func(c *api.Config) {
		if configure != nil {
			configure(c)
		}
		c.Replaces = "kube-gateway"
	})
}

// takeOver has a gateway in standby take over from another one, by the commands that the plugin runs.
func takeOver(t *testing.T, from, to *gatewaylab.Gateway, drain time.Duration) *api.Status {
	t.Helper()
	s, err := tryTakeOver(t, to, ask[api.Handover](t, from, "hand-over", "--drain-timeout", drain.String()))
	if err != nil {
		t.Fatalf("taking over: %v\nfrom %s\nto %s", err, from.Output(), to.Output())
	}
	return s
}

func tryTakeOver(t *testing.T, g *gatewaylab.Gateway, h *api.Handover) (*api.Status, error) {
	t.Helper()
	line := must.Get(json.Marshal(h))(t)
	return tryAsk[api.Status](t, g, bytes.NewReader(append(line, '\n')), "take-over")
}

// TestTakeOver replaces the gateway of a pod several times, under traffic in both directions: nothing
// fails, no byte is lost, doubled or altered, and none is sent in plaintext. Totals go on. Where connect(2) waits for so long
// that the application's kernel asks again, both gateways may dial: the server then sees a connection that is never used.
func TestTakeOver(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
			t.Run(fmt.Sprintf("%s %s", mode, wire), func(t *testing.T) {
				l := newLab(t)
				if mode == api.Permissive && wire == api.WireInband {
					l.sendCookies()
				}
				spec := func(n *netlab.Node) gatewaylab.Spec {
					s := with(quiet(l.spec(n)), func(c *api.Config) { c.Wire = wire })
					s.Mode = mode
					return s
				}
				wired := l.record(l.a)
				g := l.gateway(spec(l.a))
				l.gateway(spec(l.b))
				out := l.traffic(l.a, 200*time.Millisecond, l.b.Addr(portTraffic), l.b.Addr6(portTraffic))
				in := l.traffic(l.b, 200*time.Millisecond, l.a.Addr(portTraffic), l.a.Addr6(portTraffic))
				for i := range 4 {
					before := flowing(t, g)
					next := l.gateway(l.successor(spec(l.a), fmt.Sprint("gateway-", i)))
					started := time.Now()
					s := takeOver(t, g, next, time.Minute)
					t.Logf("the switch took %v; ports %+v", time.Since(started), s.Listeners)
					if s.State != api.Ready || s.Traffic.Outbound.Encrypted < before.Traffic.Outbound.Encrypted ||
						s.Traffic.Inbound.Encrypted < before.Traffic.Inbound.Encrypted || s.Capture.Captured < before.Capture.Captured {
						t.Errorf("before: %+v, %+v; after: %s, %+v, %+v", before.Traffic, before.Capture.CaptureCounts, s.State, s.Traffic, s.Capture.CaptureCounts)
					}
					old := g
					g = next
					flowing(t, g)
					if err := ended(t, old); err != nil {
						t.Errorf("the old gateway: %v", err)
					}
					if words, err := old.LastWords(); err != nil || words != api.HandedOverMessage {
						t.Errorf("the old gateway's last words are %q, %v", words, err)
					}
				}
				for _, s := range []trafficSummary{out.stop(), in.stop()} {
					s.perfect(t)
				}
				for _, n := range []*netlab.Node{l.a, l.b} {
					if s := l.served(n); s.Resets != 0 || s.Complete == 0 {
						t.Errorf("the servers of %v saw %+v", n.IP4, s)
					}
				}
				s := status(t, g)
				// Where a handshake is lost to the switch, the next SYN begins anew.
				unused := uint64(0)
				for _, u := range s.Unencrypted {
					if u.Direction == api.Inbound && u.Reason == "no_handshake" {
						unused += u.Connections
					}
				}
				if n := s.Traffic; n.Outbound.Plaintext+n.Outbound.Refused+n.Inbound.Plaintext+n.Inbound.Refused != unused {
					t.Errorf("not all connections were encrypted: %+v, %+v", n, s.Unencrypted)
				}
				wired.encrypted(t)
				disable(t, l.a, g, time.Minute)
			})
		}
	}
}

// sendCookies has every SYN-ACK be a SYN cookie, so that a listener remembers nothing of a handshake.
func (l *lab) sendCookies() {
	l.t.Helper()
	for _, n := range []*netlab.Node{l.a, l.b} {
		must.Do(l.t, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0) }))
	}
}

// flowing waits until new connections are carried both ways, and returns the status.
func flowing(t *testing.T, g *gatewaylab.Gateway) (s *api.Status) {
	t.Helper()
	before := status(t, g).Traffic
	awaitStatus(t, g, "traffic flows", func(now *api.Status) bool {
		s = now
		return now.Traffic.Outbound.Encrypted >= before.Outbound.Encrypted+50 && now.Traffic.Inbound.Encrypted >= before.Inbound.Encrypted+50
	})
	return s
}

// TestTakeOverDrains: a connection of the old gateway goes on for as long as asked, and is then reset.
// What the applications see of it stays as it was. Both gateways say what they are.
func TestTakeOverDrains(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	out, in := l.hold(l.a, l.b.Addr(portEcho)), l.hold(l.b, l.a.Addr(portEcho))
	next := l.gateway(l.successor(l.spec(l.a), "gateway-1"))
	if s := status(t, next); s.State != api.Standby || s.Capture.Captured != 0 {
		t.Errorf("before: %s, %+v", s.State, s.Capture)
	}
	s := takeOver(t, g, next, time.Hour)
	if n := s.Traffic; n.Outbound.Active != 1 || n.Inbound.Active != 1 || n.Outbound.Encrypted != 1 {
		t.Errorf("the new gateway counts %+v", n)
	}
	if s := status(t, g); s.State != api.Draining || s.Reason != "handed over to another gateway" {
		t.Errorf("the old gateway is %s, %q", s.State, s.Reason)
	}
	for _, h := range []*held{out, in} {
		h.say("while the new gateway serves")
	}
	l.talk(l.a, l.b.Addr(portEcho))
	l.talk(l.b, l.a.Addr(portEcho))
	if s := status(t, g).Traffic; s.Outbound.Encrypted != 1 || s.Inbound.Encrypted != 1 {
		t.Errorf("the old gateway still serves: %+v", s)
	}
	edges := ask[api.Edges](t, next, "edges")
	connections := uint64(0)
	for _, e := range edges.Edges {
		connections += e.Connections
	}
	if connections != 4 {
		t.Errorf("the edges are %+v", edges.Edges)
	}
	in.end()
	// disable of the old one hastens it.
	report := ask[api.DisableReport](t, g, "disable", "--drain-timeout", "100ms")
	if report.Aborted != 1 || report.Drained != 1 || len(report.Left) != 0 {
		t.Errorf("the old gateway's report is %+v", report)
	}
	if err := ended(t, g); err != nil {
		t.Error(err)
	}
	awaitStatus(t, next, "the totals are complete", func(s *api.Status) bool {
		return s.Traffic.Outbound.Active+s.Traffic.Inbound.Active == 0 && s.Traffic.Outbound.Encrypted == 2 && s.Traffic.Inbound.Encrypted == 2
	})
	disable(t, l.a, next, time.Minute)
}

// TestTakeOverHalfOpen: an in-band handshake that the old gateway has answered, and whose last packet is
// late, ends with it, be it that a SYN cookie is all that is known of it.
func TestTakeOverHalfOpen(t *testing.T) {
	for _, cookies := range []bool{false, true} {
		t.Run(fmt.Sprintf("cookies %t", cookies), func(t *testing.T) { takeOverHalfOpen(t, cookies) })
	}
}

func takeOverHalfOpen(t *testing.T, cookies bool) {
	l := newLab(t)
	if cookies {
		l.sendCookies()
	}
	spec := strict(with(l.spec(l.a), func(c *api.Config) { c.Wire = api.WireInband }))
	wired := l.record(l.a)
	g := l.gateway(spec)
	l.gateway(strict(with(l.spec(l.b), func(c *api.Config) { c.Wire = api.WireInband })))
	next := l.gateway(l.successor(spec, "gateway-1"))
	l.a.NFT("table inet t { chain c { type filter hook prerouting priority -150; iifname eth0 tcp dport 9000 tcp flags & syn == 0 drop; }; }")
	talk := l.b.Start(netlab.Command{
		Cgroup: l.b.AppCgroup, Path: l.app, Args: []string{"talk", l.a.Addr(portEcho), "hello"}, Env: []string{"DIAL_TIMEOUT=1m"},
	})
	answered := func(least int) {
		t.Helper()
		eventually(t, "the SYN is answered", func() error {
			if n := wired.begins(addrPort(t, l.a.Addr(portEcho))); n < least {
				return fmt.Errorf("there are %d SYN-ACKs", n)
			}
			return nil
		})
	}
	answered(1)
	takeOver(t, g, next, time.Minute)
	if !cookies {
		// Once more, by the old one.
		answered(wired.begins(addrPort(t, l.a.Addr(portEcho))) + 1)
	}
	l.a.NFT("flush ruleset")
	if r := l.result(talk); r.Error != "" || r.Received != "hello\n" {
		t.Errorf("a connection that was half open: %+v", r)
	}
	if n := wired.begins(addrPort(t, l.a.Addr(portEcho))); cookies && n != 1 {
		t.Errorf("the peer's gateway dialled %d times", n)
	}
	if err := ended(t, g); err != nil {
		t.Error(err)
	}
	awaitStatus(t, next, "the old one has carried it", func(s *api.Status) bool { return s.Traffic.Inbound.Encrypted == 1 && s.Traffic.Inbound.Refused == 0 })
}

// TestTakeOverOtherSettings: a permissive gateway becomes a strict one that fails closed, and back.
// Metrics are served at the same address all the time.
func TestTakeOverOtherSettings(t *testing.T) {
	l := newLab(t)
	l.gateway(l.spec(l.b))
	spec := func(mode api.Mode) gatewaylab.Spec {
		s := with(l.spec(l.a), func(c *api.Config) { c.MetricsAddr = ":18500" })
		s.Mode = mode
		return s
	}
	g := l.gateway(spec(api.Permissive))
	for i, mode := range []api.Mode{api.Strict, api.Strict, api.Permissive, api.Permissive} {
		next := l.gateway(l.successor(spec(mode), fmt.Sprint("gateway-", i)))
		takeOver(t, g, next, time.Minute)
		conn, err := l.a.Dial("tcp", netip.AddrPortFrom(l.a.IP4, 18500).String())
		if err != nil {
			t.Errorf("metrics: %v", err)
		} else {
			conn.Close()
		}
		l.talk(l.a, l.b.Addr(portEcho))
		r := l.client(l.b, l.b.OtherCgroup, "talk", l.a.Addr(portEcho), "hello")
		if refused := r.Error != ""; refused != (mode == api.Strict) {
			t.Errorf("%s: plaintext from outside: %+v", mode, r)
		}
		if err := ended(t, g); err != nil {
			t.Errorf("the old gateway: %v\n%s", err, g.Output())
		}
		g = next
	}
	disable(t, l.a, g, time.Minute)
}

// TestTakeOverKeepsRevocations: who was revoked stays refused, although nobody tells the new gateway.
func TestTakeOverKeepsRevocations(t *testing.T) {
	l := newLab(t)
	g, peer := l.gateway(strict(l.spec(l.a))), l.gateway(strict(l.spec(l.b)))
	l.talk(l.a, l.b.Addr(portEcho))
	told := l.revoke(g, peer)
	l.refused(l.a, l.b.Addr(portEcho), "before")
	for i := range 2 {
		next := l.gateway(l.successor(strict(l.spec(l.a)), fmt.Sprint("gateway-", i)))
		s := takeOver(t, g, next, time.Minute)
		expect.Equal(t, "revocations", told.Cert.Revocations, s.Cert.Revocations)
		l.refused(l.a, l.b.Addr(portEcho), "out of the pod")
		l.refused(l.b, l.a.Addr(portEcho), "into the pod")
		g = next
	}
	renew(t, peer, signer(l.authority, l.spec(l.b), nil))
	l.talk(l.a, l.b.Addr(portEcho))
}

// relay stands between two gateways that meet, and lets one message pass at a time. It knows
// what the plugin knows.
type relay struct {
	t        *testing.T
	from, to *handoff.Neighbour
}

// relay has a gateway take over from another one through a relay. answered gets what becomes of it.
func (l *lab) relay(from, to *gatewaylab.Gateway) (r *relay, answered chan error) {
	l.t.Helper()
	var offer *handoff.Offer
	must.Do(l.t, l.a.Do(func() (err error) {
		offer, err = handoff.NewOffer()
		return err
	}))
	answered = make(chan error, 1)
	go func() {
		_, err := tryTakeOver(l.t, to, &offer.Handover)
		answered <- err
	}()
	r = &relay{t: l.t}
	r.to = must.Get(offer.Accept(l.t.Context()))(l.t)
	l.t.Cleanup(r.to.Close)
	h := ask[api.Handover](l.t, from, "hand-over", "--drain-timeout", "1m")
	must.Do(l.t, l.a.Do(func() (err error) {
		r.from, err = handoff.Meet(l.t.Context(), h)
		return err
	}))
	l.t.Cleanup(r.from.Close)
	return r, answered
}

// pass passes a message on.
func (r *relay) pass(from, to *handoff.Neighbour) *handoff.Message {
	r.t.Helper()
	m, files := r.take(from)
	must.Do(r.t, to.Send(m, files...))
	return m
}

// take takes a message.
func (r *relay) take(from *handoff.Neighbour) (*handoff.Message, []*os.File) {
	r.t.Helper()
	m, files, err := from.Receive(time.Now().Add(patience))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	return m, files
}

// TestDying kills one of the two gateways at each step of taking over. The other one serves, the old one
// without a failure if it is the one that lives. Strict mode lets nothing through in plaintext meanwhile;
// permissive mode may, and fails no connection but those that were open.
func TestDying(t *testing.T) {
	type death struct {
		l        *lab
		old, new *gatewaylab.Gateway
	}
	// Each step ends with the death of one: the new one may be in standby, have met the old one, or
	// have attached its programs.
	steps := map[string]struct {
		oldLives bool
		run      func(d *death, r *relay)
		// meets says that the two meet through a relay.
		meets bool
	}{
		"new, standby": {oldLives: true, run: func(d *death, _ *relay) { d.new.Stop() }},
		"old, before":  {run: func(d *death, _ *relay) { d.old.Stop() }},
		"new, met": {oldLives: true, meets: true, run: func(d *death, r *relay) {
			r.pass(r.to, r.from)
			r.take(r.from)
			d.new.Stop()
			r.from.Close()
		}},
		"new, attached": {oldLives: true, meets: true, run: func(d *death, r *relay) {
			r.pass(r.to, r.from)
			r.pass(r.from, r.to)
			if m, _ := r.take(r.to); !m.Attached {
				t.Errorf("the new one says %+v", m)
			}
			d.new.Stop()
			r.from.Close()
		}},
		"old, met": {meets: true, run: func(d *death, r *relay) {
			r.pass(r.to, r.from)
			r.pass(r.from, r.to)
			d.old.Stop()
			r.to.Close()
		}},
		"old, attached": {meets: true, run: func(d *death, r *relay) {
			r.pass(r.to, r.from)
			r.pass(r.from, r.to)
			r.take(r.to)
			d.old.Stop()
			r.to.Close()
		}},
		"old, withdrawn": {meets: true, run: func(d *death, r *relay) {
			r.pass(r.to, r.from)
			r.pass(r.from, r.to)
			r.pass(r.to, r.from)
			r.take(r.from)
			d.old.Stop()
			r.to.Close()
		}},
	}
	for name, step := range steps {
		for wire, mode := range map[api.Wire]api.Mode{api.WirePort: api.Strict, api.WireInband: api.Strict, api.WireAuto: api.Permissive} {
			t.Run(fmt.Sprintf("%s %s", wire, name), func(t *testing.T) {
				l := newLab(t)
				spec := func(n *netlab.Node) gatewaylab.Spec {
					s := with(quiet(l.spec(n)), func(c *api.Config) { c.Wire = wire })
					s.Mode = mode
					return s
				}
				wired := l.record(l.a)
				d := &death{l: l, old: l.gateway(spec(l.a))}
				l.gateway(spec(l.b))
				out := l.traffic(l.a, 200*time.Millisecond, l.b.Addr(portTraffic), l.b.Addr6(portTraffic))
				in := l.traffic(l.b, 200*time.Millisecond, l.a.Addr(portTraffic))
				flowing(t, d.old)
				d.new = l.gateway(l.successor(spec(l.a), "gateway-1"))
				var r *relay
				var answered chan error
				if step.meets {
					r, answered = l.relay(d.old, d.new)
				}
				step.run(d, r)
				lives := d.new
				if step.oldLives {
					lives = d.old
				} else if step.meets {
					if err := <-answered; err != nil {
						t.Errorf("taking over: %v", err)
					}
				}
				awaitStatus(t, lives, "the one that lives serves", func(s *api.Status) bool { return s.State == api.Ready })
				flowing(t, lives)
				for _, s := range []trafficSummary{out.stop(), in.stop()} {
					s.undamaged(t)
					if step.oldLives {
						s.perfect(t)
					} else if mode == api.Permissive && s.Failures > 2*openAtOnce*len(s.Targets) {
						// What the worker accepts before it ends with its supervisor is open, too.
						t.Errorf("%d failures: %+v", s.Failures, s.Failed)
					}
				}
				if mode == api.Strict || step.oldLives {
					wired.encrypted(t)
				}
				now := status(t, lives)
				t.Logf("carried by the one that lives: %+v, %+v", now.Traffic, now.Unencrypted)
				disable(t, l.a, lives, time.Minute)
			})
		}
	}
}

// TestTakeOverRefused: without the token nothing happens, and the one that was to take over ends.
func TestTakeOverRefused(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	next := l.gateway(l.successor(strict(l.spec(l.a)), "gateway-1"))
	h := ask[api.Handover](t, g, "hand-over")
	h.Token[0]++
	if _, err := tryTakeOver(t, next, h); err == nil || !strings.Contains(err.Error(), "meeting the other gateway") {
		t.Errorf("with another token: %v", err)
	}
	var exit *exec.ExitError
	if err := ended(t, next); !errors.As(err, &exit) || exit.ExitCode() != api.ExitUnserved {
		t.Errorf("the gateway that was refused ends with %v", err)
	}
	next = l.gateway(l.successor(l.spec(l.a), "gateway-2"))
	earlier := ask[api.Handover](t, g, "hand-over")
	ask[api.Handover](t, g, "hand-over")
	if _, err := tryTakeOver(t, next, earlier); err == nil || !strings.Contains(err.Error(), "reaching the other gateway") {
		t.Errorf("by an earlier offer: %v", err)
	}
	if s := status(t, g); s.State != api.Ready {
		t.Errorf("the gateway is %s", s.State)
	}
	l.talk(l.a, l.b.Addr(portEcho))
	setMode(t, g, api.Strict)
	takeOver(t, g, l.gateway(l.successor(strict(l.spec(l.a)), "gateway-3")), time.Minute)
}

// TestTwoGatewaysTerminate: two gateways of a pod that ends do not wait for each other.
func TestTwoGatewaysTerminate(t *testing.T) {
	l := newLab(t)
	sandbox := filepath.Join(l.a.PodCgroup, "sandbox")
	must.Do(t, os.Mkdir(sandbox, 0o755))
	l.a.Start(netlab.Command{Cgroup: sandbox, Path: l.app, Args: []string{"sleep"}})
	g := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	held := l.hold(l.a, l.b.Addr(portEcho))
	next := l.gateway(l.successor(l.spec(l.a), "gateway-1"))
	takeOver(t, g, next, time.Hour)
	for _, g := range []*gatewaylab.Gateway{g, next} {
		must.Do(t, g.Signal(syscall.SIGTERM))
		says(t, g.Process, "asked to end")
	}
	held.say("until the end")
	l.endApplication(l.a)
	for _, g := range []*gatewaylab.Gateway{g, next} {
		if err := ended(t, g); err != nil {
			t.Error(err)
		}
	}
}
