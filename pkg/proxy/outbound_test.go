//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// clock is a clock that tests can put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// impostors are things that may answer at a peer's port and must not be sent
// anything of the application.
func impostors(a, other *authority, ip netip.Addr) map[string]func(*testing.T, *tls.Config) {
	issue := func(by *authority, change func(*x509.Certificate)) func(*testing.T, *tls.Config) {
		return func(t *testing.T, c *tls.Config) {
			c.Certificates = []tls.Certificate{by.issue(t, []netip.Addr{ip}, change)}
		}
	}
	return map[string]func(*testing.T, *tls.Config){
		"another authority": issue(other, nil),
		"expired": issue(a, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		}),
		"another address":      issue(a, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{10, 1, 2, 3}} }),
		"another trust domain": issue(a, func(c *x509.Certificate) { c.URIs[0].Host = "elsewhere.test" }),
		"two identities":       issue(a, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		"no server usage": issue(a, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
		"TLS 1.2":      func(_ *testing.T, c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"no ALPN":      func(_ *testing.T, c *tls.Config) { c.NextProtos = nil },
		"another ALPN": func(_ *testing.T, c *tls.Config) { c.NextProtos = []string{"h2"} },
	}
}

// distrusts connects to an impostor, which must get no byte of it.
func (pod *testPod) distrusts(impostor netip.AddrPort, leaked *atomic.Int64) {
	pod.t.Helper()
	pod.dialWithoutGateway(impostor)
	if n := leaked.Load(); n > 0 {
		pod.t.Errorf("the impostor received %d bytes", n)
	}
	line := pod.logged("the connection", func(c api.Connection) bool { return c.Destination == impostor })
	if line.Encrypted || line.Wire != api.WireNone || !strings.Contains(line.Reason, "no trusted gateway") {
		pod.t.Errorf("logged %+v", line)
	}
}

func TestImpostorGetsNothing(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		client := newPod(t, a, func(o *Options) { o.Config.Mode = mode })
		ip := podAddress()
		for name := range impostors(a, other, ip) {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				ip := podAddress()
				var leaked atomic.Int64
				fakePeer(t, a, ip, func(c *tls.Config) { impostors(a, other, ip)[name](t, c) },
					func(c *tls.Conn, _ *net.TCPConn) {
						n, _ := c.Read(make([]byte, 1024))
						leaked.Add(int64(n))
					})
				destination := application(t, ip, echo)
				client.distrusts(destination, &leaked)
			})
		}
	}
}

func TestStrictNeverFallsBack(t *testing.T) {
	client := newPod(t, newAuthority(t), nil)
	var reached atomic.Int64
	destination := application(t, podAddress(), func(*net.TCPConn) { reached.Add(1) })
	client.dialReset(destination)
	client.logged("the refusal", func(c api.Connection) bool {
		return c.Destination == destination && strings.Contains(c.Reason, "connection refused")
	})
	if got := client.settled().Outbound; got != (api.Direction{Refused: 1}) || reached.Load() != 0 {
		t.Errorf("counted %+v, the application was reached %d times", got, reached.Load())
	}
}

func TestUnknownDestination(t *testing.T) {
	client := newPod(t, newAuthority(t), permissive)
	conn, err := net.Dial("tcp", client.capture.String())
	if err == nil {
		defer conn.Close()
		expectReset(t, conn)
	}
	line := client.logged("the refusal", func(c api.Connection) bool { return strings.Contains(c.Reason, "original destination") })
	if line.Destination != client.capture {
		t.Errorf("the line names %v, and the connection came to %v", line.Destination, client.capture)
	}
}

func TestOwnCertificateExpired(t *testing.T) {
	a := newAuthority(t)
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		t.Run(string(mode), func(t *testing.T) {
			c := &clock{}
			client := newPod(t, a, func(o *Options) { o.Config.Mode, o.now = mode, c.now })
			server := newPod(t, a, nil)
			destination := application(t, server.ip, echo)
			c.advance(2 * time.Hour)
			client.dialWithoutGateway(destination)
			client.unencrypted(destination, traffic.CertificateExpired)
		})
	}
}

// counting runs a peer that accepts TCP connections, never answers, and counts.
func silentPeer(t testing.TB, ip netip.Addr) *atomic.Int64 {
	var count atomic.Int64
	l := listen(t, netip.AddrPortFrom(ip, api.PeerPort))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	return &count
}

