//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// stranger is somebody who dials a gateway by hand.
type stranger struct {
	t      testing.TB
	ip     netip.Addr
	config *tls.Config
	conn   *net.TCPConn
	// from and at are where it dials from and to, if that is not ip and the peer
	// port of the gateway.
	from netip.Addr
	at   netip.AddrPort
}

// newStranger returns one that is a proper peer until a test changes config.
func newStranger(t testing.TB, a *authority, server *testPod) *stranger {
	ip := podAddress()
	return &stranger{t: t, ip: ip, config: &tls.Config{
		Certificates: []tls.Certificate{a.issue(t, []netip.Addr{ip}, nil)},
		RootCAs:      a.pool,
		ServerName:   server.ip.String(),
		NextProtos:   []string{api.ALPN},
	}}
}

// dial opens a TCP connection to the gateway of server.
func (s *stranger) dial(server *testPod) *net.TCPConn {
	s.t.Helper()
	conn, err := s.tryDial(server)
	if err != nil {
		s.t.Fatal(err)
	}
	s.conn = conn
	return conn
}

// dialReset connects and expects a RST, which may come before connect(2) is
// seen to have succeeded.
func (s *stranger) dialReset(server *testPod) {
	s.t.Helper()
	conn, err := s.tryDial(server)
	if errors.Is(err, unix.ECONNRESET) {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	expectReset(s.t, conn)
}

func (s *stranger) tryDial(server *testPod) (*net.TCPConn, error) {
	from, at := s.ip, netip.AddrPortFrom(server.ip, api.PeerPort)
	if s.from.IsValid() {
		from = s.from
	}
	if s.at.IsValid() {
		at = s.at
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	conn, err := d.Dial("tcp", at.String())
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn), conn.SetDeadline(time.Now().Add(patienceForTests))
}

// say dials, shakes hands, sends first and returns everything that comes back,
// and the error that ended it.
func (s *stranger) say(server *testPod, first []byte) ([]byte, error) {
	s.t.Helper()
	conn := tls.Client(s.dial(server), s.config)
	if _, err := conn.Write(first); err != nil {
		return nil, err
	}
	return io.ReadAll(conn)
}

func TestPeerRefuses(t *testing.T) {
	a := newAuthority(t)
	other := newAuthority(t)
	server := newPod(t, a, nil)
	destination, _ := collect(t, server.ip)
	atServer := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(server.ip, port) }

	for _, c := range []struct {
		name string
		// change makes the stranger improper; head replaces its header.
		change func(*stranger)
		head   func(h header) []byte
		// answer is the status that the stranger sees, if it gets that far.
		answer status
		// log is part of what the gateway logs.
		log string
	}{
		{name: "no client certificate", log: "certificate",
			change: func(s *stranger) { s.config.Certificates = nil }},
		{name: "certificate of another authority", log: "unknown authority",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{other.issue(t, []netip.Addr{s.ip}, nil)}
				s.config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return &s.config.Certificates[0], nil
				}
			}},
		{name: "expired certificate", log: "expired",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{s.ip}, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
				})}
			}},
		{name: "certificate without client usage", log: "key usage",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{s.ip}, func(c *x509.Certificate) {
					c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
				})}
			}},
		{name: "another trust domain", log: "trust domain",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{s.ip}, func(c *x509.Certificate) {
					c.URIs[0].Host = "elsewhere.test"
				})}
			}},
		{name: "two identities", log: "URI names",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{s.ip}, func(c *x509.Certificate) {
					c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: testTrustDomain, Path: "/ns/kube-system/sa/admin"})
				})}
			}},
		{name: "no identity", log: "URI names",
			change: func(s *stranger) {
				s.config.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{s.ip}, func(c *x509.Certificate) { c.URIs = nil })}
			}},
		{name: "TLS 1.2", log: "unsupported versions",
			change: func(s *stranger) { s.config.MaxVersion = tls.VersionTLS12 }},
		{name: "no ALPN", log: "did not agree on protocol",
			change: func(s *stranger) { s.config.NextProtos = nil }},
		{name: "another ALPN", log: "application protocol",
			change: func(s *stranger) { s.config.NextProtos = []string{"h2"} }},
		{name: "foreign client address", answer: statusNotAllowed, log: "not an address of the peer",
			head: func(h header) []byte {
				h.Client = netip.AddrPortFrom(podAddress(), 4000)
				return appendHeader(nil, h)
			}},
		{name: "foreign destination", answer: statusNotAllowed, log: "not in this pod",
			head: func(h header) []byte {
				h.Destination = netip.AddrPortFrom(podAddress(), destination.Port())
				return appendHeader(nil, h)
			}},
		{name: "the gateway's peer port", answer: statusNotAllowed, log: "gateway itself",
			head: func(h header) []byte { h.Destination = atServer(api.PeerPort); return appendHeader(nil, h) }},
		{name: "the gateway's capture port", answer: statusNotAllowed, log: "gateway itself",
			head: func(h header) []byte {
				h.Destination = atServer(portOf(server.proxy.options.Capture))
				return appendHeader(nil, h)
			}},
		{name: "oversized header", answer: statusNotAllowed, log: "longer than",
			head: func(header) []byte { return append([]byte{2, 0, 1}, make([]byte, 512)...) }},
		{name: "unknown critical field", answer: statusNotAllowed, log: "critical field",
			head: func(h header) []byte {
				b := append(appendHeader(nil, h), 0x7f, 0, 0)
				b[1] += 3
				return b
			}},
		{name: "another version", answer: statusNotAllowed, log: "version 2",
			head: func(h header) []byte { b := appendHeader(nil, h); b[2] = 2; return b }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStranger(t, a, server)
			if c.change != nil {
				c.change(s)
			}
			h := header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}
			first := appendHeader(nil, h)
			if c.head != nil {
				first = c.head(h)
			}
			got, err := s.say(server, append(first, "let me in"...))
			if c.answer == 0 && (len(got) > 0 || err == nil) {
				t.Errorf("got %q, %v; want an error", got, err)
			}
			if c.answer != 0 && string(got) != string(rune(c.answer)) {
				t.Errorf("got %q, %v; want status %d", got, err, c.answer)
			}
			line := server.logged("the refusal", func(l api.Connection) bool {
				return l.Source.Addr() == s.ip || l.Destination == h.Destination && strings.Contains(l.Error, c.log) ||
					strings.Contains(l.Error, c.log)
			})
			if line.Reason == "" || !strings.Contains(line.Error, c.log) || line.Received != 0 {
				t.Errorf("logged %+v, want an error about %q", line, c.log)
			}
		})
	}
	if got := server.settled().Inbound; got.Encrypted != 0 || got.Refused != 17 {
		t.Errorf("counted %+v", got)
	}

	// The same stranger is served if nothing is wrong with it.
	t.Run("nothing wrong", func(t *testing.T) {
		s := newStranger(t, a, server)
		h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
		conn := tls.Client(s.dial(server), s.config)
		write(t, conn, string(appendHeader(nil, h))+"hello")
		expect(t, conn, string(rune(statusOK))+"hello")
	})
}

