//go:build linux

package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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
	// MarkInband makes the TCP handshake of socket fd ask whether there is a
	// gateway at the other end. It is called before connect(2).
	MarkInband(fd int) error
	// PeerShown reports whether the other end of socket fd showed in the TCP
	// handshake that it has a gateway. It is asked about connected sockets that
	// were marked and about those accepted from an in-band listener.
	PeerShown(fd int) (bool, error)
}

// Options is everything that a Proxy needs. Durations that are zero take the
// default named beside them.
type Options struct {
	Config      *api.Config
	Certificate tls.Certificate
	// Roots is the trust bundle.
	Roots *x509.CertPool
	// Capture are the loopback listeners where captured connections arrive,
	// Peer is the one that other gateways dial, Inband are those that inbound
	// connections are steered to which show that they come from a gateway. Serve
	// closes them. Without Inband, wire=inband is dialled but not served.
	Capture []net.Listener
	Peer    net.Listener
	Inband  []net.Listener
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
	// probes unacknowledged before the connection is aborted. Default: 60 s,
	// about as long as keepalive takes to find an idle peer gone.
	UnackedTimeout time.Duration
	// DrainTimeout is how long Serve lets connections finish once its context
	// is done. Default: 5 s; negative: abort at once.
	DrainTimeout time.Duration

	// now replaces the clock in tests.
	now func() time.Time
	// handshakes replaces the limits on half-open handshakes in tests.
	handshakes *handshakeLimit
}

const (
	permissiveDialTimeout   = 1500 * time.Millisecond
	strictDialTimeout       = 10 * time.Second
	defaultPlainTimeout     = 2 * time.Minute
	defaultLocalTimeout     = 5 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultUnackedTimeout   = 60 * time.Second
	defaultDrainTimeout     = 5 * time.Second
)

// Proxy carries the connections of one pod.
type Proxy struct {
	options          Options
	handshakeTimeout time.Duration
	unackedTimeout   time.Duration

	settings   atomic.Pointer[settings]
	sockets    Sockets
	log        *Logger
	counters   *Counters
	live       *registry
	peers      *peerTable
	handshakes *handshakeLimit
	crowded    occasion
	exhausted  occasion
	pools      bufferPools

	// ctx is done when connections that are still being set up must give up.
	ctx    context.Context
	cancel context.CancelFunc
	served atomic.Bool
}

