//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// Sockets is what the proxy asks the eBPF programs about its own sockets.
type Sockets interface {
	// OriginalDestination returns where the application that is behind the
	// captured socket fd wanted to go.
	OriginalDestination(fd int) (netip.AddrPort, error)
	// PresentAs makes the application that socket fd is about to be connected
	// to see client as the peer's address. It is called before connect(2).
	PresentAs(fd int, client netip.AddrPort) error
}

// Options is everything that a Proxy needs. Durations that are zero take the
// default named beside them.
type Options struct {
	Config      *api.Config
	Certificate tls.Certificate
	// Roots is the trust bundle.
	Roots *x509.CertPool
	// Capture are the loopback listeners where captured connections arrive,
	// Peer is the one that other gateways dial. Serve closes them.
	Capture []net.Listener
	Peer    net.Listener
	Sockets Sockets
	Log     *Logger
	// Counters is where connections are counted; nil means counters of the
	// Proxy's own. With MapCounters they outlive the process.
	Counters *Counters

	// DialTimeout bounds the TCP handshake with a peer. The default is
	// 1.5 s in permissive mode, so that a lost SYN and its retransmission
	// after one second (RFC 6298) still find the gateway, and 10 s in strict
	// mode, where there is nothing else to try.
	DialTimeout time.Duration
	// PlainTimeout bounds the TCP handshake of a plaintext connection.
	// Default: 2 minutes, about what the kernel's own tcp_syn_retries take.
	PlainTimeout time.Duration
	// LocalTimeout bounds the TCP handshake with the local application.
	// Default: 5 s.
	LocalTimeout time.Duration
	// HandshakeTimeout bounds TLS handshake and header. Default: 10 s for a
	// peer that connects, half of it for a peer that is dialled.
	HandshakeTimeout time.Duration
	// UnackedTimeout is how long a peer's kernel may leave data or window
	// probes unacknowledged before the connection is aborted. Default: 30 s.
	UnackedTimeout time.Duration
	// DrainTimeout is how long Serve lets connections finish once its context
	// is done. Default: 5 s; negative: abort at once.
	DrainTimeout time.Duration

	// now replaces the clock in tests.
	now func() time.Time
}

// New checks the options and returns a Proxy that does nothing yet.
func New(o Options) (*Proxy, error) {
	return nil, nil
}

// Proxy carries the connections of one pod.
type Proxy struct{}

// Serve carries connections until ctx is done, then closes the listeners, lets
// connections finish for the drain timeout, aborts the rest and returns nil.
// It returns an error only when a listener fails for good.
func (p *Proxy) Serve(ctx context.Context) error { return nil }

// Update replaces configuration, certificate and trust bundle for connections
// that start from now on; those that are open stay as they are. Sessions of
// the earlier settings cannot be resumed.
func (p *Proxy) Update(config *api.Config, certificate tls.Certificate, roots *x509.CertPool) error {
	return nil
}

// Traffic returns the counts so far, those of open connections included.
func (p *Proxy) Traffic() api.Traffic { return api.Traffic{} }