func TestFallbackIsRemembered(t *testing.T) {
	c := &clock{}
	client := newPod(t, newAuthority(t), func(o *Options) {
		permissive(o)
		o.now, o.HandshakeTimeout = c.now, 400*time.Millisecond
	})
	client.proxy.peers.mu.Lock()
	client.proxy.peers.maxAsking = 0
	client.proxy.peers.mu.Unlock()
	ip := podAddress()
	probes := silentPeer(t, ip)
	destination := application(t, ip, echo)
	round := func() {
		conn := client.dial(destination)
		defer conn.Close()
		exchange(t, conn, "hello")
	}
	// All of them are under way while the first one finds out.
	var all sync.WaitGroup
	for range 50 {
		all.Go(round)
	}
	all.Wait()
	if n := probes.Load(); n != 1 {
		t.Errorf("50 connections at once probed %d times, want 1", n)
	}
	round()
	if n := probes.Load(); n != 1 {
		t.Errorf("the outcome was not remembered: %d probes", n)
	}
	c.advance(rememberSilent + time.Second)
	round()
	if n := probes.Load(); n != 2 {
		t.Errorf("the outcome was remembered too long: %d probes, want 2", n)
	}
	if got := client.settled().Outbound; got.Plaintext != 52 || got.Encrypted != 0 {
		t.Errorf("counted %+v", got)
	}
}

// TestSilentPeerThatIsEnabled: the first connection to a silent peer waits for an answer. Later ones do not, and the gateway
// finds out by itself that there is a gateway.
func TestSilentPeerThatIsEnabled(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, func(o *Options) {
		permissive(o)
		o.HandshakeTimeout = time.Second
	})
	begun := make(chan struct{})
	server := newPod(t, a, func(o *Options) { o.PeersAfter = begun })
	destination := application(t, server.ip, echo)
	client.visit(destination)
	client.unencrypted(destination, traffic.NoAnswer)
	close(begun)
	// Nothing is forgotten in that time without a question.
	c := client.proxy.peers.acquire(route{to: netip.AddrPortFrom(server.ip, api.PeerPort)})
	defer client.proxy.peers.release(c)
	eventually(t, "an encrypted connection", func() bool {
		client.proxy.peers.mu.Lock()
		c.until = time.Now().Add(time.Hour)
		client.proxy.peers.mu.Unlock()
		client.visit(destination)
		return client.settled().Outbound.Encrypted > 0
	})
	eventually(t, "the end of the questions", func() bool {
		client.proxy.peers.mu.Lock()
		defer client.proxy.peers.mu.Unlock()
		return client.proxy.peers.asking == 0
	})
}

// TestQuestionIsNoConnection: a gateway that only asks whether there is another one is neither counted nor logged there.
func TestQuestionIsNoConnection(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, permissive), newPod(t, a, nil)
	if f := client.proxy.askPeer(client.proxy.settings.Load(), route{to: netip.AddrPortFrom(server.ip, api.PeerPort)}); f != nil {
		t.Fatalf("asked: %+v", f)
	}
	eventually(t, "the end", func() bool { return server.proxy.options.Counters.Ended.Load() == 1 })
	server.stop()
	if diff := cmp.Diff(api.Traffic{}, server.proxy.Traffic()); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
	if lines := server.log.connections(t); len(lines) != 0 {
		t.Errorf("logged %+v", lines)
	}
}

// TestSilentPeerIsAsked has the states in between.
func TestSilentPeerIsAsked(t *testing.T) {
	c := &clock{}
	table := newPeerTable(8, c.now)
	table.maxAsking = 1
	p, other := table.acquire(route{to: netip.AddrPortFrom(podAddress(), api.PeerPort)}), table.acquire(route{to: netip.AddrPortFrom(podAddress(), api.PeerPort)})
	expectAt := func(what string, p *peer, want verdict) {
		t.Helper()
		if got, err := table.lookup(t.Context(), patienceForTests, p); err != nil || got != want {
			t.Fatalf("%s: %+v, %v; want %+v", what, got, err, want)
		}
	}
	silence := &failure{reason: traffic.PeerSilent, remember: rememberSilent}
	silent, ask := verdict{reason: traffic.PeerSilent}, verdict{reason: traffic.PeerSilent, ask: true}
	for _, p := range []*peer{p, other} {
		expectAt("unknown", p, verdict{probe: true})
		table.record(p, true, silence)
	}
	expectAt("silent", p, ask)
	expectAt("asked", p, silent)
	expectAt("another one while one is asked", other, silent)
	c.advance(rememberSilent + time.Second)
	expectAt("asked for long", p, silent)
	expectAt("forgotten", other, verdict{probe: true})
	table.record(other, true, silence)
	table.answered(p, silence)
	expectAt("silent as before", p, ask)
	table.answered(p, nil)
	expectAt("there", p, verdict{})

	expectAt("the other one", other, ask)
	table.forget(other.route.to.Addr())
	table.answered(other, silence)
	expectAt("that has shown itself while it was asked", other, verdict{probe: true})
	table.record(other, true, &failure{reason: traffic.PeerRefused, remember: rememberRefused})
	expectAt("one that refuses", other, verdict{reason: traffic.PeerRefused})
	if p.users != 1 || other.users != 1 || table.asking != 0 {
		t.Errorf("%d and %d users, %d are asked", p.users, other.users, table.asking)
	}
}