// New checks the options and returns a Proxy that does nothing yet. The
// certificate must belong to the trust domain and name all addresses of the
// pod; that it has expired is no error, because the mode says what to do then.
func New(o Options) (*Proxy, error) {
	switch {
	case o.Sockets == nil || o.Log == nil:
		return nil, errors.New("setting up the proxy: sockets or log are missing")
	case len(o.Capture) == 0 || o.Peer == nil:
		return nil, errors.New("setting up the proxy: a listener is missing")
	}
	defaultTo(&o.PlainTimeout, defaultPlainTimeout)
	defaultTo(&o.LocalTimeout, defaultLocalTimeout)
	defaultTo(&o.HandshakeTimeout, defaultHandshakeTimeout)
	defaultTo(&o.UnackedTimeout, defaultUnackedTimeout)
	defaultTo(&o.DrainTimeout, defaultDrainTimeout)
	if o.now == nil {
		o.now = time.Now
	}
	if o.Counters == nil {
		o.Counters = NewCounters()
	}
	if o.handshakes == nil {
		o.handshakes = newHandshakeLimit(maxHandshakes, maxHandshakesPerSource)
	}
	p := &Proxy{
		options:          o,
		handshakeTimeout: o.HandshakeTimeout,
		unackedTimeout:   o.UnackedTimeout,
		sockets:          o.Sockets,
		log:              o.Log,
		counters:         o.Counters,
		live:             newRegistry(),
		peers:            newPeerTable(maxPeers, o.now),
		handshakes:       o.handshakes,
		crowded:          occasion{interval: time.Second},
		exhausted:        occasion{interval: time.Second},
	}
	if err := p.Update(o.Config, o.Certificate, o.Roots); err != nil {
		return nil, err
	}
	p.counters.ResetActive()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

func defaultTo(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Update replaces configuration (mode, wire and identity rules among it),
// certificate and trust bundle for connections that start from now on; those
// that are open stay as they are. One that is still being set up obeys the mode
// and the rules of both, whichever are stricter. Sessions of the earlier settings
// cannot be resumed.
func (p *Proxy) Update(config *api.Config, certificate tls.Certificate, roots *x509.CertPool) error {
	s, err := newSettings(config, certificate, roots, p.options.now)
	if err != nil {
		return fmt.Errorf("setting up the proxy: %w", err)
	}
	p.settings.Store(s)
	return nil
}

// Traffic returns the counts so far, those of open connections included.
func (p *Proxy) Traffic() api.Traffic {
	p.live.settleAll()
	return p.counters.Traffic()
}

// Serve carries connections until ctx is done, then closes the listeners, lets
// connections finish for the drain timeout, aborts the rest and returns nil.
// It returns an error only when a listener fails for good. It can be called
// once.
func (p *Proxy) Serve(ctx context.Context) error {
	if p.served.Swap(true) {
		return errors.New("the proxy has served already")
	}
	defer p.cancel()
	stop, stopped := context.WithCancelCause(ctx)
	defer stopped(nil)

	var listeners, sweeper sync.WaitGroup
	accept := func(l net.Listener, handle func(*net.TCPConn)) {
		listeners.Go(func() {
			if err := p.accept(stop, l, handle); err != nil {
				stopped(err)
			}
		})
	}
	for _, l := range p.options.Capture {
		accept(l, func(conn *net.TCPConn) { go p.outbound(p.open(api.Outbound, conn)) })
	}
	accept(p.options.Peer, func(conn *net.TCPConn) { p.admit(conn, api.WirePort) })
	for _, l := range p.options.Inband {
		accept(l, p.admitInband)
	}
	sweepCtx, stopSweep := context.WithCancel(context.Background())
	sweeper.Go(func() { p.sweep(sweepCtx) })

	<-stop.Done()
	for _, l := range slices.Concat([]net.Listener{p.options.Peer}, p.options.Capture, p.options.Inband) {
		// An error means that it is closed already.
		_ = l.Close()
	}
	listeners.Wait()
	p.drain()
	stopSweep()
	sweeper.Wait()
	if err := context.Cause(stop); ctx.Err() == nil {
		return fmt.Errorf("accepting connections: %w", err)
	}
	return nil
}

// drain lets connections end, and aborts those that have not by the drain
// timeout.
func (p *Proxy) drain() {
	empty := p.live.drain()
	timer := time.NewTimer(max(0, p.options.DrainTimeout))
	defer timer.Stop()
	select {
	case <-empty:
		return
	case <-timer.C:
	}
	p.cancel()
	for _, c := range p.live.snapshot() {
		c.abort(errStopping)
	}
	<-empty
}

var errStopping = errors.New(reasonStopping)

// accept hands the connections of l to handle until stop is done. It survives
// every error but that the listener itself is closed. handle enters a
// connection in the registry before it returns, so that once all listeners
// have ended no connection is missing there.
func (p *Proxy) accept(stop context.Context, l net.Listener, handle func(*net.TCPConn)) error {
	var wait backOff
	for {
		conn, err := l.Accept()
		if err == nil {
			wait = 0
			tcp, ok := conn.(*net.TCPConn)
			if !ok {
				_ = conn.Close()
				return fmt.Errorf("listener %v is not one of TCP", l.Addr())
			}
			handle(tcp)
			continue
		}
		if stop.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		delay := wait.next()
		if held, ok := p.exhausted.take(time.Now()); ok {
			p.log.Slog().Error("cannot accept connections", "listener", l.Addr().String(),
				"error", err.Error(), "retryIn", delay.Seconds(), "notLogged", held)
		}
		select {
		case <-stop.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// admit starts an inbound connection unless there are too many that have not
// proven who they are.
func (p *Proxy) admit(conn *net.TCPConn, wire string) {
	source := addrPort(conn.RemoteAddr()).Addr()
	if !p.handshakes.enter(source) {
		reset(conn)
		p.counters.inbound.refused.Add(1)
		if held, ok := p.crowded.take(time.Now()); ok {
			p.log.Slog().Warn("too many handshakes at once", "source", source.String(), "notLogged", held)
		}
		return
	}
	go p.inbound(p.open(api.Inbound, conn), wire, func() { p.handshakes.leave(source) })
}
