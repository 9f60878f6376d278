//go:build linux

package proxy

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// wires runs a test with either wire. far opens a listener of an application in the
// server's pod.
func wires(t *testing.T, change func(*Options), run func(t *testing.T, client, server *testPod, far func() net.Listener)) {
	t.Run(api.WirePort, func(t *testing.T) {
		client, server := pair(t, change)
		run(t, client, server, func() net.Listener { return listen(t, netip.AddrPortFrom(server.ip, 0)) })
	})
	t.Run(api.WireInband, func(t *testing.T) {
		client, server, b := inbandPair(t, change)
		run(t, client, server, func() net.Listener { return b.behind(t, server.ip) })
	})
}

// reconfigure changes the settings of a gateway that runs.
func (pod *testPod) reconfigure(change func(*api.Config)) {
	pod.t.Helper()
	config := *pod.options.Config
	change(&config)
	if err := pod.proxy.Update(&config, pod.options.Certificate, pod.options.Roots); err != nil {
		pod.t.Fatal(err)
	}
}

func (pod *testPod) allow(patterns ...string) {
	pod.t.Helper()
	pod.reconfigure(func(c *api.Config) { c.Allow = patterns })
}

func (pod *testPod) rule(rules api.Rules) {
	pod.t.Helper()
	pod.reconfigure(func(c *api.Config) { c.Rules = rules })
}

func ping(t testing.TB, conn net.Conn) {
	t.Helper()
	exchange(t, conn, "ping")
}

func TestIdentityRules(t *testing.T) {
	others := func(o *Options) { o.Config.Allow = []string{"ns/prod/sa/*", "ns/default/sa/other"} }
	wires(t, others, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		destination := applicationAt(t, far(), echo)
		client.dialReset(destination)
		line := server.logged("the refusal", func(c api.Connection) bool { return c.Reason != "" })
		if line.Reason != traffic.IdentityNotAllowed.String() || line.Peer != "spiffe://"+testTrustDomain+"/ns/default/sa/app" ||
			!strings.Contains(line.Error, line.Peer) || line.Received != 0 || line.Destination != destination {
			t.Errorf("logged %+v", line)
		}
		client.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.PeerNotAllowed.String() })

		server.allow("ns/prod/sa/*", "ns/def*/sa/a?p")
		kept := client.dial(destination)
		ping(t, kept)

		server.allow("ns/prod/sa/*")
		ping(t, kept)
		client.dialReset(destination)

		server.allow()
		ping(t, client.dial(destination))
		ping(t, kept)

		eventually(t, "the counts", func() bool {
			got := server.proxy.Traffic().Inbound
			return got.NotAllowed == 2 && got.Refused == 2 && got.Encrypted == 2 && got.Active == 2
		})
	})
}

// Rules with ports are about the port of the application, on either wire.
func TestRulesWithPorts(t *testing.T) {
	wires(t, nil, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		web, admin := applicationAt(t, far(), echo), applicationAt(t, far(), echo)
		at := func(a netip.AddrPort) string { return fmt.Sprintf("ns/default/sa/app:%d", a.Port()) }
		for name, rules := range map[string]api.Rules{
			"allow": {Allow: []string{at(web)}},
			"deny":  {Deny: []string{at(admin)}},
			"both":  {Allow: []string{"ns/default/sa/*"}, Deny: []string{at(admin)}},
		} {
			server.rule(rules)
			before := server.proxy.Traffic().Inbound.NotAllowed
			conn := client.dial(web)
			ping(t, conn)
			hangUp(t, conn)
			client.dialReset(admin)
			eventually(t, name+": the refusal is counted", func() bool { return server.proxy.Traffic().Inbound.NotAllowed == before+1 })
		}
		line := server.logged("the refusal", func(c api.Connection) bool { return strings.Contains(c.Error, "denies") })
		if want := fmt.Sprintf("identity rule %s denies port %d", at(admin), admin.Port()); !strings.Contains(line.Error, want) || line.Destination != admin {
			t.Errorf("logged %+v, want %q", line, want)
		}
	})
}

