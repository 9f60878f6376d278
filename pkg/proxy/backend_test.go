//go:build linux

package proxy

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// backendPair is an inbandPair whose server says which gateway it is.
func backendPair(t testing.TB, change func(*Options)) (client, server *testPod, b *testBand) {
	t.Helper()
	client, server, b = inbandPair(t, change)
	b.number.Store(api.GatewayNumber(server.ip))
	return client, server, b
}

// backendKnown visits a Service until the peer port of the pod behind it is known to be reachable.
func (pod *testPod) backendKnown(service netip.AddrPort) {
	pod.t.Helper()
	pod.visited(service)
	key := backendKey{service, pod.sockets.band.number.Load()}
	eventually(pod.t, "the peer port to answer", func() bool {
		_, ok := pod.proxy.settings.Load().backends.lookup(key, service.Port())
		return ok
	})
}

// visited has an application talk to an echo server, and returns the client's line of the log.
func (pod *testPod) visited(destination netip.AddrPort) api.Connection {
	pod.t.Helper()
	conn := pod.dial(destination)
	ping(pod.t, conn)
	hangUp(pod.t, conn)
	return pod.logged("the connection", func(c api.Connection) bool { return c.Source == addrPort(conn.LocalAddr()) })
}

// TestBackend: only the first connection to a Service shakes hands in band. Those that only ask who answers are
// neither counted nor logged.
func TestBackend(t *testing.T) {
	client, server, b := backendPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	client.backendKnown(destination)
	const count = 5
	for i := range count {
		line := client.visited(destination)
		if line.Wire != api.WirePort || !line.Encrypted || line.Destination != destination || line.Dialled.IsValid() || line.Reason+line.Error != "" {
			t.Errorf("connection %d: logged %+v", i, line)
		}
		line = server.logged("the connection", func(c api.Connection) bool { return c.Source == line.Source })
		if line.Wire != api.WirePort || line.Destination != destination || line.Dialled != destination {
			t.Errorf("connection %d: the server logged %+v", i, line)
		}
	}
	if n := b.arrived.Load(); n != 1+count {
		t.Errorf("%d connections have asked", n)
	}
	for name, n := range map[string]api.Direction{"client": client.settled().Outbound, "server": server.settled().Inbound} {
		if n.Encrypted != 1+count || n.Inband != 1 || n.Refused != 0 || n.Plaintext != 0 {
			t.Errorf("%s counts %+v", name, n)
		}
	}
	eventually(t, "the log", func() bool { return len(server.log.connections(t)) == 1+count })
}

// TestBackendIsReused: a connection to a Service takes what others have left.
func TestBackendIsReused(t *testing.T) {
	client, server, b := backendPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	client.backendKnown(destination)
	client.visited(destination)
	eventually(t, "the carrier", func() bool { return client.idle() == 1 })
	if line := client.visited(destination); !line.TLS.Reused {
		t.Errorf("logged %+v", line)
	}
}

// TestBackendOnlyOfItsService: what has proved itself behind one Service counts nothing behind another one, and not with another port.
// Somebody there who claims to be that gateway has to prove it.
func TestBackendOnlyOfItsService(t *testing.T) {
	client, server, b := backendPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	client.backendKnown(destination)
	other := applicationAt(t, b.behind(t, server.ip), echo)
	if line := client.visited(other); line.Wire != api.WireInband {
		t.Errorf("logged %+v", line)
	}
	number := b.number.Swap(api.GatewayNumber(client.ip))
	if line := client.visited(destination); line.Wire != api.WireInband {
		t.Errorf("another gateway has answered, and logged is %+v", line)
	}
	key := backendKey{netip.AddrPortFrom(podAddress(), destination.Port()), number}
	if _, ok := client.proxy.settings.Load().backends.lookup(key, destination.Port()); ok {
		t.Error("another Service has the backend, too")
	}
}

