//go:build linux

package proxy

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// connection is one connection of an application, from accept to its line in the log. One
// goroutine owns it until relaying starts, then the two that relay do. The last of them ends
// it.
type connection struct {
	proxy     *Proxy
	direction traffic.Direction
	counts    *traffic.Counts
	started   time.Time
	// line is filled in by the owner.
	line line

	// client is what the header names. bound is what the application of an outbound connection has bound if that is an
	// address that the certificate does not name.
	client, bound netip.AddrPort
	// route is what an outbound connection dials: the key of its peer in the peerTable.
	route route
	// pod means that the destination is a pod.
	pod bool
	// answer is which gateway behind a Service has answered in band, backend where it was then carried to over a
	// connection to the peer port.
	answer  answer
	backend netip.AddrPort

	// app leads to the local application, wire to the other pod. app is nil while the application waits.
	app, wire stream
	// waiting is what the application's connect(2) waits for, or has waited for; nil if it does not wait.
	waiting *waiting
	// source reads from app, toApp writes to it what was decrypted.
	source *plainReader
	toApp  *sink
	// tls and records are nil for a plaintext connection.
	tls     *tls.Conn
	records *recordConn
	// framing is nil unless tls is this connection's own and has frames.
	framing *framing
	// carrier is what has tls and records, nil if they are this connection's own.
	carrier atomic.Pointer[carrier]
	// rest is what remains to be done by the goroutine that has set up the connection, or nil.
	rest func()
	// attempts is how often the connection had to be carried another way. again means that a peer may
	// have begun it all the same, silent that this one did not even say that it has not.
	attempts      int8
	again, silent bool
	// counted means that countEncrypted has been called.
	counted bool

	// grant is set before the rules are asked about the connection, plaintext before the mode
	// is asked for the last time: whoever changes them afterwards finds the connection.
	grant     atomic.Pointer[grant]
	plaintext atomic.Bool
	// peerCertificate is set before it is asked for the last time whether that is revoked.
	peerCertificate atomic.Pointer[x509.Certificate]
	// pending means that the proxy's Memory has admitted the connection, and it is not settled.
	pending bool
	// peerCounted means that Proxy.byIdentity counts the connection.
	peerCounted bool
	// audited is why the rules would have refused the connection, nil if they would not.
	audited error

	// sent and received count bytes of the local application.
	sent, received atomic.Uint64
	// relaying counts the directions that have not ended.
	relaying atomic.Int32
	// appEnded and wireEnded mean that nothing more is written to app, or in plaintext to wire.
	appEnded, wireEnded atomic.Bool

	mu      sync.Mutex
	sockets [2]stream
	aborted error
	// tuned is what tune has applied to tunedWire.
	tuned     unique.Handle[tuning.Tuning]
	tunedWire stream
	// keeps means that tune has been told to keep.
	keeps bool
	// halfEnded means that one direction has ended, watched is the socket that it has read from, and nil
	// if that goes on without the connection.
	halfEnded bool
	watched   stream

	// edge is set once it is decided how the connection is carried.
	edge atomic.Pointer[traffic.Edge]

	// The registry's mutex guards these: how many bytes are already in the totals, and in
	// those of the edge.
	countedSent, countedReceived uint64
	edgeSent, edgeReceived       uint64
	// seen is the sum of both that the sweeper has seen last.
	seen uint64
}

// line is what the log says of a connection and its record does not have.
type line struct {
	Source, Destination, Dialled netip.AddrPort
	Peer, Wire                   string
	Encrypted                    bool
	// warns means that it is the line of a refusal.
	warns   bool
	session session
	Reason  string
	Error   string
}

// session is what was agreed on in the handshake with the peer. The version is always 1.3.
type session struct {
	// cipher is empty without a handshake.
	cipher          string
	curve           tls.CurveID
	resumed, reused bool
}

// on describes the session of a connection to the peer.
func (s session) on(wire stream) (t api.TLS) {
	if s.cipher == "" {
		return t
	}
	t = api.TLS{Version: tls.VersionName(tls.VersionTLS13), Cipher: s.cipher, Resumed: s.resumed, Reused: s.reused}
	if s.curve != 0 {
		t.KeyExchange = s.curve.String()
	}
	t.Local, t.Remote = endsOf(wire)
	return t
}