// With audit, what the rules would refuse is carried, logged and counted.
func TestAudit(t *testing.T) {
	wires(t, nil, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		server.rule(api.Rules{Allow: []string{"ns/prod/sa/*"}, Audit: true})
		conn := client.dial(applicationAt(t, far(), echo))
		ping(t, conn)
		edge := server.oneEdge("the edge", func(e api.Edge) bool { return e.Open == 1 })
		hangUp(t, conn)
		line := server.logged("the connection", func(c api.Connection) bool { return c.Direction == api.Inbound })
		reason := traffic.Audited.String()
		if line.Reason != reason || !line.Encrypted || !strings.Contains(line.Error, line.Peer+": no identity rule allows port") || line.Level != slog.LevelInfo.String() {
			t.Errorf("logged %+v", line)
		}
		edge = server.oneEdge("its end", func(e api.Edge) bool { return e.Open == 0 })
		if edge.Verdict != api.EdgeEncrypted || edge.Reason != reason || edge.Connections != 1 {
			t.Errorf("the edge is %+v", edge)
		}
		if got := server.proxy.Traffic().Inbound; got.Audited != 1 || got.Refused != 0 || got.NotAllowed != 0 || got.Encrypted != 1 {
			t.Errorf("counted %+v", got)
		}
		if all := server.proxy.options.Counters.Unencrypted(); len(all) != 0 {
			t.Errorf("not encrypted: %+v", all)
		}
		// Whom the rules allow is not audited.
		server.rule(api.Rules{Allow: []string{"ns/default/sa/*"}, Audit: true})
		ping(t, client.dial(applicationAt(t, far(), echo)))
		if got := server.proxy.Traffic().Inbound; got.Audited != 1 || got.Encrypted != 2 {
			t.Errorf("counted %+v", got)
		}
	})
}

// TestResetForbidden: what new settings forbid ends when it is asked for, and nothing else.
func TestResetForbidden(t *testing.T) {
	wires(t, nil, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		web, admin := applicationAt(t, far(), echo), applicationAt(t, far(), echo)
		kept, ends := client.dial(web), client.dial(admin)
		ping(t, kept)
		ping(t, ends)
		rules := api.Rules{Deny: []string{fmt.Sprintf("ns/default/sa/*:%d", admin.Port())}, Audit: true}
		server.rule(rules)
		server.proxy.ResetForbidden()
		ping(t, ends) // audited
		rules.Audit = false
		server.rule(rules)
		ping(t, ends) // nobody has asked
		server.proxy.ResetForbidden()
		expectReset(t, ends)
		ping(t, kept)
		if got := server.proxy.Traffic().Inbound.Reset; got != 1 {
			t.Errorf("%d connections were reset", got)
		}
		line := server.logged("the reset", func(c api.Connection) bool { return c.Destination == admin && c.Direction == api.Inbound })
		if !strings.Contains(line.Error, errForbidden.Error()) || !strings.Contains(line.Error, rules.Deny[0]) {
			t.Errorf("logged %+v", line)
		}
	})
}

// TestResetForbiddenPlaintext: in strict mode, what is carried in plaintext ends.
func TestResetForbiddenPlaintext(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, permissive), newPod(t, a, nil)
	plain, encrypted := client.dial(application(t, podAddress(), echo)), client.dial(application(t, server.ip, echo))
	ping(t, plain)
	ping(t, encrypted)
	client.proxy.ResetForbidden()
	ping(t, plain)
	client.reconfigure(func(c *api.Config) { c.Mode = api.Strict })
	ping(t, plain)
	client.proxy.ResetForbidden()
	expectReset(t, plain)
	ping(t, encrypted)
	if got := client.proxy.Traffic().Outbound.Reset; got != 1 {
		t.Errorf("%d connections were reset", got)
	}
}