// TestBackendKeepsInband: who wants the application's ports on the wire has them, and the programs of earlier gateways say nothing.
func TestBackendKeepsInband(t *testing.T) {
	for name, change := range map[string]func(client *testPod, b *testBand){
		"on request": func(client *testPod, _ *testBand) {
			client.reconfigure(func(c *api.Config) { c.Wire = api.WireInband })
		},
		"no answer":    func(_ *testPod, b *testBand) { b.number.Store(0) },
		"new settings": func(client *testPod, _ *testBand) { client.reconfigure(func(*api.Config) {}) },
	} {
		t.Run(name, func(t *testing.T) {
			client, server, b := backendPair(t, nil)
			destination := applicationAt(t, b.behind(t, server.ip), echo)
			client.backendKnown(destination)
			change(client, b)
			if line := client.visited(destination); line.Wire != api.WireInband {
				t.Errorf("logged %+v", line)
			}
			backends := client.proxy.settings.Load().backends
			backends.mu.Lock()
			defer backends.mu.Unlock()
			if learned := len(backends.known) > 0; name == "on request" && learned {
				t.Error("the backend is known")
			}
		})
	}
}

// TestBackendWithoutPeerPort: where the peer port cannot be reached, all goes in band, also when that turns out with a
// connection. Nothing is in plaintext and nothing fails.
func TestBackendWithoutPeerPort(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) {
		inBand(o, b)
		permissive(o)
		o.Peer = listen(t, netip.AddrPortFrom(podAddress(), 0))
	})
	b.number.Store(api.GatewayNumber(server.ip))
	client := newPod(t, a, func(o *Options) {
		permissive(o)
		o.Sockets.(*testSockets).band = b
		o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(server.ip, 0)}
	})
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	inband := func() {
		t.Helper()
		if line := client.visited(destination); line.Wire != api.WireInband || !line.Encrypted || line.Reason+line.Error != "" {
			t.Errorf("logged %+v", line)
		}
	}
	inband()
	backends := client.proxy.settings.Load().backends
	state := func(f func(*backend)) {
		backends.mu.Lock()
		defer backends.mu.Unlock()
		f(backends.known[backendKey{destination, b.number.Load()}])
	}
	eventually(t, "an answer", func() (asked bool) {
		state(func(k *backend) { asked = !k.asking && !k.again.IsZero() })
		return asked
	})
	inband()
	// It could be reached a moment ago.
	state(func(k *backend) { k.open = true })
	inband()
	state(func(k *backend) {
		if k.open {
			t.Error("the peer port is not noted as closed")
		}
	})
	inband()
	if n := client.settled().Outbound; n.Encrypted != 4 || n.Inband != 4 || n.Plaintext+n.Refused != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestBackendSilent runs in a network namespace of its own. Where packets to the peer port come to be dropped, as by a new NetworkPolicy,
// connections that could go in band at once do not wait as long as others do.
func TestBackendSilent(t *testing.T) {
	nft := inboundRules(t)
	if nft == nil {
		return
	}
	client, server, b := backendPair(t, func(o *Options) { o.DialTimeout = time.Hour })
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	client.backendKnown(destination)
	server.proxy.carriers.drop()
	eventually(t, "no carrier", func() bool { return client.count(func(p *pool) int { return len(p.all) }) == 0 })
	nft(fmt.Sprintf("add rule inet t in tcp dport %d drop", api.PeerPort))
	if line := client.visited(destination); line.Wire != api.WireInband || !line.Encrypted || line.Reason+line.Error != "" {
		t.Errorf("logged %+v", line)
	}
}