// open starts the record of a connection that accepted belongs to. An outbound one has no destination yet.
func (p *Proxy) open(d traffic.Direction, accepted stream) *connection {
	var local netip.AddrPort
	if d == traffic.Inbound {
		local, _ = endsOf(accepted)
	}
	c := p.record(d, remoteEnd(accepted), local, nil)
	c.adopt(accepted)
	return c
}

// record starts the record of a connection, for which the application waits unless w is nil.
func (p *Proxy) record(d traffic.Direction, source, destination netip.AddrPort, w *waiting) *connection {
	c := &connection{proxy: p, direction: d, counts: p.options.Counters.Of(d), started: time.Now(), pending: true, waiting: w, tuned: p.untuned}
	c.line.Wire = api.WireNone
	c.line.Source, c.line.Destination = source, destination
	c.counts.Active.Add(1)
	p.live.add(c)
	p.stir()
	p.many.add()
	return c
}

// adopt makes s part of c, so that abort reaches it: first the accepted one, then the
// dialled one, which may be replaced. If c has been aborted, adopt resets it and
// reports false.
func (c *connection) adopt(s stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	place := 1
	if c.sockets[0] == nil && c.waiting == nil {
		place = 0
	}
	return c.adoptAt(place, s)
}

// adoptAt is adopt for one of c.sockets. c.mu is locked.
func (c *connection) adoptAt(place int, s stream) bool {
	if c.aborted != nil {
		reset(s)
		return false
	}
	if size := c.proxy.options.Memory.Buffer(); size > 0 {
		fitSocket(s, size)
	}
	c.sockets[place] = s
	return true
}

// abort resets both sides. Only the first cause counts: abort reports whether this is it.
func (c *connection) abort(cause error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborted != nil {
		return false
	}
	c.aborted = cause
	if c.waiting != nil {
		c.waiting.cancel()
	}
	for _, socket := range c.sockets {
		if socket != nil {
			reset(socket)
		}
	}
	return true
}

// detach takes the connection to the peer, which goes on, out of the reach of abort. It reports false
// if c has been aborted.
func (c *connection) detach() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborted != nil {
		return false
	}
	// The accepted one comes first.
	if c.dialled() {
		c.sockets[1] = nil
	} else {
		c.sockets[0] = nil
	}
	return true
}

// reader returns what reads from the application.
func (c *connection) reader() (*plainReader, error) {
	if c.source == nil {
		source, err := newPlainReader(c.app, &c.proxy.pools, &c.appEnded)
		if err != nil {
			return nil, err
		}
		source.early = c.tuneEarly
		source.urgency = &c.proxy.options
		c.source, c.toApp = source, newSink(source.raw)
		// What the capture listeners accept inherits their options.
		if app, bare := c.app.(*bareSocket); bare {
			source.inline = c.dialled() || app.outfit.inline
			c.toApp.nagle = !c.dialled() && !app.outfit.noDelay
		}
	}
	return c.source, nil
}

// cause returns why c was aborted, or nil.
func (c *connection) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.aborted
}

// refuse ends a connection that was never carried.
func (c *connection) refuse(reason traffic.Reason, err error) {
	if c.waiting != nil {
		reason, err = c.waiting.refused(reason, err, c.cause())
	}
	if c.dialled() && reason != traffic.Stopping && reason != traffic.GaveUp {
		c.note(false)
	}
	c.abort(cmp.Or(err, errors.New(reason.String())))
	c.closeRefused(reason, err)
}

// closeRefused is refuse for a caller that has answered the other side itself.
func (c *connection) closeRefused(reason traffic.Reason, err error) {
	c.counts.Refused.Add(1)
	c.line.warns = true
	c.counts.Because(reason)
	c.because(reason)
	if err != nil && err.Error() != reason.String() {
		c.line.Error = err.Error()
	}
	c.closeSockets()
	c.report()
	c.forget()
}

