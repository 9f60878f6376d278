//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// skewed returns two gateways, the first of whose clocks is ahead of the other. Their
// certificates are for their own clocks: issued now, and backdated as all are.
func skewed(t *testing.T, ahead time.Duration, mode api.Mode) (first, second *testPod) {
	t.Helper()
	a := newAuthority(t)
	at := func(ahead time.Duration) func(*Options) {
		return func(o *Options) {
			c := &clock{}
			c.advance(ahead)
			o.now, o.Config.Mode = c.now, mode
			o.Certificate = a.issue(t, o.Config.PodIPs, func(cert *x509.Certificate) {
				cert.NotBefore, cert.NotAfter = c.now().Add(-ca.Backdate), c.now().Add(time.Hour)
			})
		}
	}
	return newPod(t, a, at(ahead)), newPod(t, a, at(0))
}

// tells reports whether text goes on with about that duration after a beginning. The
// times in certificates are whole seconds, and the test takes its own time.
func tells(text, beginning string, want time.Duration) bool {
	rest, ok := strings.CutPrefix(text, beginning)
	word, _, _ := strings.Cut(rest, " ")
	got, err := time.ParseDuration(word)
	return ok && err == nil && (got-want).Abs() < time.Minute
}

// TestSmallSkewIsHarmless: clocks may differ by almost as much as certificates are
// backdated, whoever dials.
func TestSmallSkewIsHarmless(t *testing.T) {
	for _, ahead := range []time.Duration{10*time.Second - ca.Backdate, ca.Backdate - 10*time.Second} {
		first, second := skewed(t, ahead, api.Strict)
		for _, pair := range [][2]*testPod{{first, second}, {second, first}} {
			pair[0].visit(application(t, pair[1].ip, echo))
		}
	}
}

// TestSkewIsNamed: clocks that differ by more are named as such at both ends.
func TestSkewIsNamed(t *testing.T) {
	first, second := skewed(t, 10*time.Minute+ca.Backdate, api.Strict)
	destination := application(t, first.ip, echo)
	second.dialReset(destination)
	line := second.logged("the dialling end", func(c api.Connection) bool { return c.Destination == destination })
	const peer = "the certificate of a peer that calls itself spiffe://" + testTrustDomain + "/ns/default/sa/app"
	if line.Reason != traffic.PeerNotYetValid.String() || !tells(line.Error, peer+" is not valid before ", 10*time.Minute) || !strings.Contains(line.Error, "clocks differ") {
		t.Errorf("the dialling end says %+v", line)
	}

	destination = application(t, second.ip, echo)
	first.dialReset(destination)
	line = second.logged("the accepting end", func(c api.Connection) bool { return c.Direction == api.Inbound })
	if line.Reason != traffic.ClientNotYetValid.String() || !tells(line.Error, peer+" is not valid before ", 10*time.Minute) {
		t.Errorf("the accepting end says %+v", line)
	}
	line = first.logged("the end that was rejected", func(c api.Connection) bool { return c.Destination == destination })
	if line.Reason != traffic.RejectedTime.String() {
		t.Errorf("the end that was rejected says %+v", line)
	}
}

// TestExpiryIsNamed: so is a certificate that nobody renewed, also where the connection
// goes on in plaintext.
func TestExpiryIsNamed(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		t.Run(string(wire), func(t *testing.T) {
			a, ip, b := newAuthority(t), podAddress(), newBand()
			client := newPod(t, a, func(o *Options) {
				permissive(o)
				o.Sockets.(*testSockets).band = b
				if o.Config.Wire = wire; wire == api.WireInband {
					o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
				}
			})
			expired := func(c *tls.Config) {
				c.Certificates = []tls.Certificate{a.issue(t, []netip.Addr{ip}, func(c *x509.Certificate) {
					c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
				})}
			}
			silent := func(c *tls.Conn, _ *net.TCPConn) { _, _ = c.Read(make([]byte, 1)) }
			var destination netip.AddrPort
			if wire == api.WireInband {
				destination = inbandImpostor(t, a, client, ip, expired, silent)
			} else {
				fakePeer(t, a, ip, expired, silent)
				destination = application(t, ip, echo)
			}
			client.visit(destination)
			client.unencrypted(destination, traffic.PeerExpired)
		})
	}
}

func TestOwnCertificateOutOfTimeIsNamed(t *testing.T) {
	for _, c := range []struct {
		ahead  time.Duration
		reason traffic.Reason
		text   string
		by     time.Duration
	}{
		{2 * time.Hour, traffic.CertificateExpired, "the gateway's own certificate expired ", time.Hour},
		{-time.Hour, traffic.CertificateNotYetValid, "the gateway's own certificate is not valid before ", 55 * time.Minute},
	} {
		now := &clock{}
		client := newPod(t, newAuthority(t), func(o *Options) { o.now = now.now })
		now.advance(c.ahead)
		destination := application(t, podAddress(), echo)
		client.dialReset(destination)
		if line := client.unencrypted(destination, c.reason); !tells(line.Error, c.text, c.by) {
			t.Errorf("%v ahead: %+v", c.ahead, line)
		}
	}
}

func TestValidityProblemIsAboutTimeAlone(t *testing.T) {
	a := newAuthority(t)
	leaf := a.issue(t, []netip.Addr{podAddress()}, nil).Leaf
	now := time.Now().Add(2 * time.Hour) // out of time as well
	for _, reason := range []x509.InvalidReason{x509.NotAuthorizedToSign, x509.IncompatibleUsage} {
		err := fmt.Errorf("wrapped: %w", x509.CertificateInvalidError{Cert: leaf, Reason: reason})
		if _, problem := validityProblem(err, now); problem != nil {
			t.Errorf("%v: %v", err, problem)
		}
	}
	if got := rejection(&net.OpError{Op: "remote error", Err: tls.AlertError(42)}); got != traffic.Rejected {
		t.Errorf("another alert: %q", got)
	}
}
