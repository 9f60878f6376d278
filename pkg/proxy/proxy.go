//go:build linux

package proxy

import (
	"cmp"
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
	"unique"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Sockets is what the proxy asks the eBPF programs about its own sockets.
type Sockets interface {
	// OriginalDestination returns what the application behind the captured socket fd
	// connected to. pod means that it is the address of a pod, which its certificate must
	// name. Behind other addresses the cluster chooses a pod.
	OriginalDestination(fd int) (destination netip.AddrPort, pod bool, err error)
	// PresentAs makes client the peer's address for the application that socket fd will be
	// connected to. It is called before connect(2).
	PresentAs(fd int, client netip.AddrPort) error
	// HandedOver reports whether that application sees client. It is called after connect(2). established says that the
	// connection is there.
	HandedOver(fd int) (done, established bool, err error)
	// MarkInband makes the TCP handshake of socket fd ask whether there is a
	// gateway at the other end, by an option in the first SYNs. It is called before connect(2).
	MarkInband(fd, syns int) error
	// Negotiated reports whether the other end of socket fd showed in the TCP handshake that
	// it has a gateway, or else whether no SYN with the option was answered. It is called for
	// connected sockets that were marked and for those accepted from an in-band listener.
	Negotiated(fd int) (shown, givenUp bool, err error)
	// Answered returns what the gateway that has shown itself said about itself: the number of its pod, and the port
	// of the connection at its end. gateway is 0 if it said nothing. It is called for sockets that
	// were marked, after Negotiated.
	Answered(fd int) (gateway uint32, port uint16, err error)
	// FromOutside reports whether the address at the other end of socket fd belongs to no pod and no node, as far
	// as is known. It is called for connections of other gateways.
	FromOutside(fd int) (bool, error)
	// UrgentAt returns the place in the stream of the first urgent byte that has come to socket fd, counted from 1, or 0
	// if none has. It is called where there are Options.Urgent, for a captured socket or one that PresentAs was called for.
	UrgentAt(fd int) (place uint64, err error)
	// Tuning returns how the application at the other end of socket fd has tuned its own socket, for a
	// captured socket or one that PresentAs was called for.
	Tuning(fd int) (tuning.Tuning, error)
}

// Options is everything that a Proxy needs. Durations that are zero mean the default named
// beside them.
type Options struct {
	Config      *api.Config
	Certificate tls.Certificate
	// Roots is the trust bundle.
	Roots *x509.CertPool
	// Capture are the loopback listeners where captured connections arrive, Peer is the one
	// that other gateways dial, Inband are those where inbound connections arrive that show
	// the TCP option. Serve closes them. Without Inband, wire=inband is dialled but not
	// served.
	Capture []net.Listener
	Peer    net.Listener
	Inband  []net.Listener
	// Gates have connections that are to wait until it is known what becomes of them. Serve closes them.
	// Without a Gate of its address family a connection comes to its listener at once.
	Gates []Gate
	// PeersAfter is closed when connections may be accepted from Peer; nil is from the start.
	PeersAfter <-chan struct{}
	// Sources6 are addresses to dial applications from over IPv6, which lead to loopback: a /64, or the zero value for
	// ::1 alone.
	Sources6 netip.Prefix
	Sockets  Sockets
	Log      *Logger
	// Counters counts the connections; nil means counters of the Proxy's own. In shared
	// memory they outlive the process.
	Counters *traffic.Counters
	// Urgent is 0 until urgent data comes from an application for the first time, and changes before a byte of it can be read.
	// nil is that nobody knows: then each read from an application's socket takes two more system calls.
	Urgent interface{ Load() uint32 }
	// Memory bounds connections and their buffers; nil is no bound. Whoever gives one calls
	// FitMemory while there is traffic.
	Memory *memory.Budget
	// Resting is called when it is time to give memory back: when there has been no connection for at least five seconds, none is kept
	// open for later, and nothing was logged (the Proxy does nothing more until there is), and when many connections that
	// carry nothing have given up what they can. nil is nothing.
	Resting func()
	// Quiet is called every few seconds while there are many connections and none carries anything. nil is nothing.
	Quiet func()

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
	// DrainTimeout is how long Serve lets connections finish after its context is done,
	// unless Abort is called before. Default: 5 s; negative: abort at once.
	DrainTimeout time.Duration

	// now replaces the clock in tests, whose pods may have loopback addresses.
	now          func() time.Time
	loopbackPods bool
	// sweep replaces sweepInterval in tests.
	sweep time.Duration
	// answerWithin and endWithin replace the constants in tests.
	answerWithin, endWithin time.Duration
	// handshakes replaces the limits on half-open handshakes in tests.
	handshakes *handshakeLimit
}

const (
	permissiveDialTimeout   = 1500 * time.Millisecond
	strictDialTimeout       = 10 * time.Second
	defaultPlainTimeout     = 2 * time.Minute
	defaultLocalTimeout     = 5 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultDrainTimeout     = 5 * time.Second
)

// Proxy carries the connections of one pod.
type Proxy struct {
	options    Options
	settings   atomic.Pointer[settings]
	live       *registry
	edges      *traffic.Edges
	peers      *peerTable
	carriers   *pool
	waiters    *waiters
	begun      begun
	revoked    atomic.Pointer[ca.Revocations]
	byIdentity *identityCounts
	crowded    *throttle
	exhausted  *throttle
	pools      bufferPools
	// times are those of the kernel's keepalive.
	times tuning.Times
	// untuned is that of an application that has set nothing.
	untuned unique.Handle[tuning.Tuning]
	// fitted is the size that FitMemory has given to the buffers of open connections.
	fitted atomic.Int64
	// fits counts the changes of it. Sockets of before and after one do not stand in for each other.
	fits atomic.Uint32
	// lot is where goroutines of idle connections park, nil where they cannot. parked is how many have since memory was
	// given back; it belongs to the sweeper.
	lot    *lot
	parked int
	// many tells the sweeper that many connections have begun.
	many crowd
	// null is open for /dev/null, or -1.
	null  int
	spent spent
	used  used
	// stirred means that something to sweep was added since the last sweep, and awake has the sweeper go on.
	stirred atomic.Bool
	awake   chan struct{}
	// ports are those of the listeners.
	ports []uint16

	// ctx is done when connections that are being set up must end.
	ctx    context.Context
	cancel context.CancelFunc
	served atomic.Bool
	// quiescing has those who ask Serve to quiesce.
	quiescing chan chan<- bool
	// watching means that watchLost has a timer.
	watching atomic.Bool
	// dropped knows where the TCP option is of no use, and asking has the connections that try it.
	dropped *droppedTable
	asking  sync.WaitGroup
	// linger is what Linger was called with, in nanoseconds.
	linger atomic.Int64
	// aborting is closed by Abort.
	aborting chan struct{}
	abort    sync.Once
}

// New checks the options and returns a Proxy, which Serve runs. The certificate must belong to
// the trust domain and name all addresses of the pod. It may have expired: the mode decides
// what happens then.
func New(o Options) (*Proxy, error) {
	switch {
	case o.Sockets == nil || o.Log == nil:
		return nil, errors.New("setting up the proxy: sockets or log are missing")
	case len(o.Capture) == 0 || o.Peer == nil:
		return nil, errors.New("setting up the proxy: a listener is missing")
	}
	o.PlainTimeout = cmp.Or(o.PlainTimeout, defaultPlainTimeout)
	o.LocalTimeout = cmp.Or(o.LocalTimeout, defaultLocalTimeout)
	o.HandshakeTimeout = cmp.Or(o.HandshakeTimeout, defaultHandshakeTimeout)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, defaultDrainTimeout)
	if o.now == nil {
		o.now = time.Now
	}
	if o.Counters == nil {
		o.Counters = new(traffic.Counters)
	}
	if o.handshakes == nil {
		o.handshakes = newHandshakeLimit(maxHandshakes, maxHandshakesPerSource)
	}
	p := &Proxy{
		options:    o,
		live:       &registry{connections: make(map[*connection]struct{})},
		edges:      traffic.NewEdges(),
		peers:      newPeerTable(maxPeers, o.now),
		carriers:   newPool(cmp.Or(o.endWithin, endWithin)),
		waiters:    newWaiters(o.Gates),
		begun:      begun{by: make(map[ends]beginning)},
		dropped:    newDroppedTable(o.now),
		byIdentity: &identityCounts{open: make(map[string]int)},
		crowded:    newThrottle(time.Second),
		exhausted:  newThrottle(time.Second),
		untuned:    unique.Make(tuning.Tuning{}),
		awake:      make(chan struct{}, 1),
		many:       crowd{ready: make(chan struct{}, 1)},
		quiescing:  make(chan chan<- bool),
		aborting:   make(chan struct{}),
	}
	var err error
	if p.times, err = tuning.KernelTimes(); err != nil {
		return nil, fmt.Errorf("setting up the proxy: %w", err)
	}
	for _, l := range p.listeners() {
		if err := prepareListener(l, slices.Contains(o.Capture, l)); err != nil {
			return nil, fmt.Errorf("setting up the proxy: %w", err)
		}
		p.ports = append(p.ports, addrPort(l.Addr()).Port())
	}
	if err := p.Update(o.Config, o.Certificate, o.Roots); err != nil {
		return nil, err
	}
	// The line about those that were left out may come a minute after the last connection.
	stir := p.stir
	p.options.Log.wrote.Store(&stir)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.lot = newLot()
	if p.null, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		p.null = -1
	}
	return p, nil
}