// A filtered port, made of a listener whose backlog is full.
func TestFilteredPeer(t *testing.T) {
	client := newPod(t, newAuthority(t), func(o *Options) {
		permissive(o)
		o.DialTimeout = 300 * time.Millisecond
	})
	ip := podAddress()
	fillBacklog(t, netip.AddrPortFrom(ip, api.PeerPort))
	destination := application(t, ip, echo)
	client.visit(destination)
	client.unencrypted(destination, traffic.PeerSilent)
}

// fillBacklog opens a listener at address that no longer answers a SYN, and returns
// how to make it accept all connections again.
func fillBacklog(t testing.TB, address netip.AddrPort) (drain func()) {
	t.Helper()
	at := toSockaddr(address)
	open := func(flags int) int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	l := open(unix.SOCK_NONBLOCK)
	if err := unix.Bind(l, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 0); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if err := unix.Connect(open(unix.SOCK_NONBLOCK), at); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
	return func() {
		for {
			fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
		}
	}
}

// A dial in plaintext may take long; the mode that counts is the one at its end.
func TestStrictDuringPlaintextDial(t *testing.T) {
	client := newPod(t, newAuthority(t), permissive)
	closed := listen(t, netip.AddrPortFrom(podAddress(), 0))
	destination := addrPort(closed.Addr())
	hangUp(t, closed)
	drain := fillBacklog(t, destination)
	toDestination := func(_, remote netip.AddrPort) bool { return remote == destination }
	before := tcpSockets(t, tcpSynSent, toDestination)
	conn := client.dial(destination)
	eventually(t, "the dial", func() bool { return tcpSockets(t, tcpSynSent, toDestination) > before })
	client.reconfigure(func(c *api.Config) { c.Mode = api.Strict })
	eventually(t, "the refusal", func() bool { drain(); return client.proxy.Traffic().Outbound.Refused == 1 })
	expectReset(t, conn)
	if line := client.unencrypted(destination, traffic.PeerRefused); line.Level != "WARN" {
		t.Errorf("logged %+v", line)
	}
}

func TestInboundProvesTheGateway(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	s := newStranger(t, a, client)
	destination := application(t, s.ip, echo)
	conn := client.dial(destination)
	exchange(t, conn, "hello")

	// Now the other pod gets a gateway, and connects.
	fakePeer(t, a, s.ip, nil, func(c *tls.Conn, _ *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1024))
		_, _ = io.WriteString(c, string(rune(statusOK))+"encrypted")
		_ = c.Close()
	})
	h := header{Destination: application(t, client.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	back := tls.Client(s.dial(client), s.config)
	write(t, back, string(appendHeader(nil, h))+"x")
	expect(t, back, string(rune(statusOK))+"x")

	expect(t, client.dial(destination), "encrypted")
}

// In TLS 1.3 a client learns that its certificate is refused only after it has
// sent data, so that the first connection fails.
func TestPeerRejectsOurCertificate(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, func(o *Options) {
		permissive(o)
		ips := o.Config.PodIPs
		o.Certificate = a.issue(t, ips, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		})
	})
	server := newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	client.dialReset(destination)
	client.logged("the rejection", func(c api.Connection) bool { return c.Reason == traffic.Rejected.String() && c.Error != "" })
	client.visit(destination)
	client.logged("the fallback", func(c api.Connection) bool { return c.Reason == traffic.Rejected.String() && c.Error == "" })
}

func TestPeerTableIsBounded(t *testing.T) {
	c := &clock{}
	table := newPeerTable(8, c.now)
	held := table.acquire(route{to: netip.AddrPortFrom(podAddress(), api.PeerPort)})
	for range 100 {
		p := table.acquire(route{to: netip.AddrPortFrom(podAddress(), api.PeerPort)})
		if v, err := table.lookup(t.Context(), patienceForTests, p); err != nil || v != (verdict{probe: true}) {
			t.Fatalf("lookup: %+v, %v", v, err)
		}
		table.record(p, true, &failure{reason: traffic.PeerRefused, remember: time.Hour})
		table.release(p)
	}
	if n := len(table.peers); n != 8 {
		t.Errorf("%d peers are remembered, want 8", n)
	}
	if table.peers[held.route] != held {
		t.Error("a peer in use was evicted")
	}
}