func TestHeaderInPieces(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	conn := tls.Client(s.dial(server), s.config)
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	for _, b := range appendHeader(nil, h) {
		write(t, conn, string([]byte{b}))
	}
	write(t, conn, "hello")
	expect(t, conn, string(rune(statusOK))+"hello")
}

func TestTruncatedHeader(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	conn := tls.Client(s.dial(server), s.config)
	h := header{Destination: netip.AddrPortFrom(server.ip, 80), Client: netip.AddrPortFrom(s.ip, 4000)}
	write(t, conn, string(appendHeader(nil, h)[:9]))
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) == 1 && status(got[0]) == statusOK {
		t.Errorf("accepted: %q, %v", got, err)
	}
	server.logged("the truncation", func(c api.Connection) bool { return strings.Contains(c.Error, "reading the header") })
}

// A peer that says nothing, or stops saying it, is cut off after the handshake
// timeout, however slowly it goes on.
func TestSilence(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.HandshakeTimeout = 300 * time.Millisecond })
	h := header{Destination: netip.AddrPortFrom(server.ip, 80), Client: netip.AddrPortFrom(server.ip, 4000)}
	for name, start := range map[string]func(*testing.T, *stranger){
		"at once": func(t *testing.T, s *stranger) { s.dial(server) },
		"in the first record": func(t *testing.T, s *stranger) {
			write(t, s.dial(server), "\x16\x03\x01\x02\x00\x01")
		},
		"before the header": func(t *testing.T, s *stranger) {
			if err := tls.Client(s.dial(server), s.config).Handshake(); err != nil {
				t.Fatal(err)
			}
		},
		"in the header": func(t *testing.T, s *stranger) {
			write(t, tls.Client(s.dial(server), s.config), string(appendHeader(nil, h)[:9]))
		},
		"a byte at a time": func(t *testing.T, s *stranger) {
			conn := tls.Client(s.dial(server), s.config)
			for range 100 {
				if _, err := io.WriteString(conn, "\x01\x00"); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStranger(t, a, server)
			start(t, s)
			if _, err := io.Copy(io.Discard, s.conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the gateway did not end the connection: %v", err)
			}
		})
	}
}

