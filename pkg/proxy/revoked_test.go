//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// revoke returns what a says when it has revoked a certificate.
func (a *authority) revoke(t testing.TB, leaf *x509.Certificate) *ca.Revocations {
	t.Helper()
	signer := must.Get(ca.Import(a.CertPEM(), a.KeyPEM(t), testTrustDomain))(t)
	now := time.Now()
	return must.Get(signer.Revoke(nil, []ca.Revocation{{Serial: leaf.SerialNumber.Text(16), At: now, Until: leaf.NotAfter}}, now))(t)
}

// TestRevokedClient: the connections of a revoked client end, and it gets no other one; others go on.
func TestRevokedClient(t *testing.T) {
	for _, wire := range []string{api.WirePort, api.WireInband} {
		t.Run(wire, func(t *testing.T) {
			a, b := newAuthority(t), newBand()
			server := newPod(t, a, func(o *Options) { inBand(o, b) })
			dialling := func(o *Options) {
				o.Sockets.(*testSockets).band = b
				if wire == api.WireInband {
					o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(server.ip, 0)}
				}
			}
			client, other := newPod(t, a, dialling), newPod(t, a, dialling)
			destination := applicationAt(t, b.behind(t, server.ip), echo)
			ends, stays := client.dial(destination), other.dial(destination)
			ping(t, ends)
			ping(t, stays)
			server.proxy.Revoke(a.revoke(t, client.options.Certificate.Leaf))
			expectReset(t, ends)
			client.dialReset(destination)
			line := server.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.Revoked.String() })
			if line.Encrypted || line.Direction != api.Inbound || line.Error != "peer's certificate: certificate is revoked" {
				t.Errorf("logged %+v", line)
			}
			ping(t, stays)
			ping(t, other.dial(destination))
			line = server.logged("the reset", func(c api.Connection) bool { return c.Encrypted && c.Error != "" })
			if line.Error != "peer's certificate: certificate is revoked" || line.Wire != wire {
				t.Errorf("logged %+v", line)
			}
			if got := server.proxy.Traffic().Inbound.Reset; got != 1 {
				t.Errorf("%d connections were reset", got)
			}
		})
	}
}

// TestRevokedServer: a client ends its connections to a revoked server, and dials it in vain.
func TestRevokedServer(t *testing.T) {
	a := newAuthority(t)
	client, server := newPod(t, a, nil), newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	visitAndWait(t, client, server, destination) // leaves a carrier
	ends := client.dial(destination)
	ping(t, ends)
	client.proxy.Revoke(a.revoke(t, server.options.Certificate.Leaf))
	expectReset(t, ends)
	client.dialReset(destination)
	client.logged("the refusal", func(c api.Connection) bool {
		return c.Direction == api.Outbound && c.Reason == traffic.Revoked.String()
	})
	if got := client.proxy.Traffic().Outbound.Reset; got != 1 {
		t.Errorf("%d connections were reset", got)
	}
}

// TestRevokedHeader: a peer that goes on with a connection that it has, after it was asked not to, is refused.
func TestRevokedHeader(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	f := s.framed(server)
	f.send(headed(h), data("ping"), ending())
	f.want(answered(statusOK), data("ping"), ending())
	eventually(t, "the carrier to wait", func() bool { return server.waits() == 1 })
	server.proxy.Revoke(a.revoke(t, s.config.Certificates[0].Leaf))
	f.send(headed(h), data("ping"), ending())
	for {
		got, err := f.next()
		if err != nil {
			break
		}
		if got.kind != frameGoAway && !(got.kind == frameStatus && status(got.payload[0]) == statusAgain) {
			t.Fatalf("answered %v %q", got.kind, got.payload)
		}
	}
	// It is refused before anything is done for it.
	eventually(t, "its end", func() bool { return server.settled().Inbound.Encrypted == 1 })
}

// TestRevokedSession: a session that was begun before is not resumed.
func TestRevokedSession(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	s.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
	for i := range 2 {
		conn := tls.Client(s.dial(server), s.config)
		write(t, conn, string(appendHeader(nil, h))+"ping")
		expect(t, conn, string(rune(statusOK))+"ping")
		if got := conn.ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d: resumed %t", i, got)
		}
		_ = conn.Close()
	}
	server.proxy.Revoke(a.revoke(t, s.config.Certificates[0].Leaf))
	conn := tls.Client(s.dial(server), s.config)
	_ = conn.Handshake()
	must.Do(t, conn.SetDeadline(time.Now().Add(patienceForTests)))
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes after revocation", n)
	}
	server.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.Revoked.String() })
}