// TestBackendIsChecked: what is refused in band is refused on the way to a backend, too.
func TestBackendIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(a *authority, client, server *testPod)
		reason traffic.Reason
	}{
		"rules": {
			func(_ *authority, _, server *testPod) {
				server.reconfigure(func(c *api.Config) { c.Rules.Deny = []string{"ns/default/sa/*"} })
			}, traffic.PeerNotAllowed,
		},
		// How soon it hears of it depends on what it uses.
		"a revoked client": {
			func(a *authority, client, server *testPod) {
				server.proxy.Revoke(a.revoke(t, client.options.Certificate.Leaf))
			}, traffic.None,
		},
		"a revoked server": {
			func(a *authority, client, server *testPod) {
				client.proxy.Revoke(a.revoke(t, server.options.Certificate.Leaf))
			}, traffic.Revoked,
		},
		"another authority": {
			func(_ *authority, client, _ *testPod) {
				other := newAuthority(t)
				client.options.Roots = other.pool
				client.reconfigure(func(*api.Config) {})
			}, traffic.NotTrusted,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newAuthority(t), newBand()
			server := newPod(t, a, func(o *Options) { inBand(o, b) })
			b.number.Store(api.GatewayNumber(server.ip))
			client := newPod(t, a, func(o *Options) {
				o.Sockets.(*testSockets).band = b
				o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(server.ip, 0)}
			})
			destination := applicationAt(t, b.behind(t, server.ip), echo)
			client.backendKnown(destination)
			client.visited(destination)
			eventually(t, "the carrier", func() bool { return client.idle() == 1 })
			c.change(a, client, server)
			client.dialReset(destination)
			line := client.logged("the refusal", func(c api.Connection) bool { return c.Reason != "" || c.Error != "" })
			if c.reason != traffic.None && line.Reason != c.reason.String() || line.Received != 0 {
				t.Errorf("logged %+v", line)
			}
		})
	}
}

// TestBackendAddressIsChecked: whoever has the address of a backend has to prove it at the peer port, and gets nothing otherwise.
func TestBackendAddressIsChecked(t *testing.T) {
	a, b := newAuthority(t), newBand()
	ip := podAddress()
	b.number.Store(api.GatewayNumber(ip))
	client := newPod(t, a, func(o *Options) {
		o.Sockets.(*testSockets).band = b
		o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
	})
	var g greeter
	destination := inbandImpostor(t, a, client, ip, nil, g.serve)
	other := newPod(t, a, func(o *Options) { o.Peer = listen(t, netip.AddrPortFrom(ip, api.PeerPort)) })
	client.greeted(destination)
	backends := client.proxy.settings.Load().backends
	key := backendKey{destination, b.number.Load()}
	eventually(t, "an answer", func() bool {
		backends.mu.Lock()
		defer backends.mu.Unlock()
		return backends.known[key] != nil && !backends.known[key].asking
	})
	if _, ok := backends.lookup(key, destination.Port()); ok {
		t.Error("a peer port with the certificate of another pod counts")
	}
	client.greeted(destination)
	// It had the right one a moment ago.
	backends.mu.Lock()
	backends.known[key].open = true
	backends.mu.Unlock()
	client.greeted(destination)
	if n := other.settled().Inbound; n.Encrypted+n.NotAllowed != 0 {
		t.Errorf("another pod has got a connection: %+v", n)
	}
}

// TestAskWho: what stays in band does not look who has answered.
func TestAskWho(t *testing.T) {
	client, server, b := backendPair(t, nil)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", application(t, server.ip, echo).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := client.proxy.settings.Load()
	inband := newPod(t, newAuthority(t), func(o *Options) { o.Config.Wire = api.WireInband }).proxy.settings.Load()
	for name, c := range map[string]struct {
		of       *connection
		settings *settings
		pod      bool
		want     uint32
	}{
		"a Service":                 {&connection{}, s, false, b.number.Load()},
		"a pod":                     {&connection{}, s, true, 0},
		"the application's ports":   {&connection{}, inband, false, 0},
		"a second try":              {&connection{attempts: 1}, s, false, 0},
		"an address that was bound": {&connection{bound: netip.MustParseAddrPort("10.0.0.9:80")}, s, false, 0},
	} {
		c.of.answer = answer{1, 2}
		client.proxy.askWho(c.of, c.settings, conn.(*net.TCPConn), c.pod)
		if c.of.answer.gateway != c.want {
			t.Errorf("%s: %+v", name, c.of.answer)
		}
	}
}