// listeners returns all listeners.
func (p *Proxy) listeners() []net.Listener {
	return slices.Concat([]net.Listener{p.options.Peer}, p.options.Capture, p.options.Inband)
}

// Update replaces configuration (mode, wire and identity rules included), certificate and trust
// bundle for connections that start from now on; open ones stay as they are. A connection that
// is being set up obeys the mode and the rules of both settings. Sessions of the earlier
// settings cannot be resumed, and connections to peers that were made under them are not used again.
func (p *Proxy) Update(config *api.Config, certificate tls.Certificate, roots *x509.CertPool) error {
	s, err := newSettings(config, certificate, roots, p.options.now)
	if err != nil {
		return fmt.Errorf("setting up the proxy: %w", err)
	}
	s.loopbackPods, s.revoked = p.options.loopbackPods, &p.revoked
	p.settings.Store(s)
	p.carriers.drop()
	return nil
}

// Traffic returns the counts so far, those of open connections included.
func (p *Proxy) Traffic() api.Traffic {
	p.live.accountAll()
	return p.options.Counters.Traffic()
}

// admit starts an inbound connection. If too many are not yet authenticated, one of them ends.
func (p *Proxy) admit(conn stream, wire string) {
	source := remoteEnd(conn).Addr()
	c := p.open(traffic.Inbound, conn)
	h, crowded := p.options.handshakes.acquire(source, func() { c.abort(errEvicted) })
	if crowded {
		if held, ok := p.crowded.allow(); ok {
			p.options.Log.Slog().Warn(errEvicted.Error(), "source", source.String(), "notLogged", held)
		}
	}
	go p.inbound(c, wire, func() bool { return p.options.handshakes.release(h) })
}
