//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// inbandImpostor plays what a marked dial to the returned address meets; the
// application behind it takes plaintext.
func inbandImpostor(t *testing.T, a *authority, client *testPod, ip netip.Addr, change func(*tls.Config), serve func(*tls.Conn, *net.TCPConn)) netip.AddrPort {
	t.Helper()
	b := client.sockets.band
	destination := applicationAt(t, b.behind(t, ip), echo)
	fakePeerAt(t, a, b, ip, change, serve)
	return destination
}

func TestInbandImpostorGetsNothing(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		for _, kind := range []string{"service", "pod"} {
			for name := range impostors(a, other, podAddress()) {
				t.Run(string(mode)+"/"+kind+"/"+name, func(t *testing.T) {
					ip, b := podAddress(), newBand()
					client := newPod(t, a, func(o *Options) {
						o.Sockets.(*testSockets).band = b
						o.Config.Mode = mode
						if kind == "pod" {
							o.Config.Wire = api.WireInband
						} else {
							o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
						}
					})
					var leaked atomic.Int64
					destination := inbandImpostor(t, a, client, ip,
						func(c *tls.Config) { impostors(a, other, ip)[name](t, c) },
						func(c *tls.Conn, _ *net.TCPConn) {
							n, _ := c.Read(make([]byte, 1024))
							leaked.Add(int64(n))
							if n > 0 {
								_, _ = c.Write([]byte{byte(statusOK), 'x'})
								_ = c.CloseWrite()
								_, _ = io.Copy(io.Discard, c)
							}
						})
					if kind == "service" && name == "another address" {
						// Which pod answers for a Service is the cluster's choice.
						expect(t, client.dial(destination), "x")
						return
					}
					client.distrusts(destination, &leaked)
				})
			}
		}
	}
}

// Sessions made with a Service count nothing where a certain pod is asked for.
func TestServiceSessionIsNoPodSession(t *testing.T) {
	a, c, ip, b := newAuthority(t), &clock{}, podAddress(), newBand()
	client := newPod(t, a, func(o *Options) {
		o.Sockets.(*testSockets).band, o.now = b, c.now
		o.Config.Wire = api.WireInband
	})
	var g greeter
	// The certificate names another address.
	destination := inbandImpostor(t, a, client, ip,
		func(c *tls.Config) { c.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{podAddress()}, nil)} },
		g.serve)
	// The same address is a node for one port, and a pod for the others.
	client.sockets.services = []netip.AddrPort{destination}
	for range 2 {
		client.greeted(destination)
	}
	if resumed, _ := g.saw(); !slices.Equal(resumed, []bool{false, true}) {
		t.Fatalf("resumed %t", resumed)
	}
	pod := b.behind(t, ip)
	client.dialReset(addrPort(pod.Addr()))
	if line := client.unencrypted(addrPort(pod.Addr()), traffic.NotTrusted); !strings.Contains(line.Error, "certificate is valid for") {
		t.Errorf("logged %+v", line)
	}

	// A resumed session does not outlive its certificate either.
	c.advance(65 * time.Minute)
	client.options.Certificate = a.issue(t, []netip.Addr{client.ip}, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Hour) })
	client.dialReset(destination)
	if resumed, _ := g.saw(); len(resumed) != 2 {
		t.Error("a session with an expired certificate was resumed")
	}
}

// verifyService must not rely on what crypto/tls did before.
func TestVerifyServiceLooksAtEverything(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	ip := []netip.Addr{podAddress()}
	s := &settings{loopbackPods: true, trustDomain: testTrustDomain, now: time.Now, roots: a.pool}
	leaf := func(by *authority, change func(*x509.Certificate)) *x509.Certificate {
		return by.issue(t, ip, change).Leaf
	}
	for name, c := range map[string]struct {
		leaf *x509.Certificate
		want string
	}{
		"good":                 {leaf(a, nil), ""},
		"another authority":    {leaf(other, nil), "unknown authority"},
		"expired":              {leaf(a, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		"not yet valid":        {leaf(a, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "not yet valid"},
		"another trust domain": {leaf(a, func(c *x509.Certificate) { c.URIs[0].Host = "elsewhere.test" }), "trust domain"},
		"two identities":       {leaf(a, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), "URI names"},
		"no server usage":      {leaf(a, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), "key usage"},
	} {
		for _, resumed := range []bool{false, true} {
			err := s.verifyService(tls.ConnectionState{
				Version: tls.VersionTLS13, NegotiatedProtocol: api.ALPN, DidResume: resumed,
				PeerCertificates: []*x509.Certificate{c.leaf},
				// What somebody else verified does not count.
				VerifiedChains: [][]*x509.Certificate{{c.leaf, a.Cert}},
			})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, resumed %t: %v, want %q", name, resumed, err, c.want)
			}
		}
	}
	if err := s.verifyService(tls.ConnectionState{Version: tls.VersionTLS13, NegotiatedProtocol: api.ALPN}); err == nil {
		t.Error("no certificate is taken")
	}
}
