//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// resumer is a stranger that keeps sessions. Each hello makes a connection and
// reports whether it resumed a session.
func resumer(t *testing.T, a *authority, server *testPod) (hello func() (bool, error)) {
	s := newStranger(t, a, server)
	s.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	destination := application(t, server.ip, echo)
	return func() (bool, error) {
		conn := tls.Client(s.dial(server), s.config)
		defer conn.Close()
		h := header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}
		if _, err := conn.Write(append(appendHeader(nil, h), "hello"...)); err != nil {
			return false, err
		}
		// The ticket comes with the answer.
		got := make([]byte, 6)
		if _, err := io.ReadFull(conn, got); err != nil {
			return false, err
		}
		if string(got[1:]) != "hello" {
			return false, errors.New("wrong echo")
		}
		return conn.ConnectionState().DidResume, nil
	}
}

// A session is worth no more than the certificate that it was made with.
func TestResumedSessionIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, server *testPod, c *clock){
		"expired": func(_ *testing.T, _ *testPod, c *clock) { c.advance(2 * time.Hour) },
		// The own certificate is still from the authority that is not trusted any more, so
		// that the client has nothing against it.
		"not trusted any more": func(t *testing.T, server *testPod, _ *clock) {
			o := server.options
			if err := server.proxy.Update(o.Config, o.Certificate, newAuthority(t).pool); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, c := newAuthority(t), &clock{}
			server := newPod(t, a, func(o *Options) { o.now = c.now })
			hello := resumer(t, a, server)
			for range 2 {
				if _, err := hello(); err != nil {
					t.Fatal(err)
				}
			}
			spoil(t, server, c)
			if _, err := hello(); err == nil {
				t.Error("the certificate of a session was accepted")
			}
		})
	}
}