// TestMaxPerPeer: of one identity, no more connections than the rules allow are open, whatever port
// they go to; another identity is not concerned, and one that ends makes room.
func TestMaxPerPeer(t *testing.T) {
	wires(t, nil, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		web, admin := applicationAt(t, far(), echo), applicationAt(t, far(), echo)
		before := client.dial(web)
		ping(t, before)
		server.rule(api.Rules{MaxPerPeer: 2, Audit: true})
		second := client.dial(admin)
		ping(t, second)
		client.dialReset(web)
		line := server.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.TooManyConnections.String() })
		if !strings.Contains(line.Error, line.Peer+" has 2 connections open") {
			t.Errorf("logged %+v", line)
		}
		if got := server.proxy.options.Counters.Unencrypted(); len(got) != 1 || got[0].Reason != "too_many_connections" || got[0].Connections != 1 {
			t.Errorf("counted %+v", got)
		}
		hangUp(t, second)
		eventually(t, "its end", func() bool { return server.proxy.Traffic().Inbound.Active == 1 })
		ping(t, client.dial(web))
		client.dialReset(web)
		server.rule(api.Rules{})
		ping(t, client.dial(web))
		ping(t, before)
	})
}

// A resumed session carries the identity that the rules are asked about.
func TestIdentityRulesOnResumedSession(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.Config.Allow = []string{"ns/prod/sa/*"} })
	s := newStranger(t, a, server)
	s.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	for i, resumed := range []bool{false, true} {
		conn := tls.Client(s.dial(server), s.config)
		write(t, conn, string(appendHeader(nil, h)))
		expect(t, conn, string(rune(statusNotAllowed)))
		if got := conn.ConnectionState().DidResume; got != resumed {
			t.Errorf("connection %d: resumed %t", i, got)
		}
	}
}

// Rules that come while a connection is being set up apply to it.
func TestIdentityRulesDuringHandshake(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	conn := tls.Client(s.dial(server), s.config)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	// The gateway has begun with the old rules by now.
	server.allow("ns/prod/sa/*")
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	write(t, conn, string(appendHeader(nil, h)))
	expect(t, conn, string(rune(statusNotAllowed)))
}

func TestBadRulesChangeNothing(t *testing.T) {
	client, server := pair(t, func(o *Options) { o.Config.Allow = []string{"ns/prod/sa/*"} })
	config := *server.options.Config
	config.Allow = []string{"*"}
	if err := server.proxy.Update(&config, server.options.Certificate, server.options.Roots); err == nil || api.Hint(err) == "" {
		t.Errorf("error %v, hint %q", err, api.Hint(err))
	}
	client.dialReset(application(t, server.ip, echo))
}

// FuzzIdentityRules compares the rules with regular expressions made from them.
func FuzzIdentityRules(f *testing.F) {
	for _, seed := range [][3]string{
		{"ns/prod/sa/*", "prod", "web"},
		{"ns/*/sa/default", "kube-system", "default"},
		{"ns/a-?.*/sa/?*?", "a-b.c", "xy"},
		{"ns/**/sa/*", "a/sa/b", ""},
		{"ns/*a*a*a*b/sa/*", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "x"},
		{"ns/*/sa/*/x", "a", "b/x"},
		{"ns/sa/sa/sa", "sa", "sa"},
		{"ns/[a-z]/sa/*", "a", "b"},
		{`ns/\*/sa/*`, "*", "b"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, pattern, namespace, account string) {
		rule, err := api.ParseRule(pattern)
		if err != nil || strings.Contains(pattern, ":") {
			return
		}
		matches := func(part, name string) bool {
			glob := strings.NewReplacer(`\*`, `[^/]*`, `\?`, `[^/]`).Replace(regexp.QuoteMeta(part))
			return regexp.MustCompile(`(?s)\A` + glob + `\z`).MatchString(name)
		}
		parts := strings.Split(pattern, "/")
		want := len(parts) == 4 && matches(parts[1], namespace) && matches(parts[3], account)
		if got := rule.Matches(namespace, account, 1); got != want {
			t.Errorf("rule %q, peer %q/%q: %t", pattern, namespace, account, got)
		}
	})
}