func TestNotTLS(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	write(t, s.dial(server), "GET / HTTP/1.1\r\n\r\n")
	if _, err := io.Copy(io.Discard, s.conn); err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Error(err)
	}
	server.logged("the refusal", func(c api.Connection) bool { return strings.Contains(c.Error, "TLS handshake") })
}

// The end of the TCP stream without close_notify may be an attacker's work, and
// must not look like a genuine end to the application.
func TestTruncationIsAReset(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	destination, accept := collect(t, server.ip)
	s := newStranger(t, a, server)
	conn := tls.Client(s.dial(server), s.config)
	write(t, conn, string(appendHeader(nil, header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}))+"half a")
	far := accept()
	expect(t, far, "half a")
	if err := s.conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectReset(t, far)
}

// fakePeer is a gateway that a test plays by hand at the address ip.
func fakePeer(t testing.TB, a *authority, ip netip.Addr, change func(*tls.Config), serve func(*tls.Conn, *net.TCPConn)) {
	t.Helper()
	fakePeerAt(t, a, listen(t, netip.AddrPortFrom(ip, api.PeerPort)), ip, change, serve)
}

// fakePeerAt is fakePeer with a choice of the listener.
func fakePeerAt(t testing.TB, a *authority, l net.Listener, ip netip.Addr, change func(*tls.Config), serve func(*tls.Conn, *net.TCPConn)) {
	t.Helper()
	config := &tls.Config{
		Certificates: []tls.Certificate{a.issue(t, []netip.Addr{ip}, nil)},
		ClientCAs:    a.pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{api.ALPN},
	}
	if change != nil {
		change(config)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patienceForTests))
			serve(tls.Server(conn, config), conn.(*net.TCPConn))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

func TestPeerEndsTooEarly(t *testing.T) {
	a := newAuthority(t)
	for name, serve := range map[string]func(*tls.Conn, *net.TCPConn){
		"no close_notify": func(c *tls.Conn, raw *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1024))
			_, _ = io.WriteString(c, string(rune(statusOK))+"half an answer")
			_ = raw.CloseWrite()
			_, _ = io.Copy(io.Discard, raw)
		},
		"before the status": func(c *tls.Conn, raw *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1024))
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, raw)
		},
		"not allowed": func(c *tls.Conn, raw *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1024))
			_, _ = c.Write([]byte{byte(statusNotAllowed)})
			_ = c.Close()
		},
		"unknown status": func(c *tls.Conn, raw *net.TCPConn) {
			_, _ = c.Read(make([]byte, 1024))
			_, _ = c.Write([]byte{99})
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ip := podAddress()
			fakePeer(t, a, ip, nil, serve)
			// The peer answers the header alone, so the reset may come before
			// the application's dial has returned.
			newPod(t, a, nil).dialReset(netip.AddrPortFrom(ip, 80))
		})
	}
}

// An application that would not see its client gets nothing from it.
func TestClientIsLost(t *testing.T) {
	client, server := pair(t, nil)
	server.sockets.lost.Store(true)
	read := make(chan error, 1)
	destination := application(t, server.ip, func(conn *net.TCPConn) {
		n, err := conn.Read(make([]byte, 1))
		if n > 0 {
			err = errors.New("a byte has come")
		}
		read <- err
	})
	client.dialReset(destination)
	if err := <-read; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the application read %v, want a reset", err)
	}
	line := server.logged("the refusal", func(c api.Connection) bool { return c.Direction == api.Inbound })
	if line.Reason != traffic.ApplicationUnreachable.String() || !strings.Contains(line.Error, "would not see its client") {
		t.Errorf("logged %+v", line)
	}
}

func TestPresentAsFails(t *testing.T) {
	client, server := pair(t, nil)
	broken := errors.New("no such option")
	server.sockets.presentErr.Store(&broken)
	destination, _ := collect(t, server.ip)
	client.dialReset(destination)
	line := server.logged("the refusal", func(c api.Connection) bool { return c.Direction == api.Inbound })
	if !strings.Contains(line.Error, broken.Error()) || line.Peer == "" {
		t.Errorf("logged %+v", line)
	}
}