// TestBackendNumberIsProved: a pod behind a Service that answers with the number of another one is not taken for that. Otherwise it
// would get the connections that the other one answers, after it has left the Service, too.
func TestBackendNumberIsProved(t *testing.T) {
	client, server, b := backendPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	b.number.Store(api.GatewayNumber(client.ip))
	for range 2 {
		if line := client.visited(destination); line.Wire != api.WireInband || !line.Encrypted {
			t.Errorf("logged %+v", line)
		}
	}
	backends := client.proxy.settings.Load().backends
	backends.mu.Lock()
	defer backends.mu.Unlock()
	if len(backends.known) > 0 {
		t.Errorf("known is %v", backends.known)
	}
}

// TestBackendTable: it is bounded, and asks one by one.
func TestBackendTable(t *testing.T) {
	c := &clock{}
	table := newBackendTable(c.now)
	key := func(i int) backendKey { return backendKey{netip.MustParseAddrPort("10.96.0.1:80"), uint32(i)} }
	pod := netip.MustParseAddrPort("10.0.0.1:80")
	asking := 0
	for i := range maxBackends + 1 {
		if table.learn(key(i), pod) {
			asking++
		}
		if table.learn(key(i), pod) {
			t.Fatal("asked twice at a time")
		}
	}
	if len(table.known) != 1 || asking != maxBackendsAsked {
		t.Errorf("%d backends are known, %d asked", len(table.known), asking)
	}
	for i := range asking {
		table.asked(key(i), true)
	}
	last := key(maxBackends)
	if !table.learn(last, pod) {
		t.Error("not asked")
	}
	table.asked(last, true)
	if to, ok := table.lookup(last, pod.Port()); !ok || to != pod {
		t.Errorf("found %v, %t", to, ok)
	}
	table.failed(last)
	if _, ok := table.lookup(last, pod.Port()); ok || table.learn(last, pod) {
		t.Error("what has failed is tried at once")
	}
	c.advance(askBackendAgain)
	if !table.learn(last, pod) {
		t.Error("what has failed is never tried again")
	}
	table.asked(last, true)
	// A gateway that says another port each time is the same pod.
	for port := range uint16(100) {
		if _, ok := table.lookup(last, port); ok {
			t.Errorf("port %d counts, which nobody has proved", port)
		}
		if table.learn(last, netip.AddrPortFrom(pod.Addr(), port)) || len(table.known) != 1 {
			t.Fatalf("with port %d, %d backends are known, or one is asked again", port, len(table.known))
		}
	}
	table.learn(last, pod)
	// The number of another pod, by chance.
	table.learn(last, netip.MustParseAddrPort("10.0.0.2:80"))
	if _, ok := table.lookup(last, pod.Port()); ok {
		t.Error("a pod counts that nobody has asked")
	}
}

func TestOnlyAddress(t *testing.T) {
	leaf := &x509.Certificate{IPAddresses: []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("fd00::1"), net.ParseIP("fd00::2")}}
	if ip, ok := onlyAddress(leaf, true); !ok || ip != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("got %v, %t", ip, ok)
	}
	if ip, ok := onlyAddress(leaf, false); ok {
		t.Errorf("got %v of two", ip)
	}
}

// TestAskingIsSwept: one that only asks counts as nothing, also if the sweep sees its end before the handshake does.
func TestAskingIsSwept(t *testing.T) {
	p := newPod(t, newAuthority(t), permissive).proxy
	destination, accept := collect(t, podAddress())
	for wire, refused := range map[string]uint64{api.WireInband: 0, api.WirePort: 1} {
		conn, err := connectFrom(t.Context(), netip.AddrPort{}, destination, patienceForTests, func(int) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		c := p.open(traffic.Inbound, conn)
		far := accept()
		must.Do(t, far.SetLinger(0))
		must.Do(t, far.Close())
		eventually(t, "the reset", func() bool { return hasError(conn) })
		p.inspect(c)
		before := p.Traffic().Inbound.Refused
		p.inbound(c, wire, func() bool { return true })
		if n := p.Traffic().Inbound; n.Refused-before != refused || n.Active != 0 {
			t.Errorf("%s: counted %+v", wire, n)
		}
	}
}