// unused ends what carries nothing and is counted as nothing. The caller closes it.
func (c *connection) unused() {
	c.settle()
	c.counts.Active.Add(-1)
	c.forget()
}

// because adds to the log line why c is not encrypted, behind an earlier reason.
func (c *connection) because(reason traffic.Reason) {
	if c.line.Reason != "" {
		c.line.Reason += "; "
	}
	c.line.Reason += reason.String()
}

// countEncrypted counts a connection that is about to be relayed under TLS.
func (c *connection) countEncrypted() {
	c.counted = true
	c.counts.Encrypted.Add(1)
	if c.line.session.reused {
		c.counts.Reused.Add(1)
	}
	if c.line.Wire == api.WireInband {
		c.counts.Inband.Add(1)
	}
	c.openEdge()
}

func (c *connection) closeSockets() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, socket := range c.sockets {
		if socket != nil {
			closeGently(socket)
		}
	}
}

// report writes the connection's line and no longer counts it as open.
func (c *connection) report() {
	c.settle()
	if c.peerCounted {
		c.proxy.byIdentity.release(c.line.Peer)
	}
	c.proxy.live.account(c)
	c.closeEdge()
	c.counts.Active.Add(-1)
	l := &c.line
	said := api.Connection{
		Direction: c.direction.String(), Source: l.Source, Destination: l.Destination, Dialled: l.Dialled,
		Peer: l.Peer, Wire: l.Wire, Encrypted: l.Encrypted, TLS: l.session.on(c.wire), Reason: l.Reason,
		Sent: c.sent.Load(), Received: c.received.Load(), Duration: time.Since(c.started).Seconds(), Error: l.Error,
	}
	if l.warns {
		said.Level = slog.LevelWarn.String()
	}
	c.proxy.options.Log.Connection(&said)
}

// forget is the last thing that happens to a connection.
func (c *connection) forget() {
	if c.records != nil && c.carrier.Load() == nil {
		c.records.release()
	}
	if c.cause() == errStopping {
		c.proxy.options.Counters.Aborted.Add(1)
	}
	if c.waiting != nil {
		c.proxy.waiters.end(c)
	}
	c.proxy.options.Counters.Ended.Add(1)
	c.proxy.live.remove(c)
}

// registry holds the open connections. Its mutex is locked when one begins or ends, and by
// the sweeper, never while bytes are relayed.
type registry struct {
	mu          sync.Mutex
	connections map[*connection]struct{}
	// last is closed when the last connection has ended; nil unless there is a waiter.
	last chan struct{}
}

func (r *registry) add(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connections[c] = struct{}{}
}

func (r *registry) remove(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.connections, c)
	if r.last != nil && len(r.connections) == 0 {
		close(r.last)
		r.last = nil
	}
}

// empty returns a channel that is closed as soon as there is a moment without
// any connection.
func (r *registry) empty() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil {
		r.last = make(chan struct{})
	}
	last := r.last
	if len(r.connections) == 0 {
		close(r.last)
		r.last = nil
	}
	return last
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.connections)
}

// snapshot returns the open connections.
func (r *registry) snapshot() []*connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.connections))
}

// account adds the bytes that c has carried since the last call to the totals, so that the
// relay itself never touches memory that connections share.
func (r *registry) account(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accountLocked(c)
}

// accountAll accounts for every open connection.
func (r *registry) accountAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.connections {
		r.accountLocked(c)
	}
}

func (r *registry) accountLocked(c *connection) {
	sent, received := c.sent.Load(), c.received.Load()
	c.counts.Sent.Add(sent - c.countedSent)
	c.counts.Received.Add(received - c.countedReceived)
	c.countedSent, c.countedReceived = sent, received
	if e := c.edge.Load(); e != nil {
		e.Sent.Add(sent - c.edgeSent)
		e.Received.Add(received - c.edgeReceived)
		c.edgeSent, c.edgeReceived = sent, received
	}
}

// addrPort returns a TCP address with IPv4 addresses unmapped, so that addresses compare.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