// crypto/tls looks at chains before it resumes a session. verifyConnection must
// not rely on that.
func TestVerifyConnectionLooksAtChainsItself(t *testing.T) {
	a := newAuthority(t)
	ip := netip.MustParseAddr("10.9.0.1")
	leaf := func(change func(*x509.Certificate)) *x509.Certificate {
		return a.issue(t, []netip.Addr{ip}, change).Leaf
	}
	s := &settings{trustDomain: testTrustDomain, now: time.Now}
	good := leaf(nil)
	naming := func(address string) *x509.Certificate {
		return leaf(func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.ParseIP(address)) })
	}
	expired := leaf(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	foreign := leaf(func(c *x509.Certificate) { c.URIs[0].Host = "elsewhere.test" })
	state := func(l *x509.Certificate, chains ...[]*x509.Certificate) tls.ConnectionState {
		return tls.ConnectionState{
			Version: tls.VersionTLS13, DidResume: true, NegotiatedProtocol: "kube-gateway/1",
			PeerCertificates: []*x509.Certificate{l}, VerifiedChains: chains,
		}
	}
	for _, c := range []struct {
		name  string
		state tls.ConnectionState
		want  string
	}{
		{"good", state(good, []*x509.Certificate{good, a.Cert}), ""},
		{"no chain", state(good), "no chain"},
		{"empty chain", state(good, []*x509.Certificate{}), "no chain"},
		{"expired", state(expired, []*x509.Certificate{expired, a.Cert}), "no chain"},
		{"expired authority", state(good, []*x509.Certificate{good, expired}), "no chain"},
		{"loopback", state(naming("127.0.0.1"), []*x509.Certificate{good, a.Cert}), "address 127.0.0.1"},
		{"loopback of IPv6", state(naming("::1"), []*x509.Certificate{good, a.Cert}), "address ::1"},
		{"link-local", state(naming("169.254.1.1"), []*x509.Certificate{good, a.Cert}), "address 169.254.1.1"},
		{"another trust domain", state(foreign, []*x509.Certificate{foreign, a.Cert}), "trust domain"},
	} {
		err := s.verifyConnection(c.state)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestPeerThatNamesLoopbackIsRefused: no application is told that such a peer is a program of its own pod.
func TestPeerThatNamesLoopbackIsRefused(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		a := newAuthority(t)
		server := newPod(t, a, func(o *Options) { o.loopbackPods = allowed })
		if _, err := resumer(t, a, server)(); (err == nil) != allowed {
			t.Errorf("where pods of a test have such addresses: %v, it says %v", allowed, err)
		}
	}
}

// The dialling side resumes, too, and only with the same address.
func TestDiallerResumes(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	var g [2]greeter
	peers := []netip.Addr{podAddress(), podAddress()}
	for i, ip := range peers {
		fakePeer(t, a, ip, nil, g[i].serve)
	}
	for _, ip := range append(peers, peers...) {
		client.greeted(netip.AddrPortFrom(ip, 80))
	}
	for i := range g {
		if resumed, _ := g[i].saw(); !slices.Equal(resumed, []bool{false, true}) {
			t.Errorf("peer %d: resumed %t", i, resumed)
		}
	}
}

func TestNewRefusesUnusableSettings(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	ip := []netip.Addr{client.ip}
	for name, change := range map[string]func(o *Options){
		"trust domain": func(o *Options) {
			o.Certificate = a.issue(t, ip, func(c *x509.Certificate) { c.URIs[0].Host = "elsewhere.test" })
		},
		"does not name": func(o *Options) { o.Certificate = a.issue(t, []netip.Addr{podAddress()}, nil) },
		"URI names":     func(o *Options) { o.Certificate = a.issue(t, ip, func(c *x509.Certificate) { c.URIs = nil }) },
		"missing":       func(o *Options) { o.Certificate.PrivateKey = nil },
		"trust bundle":  func(o *Options) { o.Roots = nil },
		"listener":      func(o *Options) { o.Peer = nil },
		"sockets":       func(o *Options) { o.Sockets = nil },
	} {
		o := client.options
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Connections to one address share a configuration, those to others do not, and
// what is kept is bounded.
func TestClientConfigs(t *testing.T) {
	client, _ := pair(t, nil)
	s := client.proxy.settings.Load()
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if first, second := s.clientConfig(a), s.clientConfig(a); first != second {
		t.Error("two configurations for one address")
	}
	if name := s.clientConfig(b).ServerName; name != b.String() {
		t.Errorf("the configuration for %v asks for %q", b, name)
	}
	for range 2 * maxClients {
		if b = b.Next(); s.clientConfig(b).ServerName != b.String() {
			t.Fatalf("the configuration for %v asks for %q", b, s.clientConfig(b).ServerName)
		}
	}
	if n := len(s.clients); n > maxClients {
		t.Errorf("%d configurations are kept, want at most %d", n, maxClients)
	}
}

// agreed is what a line says of TLS between two gateways of one version, at the
// ends that it names.
func agreed(line api.Connection) api.TLS {
	return api.TLS{Version: "TLS 1.3", KeyExchange: "X25519MLKEM768", Cipher: "TLS_AES_128_GCM_SHA256",
		Local: line.TLS.Local, Remote: line.TLS.Remote}
}

// TestBothEndsTellTheirConnection looks at how the two lines fit together.
func TestBothEndsTellTheirConnection(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	for _, reused := range []bool{false, true} {
		conn := client.dial(destination)
		exchange(t, conn, "hello")
		end(t, conn)
		hangUp(t, conn)
		mine := func(c api.Connection) bool { return c.Source == addrPort(conn.LocalAddr()) }
		out, in := client.logged(api.Outbound, mine).TLS, server.logged(api.Inbound, mine).TLS
		if out.Reused != reused || in.Reused != reused {
			t.Errorf("reused %v: %+v, %+v", reused, out, in)
		}
		if out.Local != in.Remote || out.Remote != in.Local || out.Remote != netip.AddrPortFrom(server.ip, api.PeerPort) || out.Local.Port() == 0 {
			t.Errorf("the ends of one connection are %+v and %+v", out, in)
		}
	}
}
