//go:build linux

package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// How long a permissive gateway remembers that an address has no gateway. A refusal costs a
// round trip to ask for again, and a pod that was enabled a moment after this one must not
// wait for its first encrypted connection. Silence costs the dial timeout, once: while there are
// connections to such an address, the gateway asks it again with connections of its own.
const (
	rememberRefused = 100 * time.Millisecond
	rememberFailed  = 5 * time.Second
	rememberSilent  = 30 * time.Second
)

// How long a gateway waits before it dials again a peer that has reset the TLS handshake: at first,
// and at most, which makes five attempts within less than a second.
const (
	resetRetry    = 50 * time.Millisecond
	maxResetRetry = 400 * time.Millisecond
)

// maxPeers bounds the memory; an entry takes about 200 bytes.
const maxPeers = 4096

// failure is why a connection could not be encrypted.
type failure struct {
	reason traffic.Reason
	// err says more, if there is more to say.
	err error
	// remember is how long the peer is assumed to have no gateway. 0 is not at all.
	remember time.Duration
	// open is a connection to the destination for plaintext, on which nothing has been
	// sent. It belongs to the connection that failed.
	open stream
	// final forbids plaintext even in permissive mode: data of the application may already
	// have been sent, or the cause lies in this pod.
	final bool
}

const (
	// maxAsking bounds the silent peers that are asked again at the same time.
	maxAsking = 64
	// questionTimeout ends a question that nobody answers: the kernel sends SYNs at its start and after one second, the next
	// one only after three. Peers that connections go to are asked without a pause, so that they get one every second.
	questionTimeout = permissiveDialTimeout
)

// peerTable remembers which other pods have gateways.
type peerTable struct {
	max, maxAsking int
	now            func() time.Time

	mu    sync.Mutex
	peers map[route]*peer
	// asking counts the peers that are being asked.
	asking int
}

// peer is what is known about the gateways that answer at one address: the peer port of a
// pod, or a destination that is dialled in band, by one route. The table's mutex guards everything but
// slots, and is held for a few map operations per connection.
type peer struct {
	route route
	users int
	// known means that a handshake succeeded: connections do not wait for each other.
	known bool
	// probing is closed when the first connection to an unknown peer has an outcome. The
	// others wait for it instead of each running into the same timeout.
	probing chan struct{}
	// reason is why the peer has no gateway, until that time.
	reason traffic.Reason
	until  time.Time
	// asking means that a silent peer is being asked again. It counts as silent until it answers.
	asking bool
	// slots bounds the handshakes with the peer that are under way.
	slots chan struct{}
}

func newPeerTable(max int, now func() time.Time) *peerTable {
	return &peerTable{max: max, maxAsking: maxAsking, now: now, peers: make(map[route]*peer)}
}

// acquire returns the entry for r, which cannot be evicted until release.
func (t *peerTable) acquire(r route) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[r]
	if p == nil {
		if len(t.peers) >= t.max {
			t.evict()
		}
		p = &peer{route: r, slots: make(chan struct{}, maxDialHandshakes)}
		t.peers[r] = p
	}
	p.users++
	return p
}

// evict removes one entry without users, preferably one that remembers nothing. If all have
// users, the table grows with the number of open connections.
func (t *peerTable) evict() {
	var victim *peer
	now := t.now()
	for _, p := range t.peers {
		if p.users > 0 {
			continue
		}
		victim = p
		if !p.known && !now.Before(p.until) {
			break
		}
	}
	if victim != nil {
		delete(t.peers, victim.route)
	}
}

func (t *peerTable) release(p *peer) {
	t.mu.Lock()
	p.users--
	t.mu.Unlock()
}

// verdict is how a connection to a peer starts.
type verdict struct {
	// reason is why there is no gateway, or traffic.None if the connection may dial.
	reason traffic.Reason
	// probe means that record must be called with the outcome of the dial. ask means that the peer is
	// to be asked again, beside the connection, and that answered must be called with the outcome.
	probe, ask bool
}

// lookup decides how a connection to p starts. While another connection probes, lookup waits for that one,
// for the timeout at most.
func (t *peerTable) lookup(ctx context.Context, timeout time.Duration, p *peer) (verdict, error) {
	v, wait := t.decide(p)
	if wait == nil {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		select {
		case <-wait:
		case <-ctx.Done():
			return verdict{}, ctx.Err()
		}
		if v, wait = t.decide(p); wait == nil {
			return v, nil
		}
	}
}

// decide is lookup that returns what is to be waited for.
func (t *peerTable) decide(p *peer) (v verdict, wait <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case p.reason != traffic.None && (p.asking || t.now().Before(p.until)):
		silent := p.reason == traffic.PeerSilent || p.reason == traffic.NoAnswer
		v = verdict{reason: p.reason, ask: silent && !p.asking && t.asking < t.maxAsking}
		if v.ask {
			p.asking = true
			p.users++
			t.asking++
		}
	case p.known:
	case p.probing == nil:
		p.probing = make(chan struct{})
		v.probe = true
	default:
		wait = p.probing
	}
	return v, wait
}

// answered notes what came of asking p again; f is nil if there is a gateway. One that has shown itself
// meanwhile is not silent.
func (t *peerTable) answered(p *peer, f *failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f == nil || p.reason != traffic.None {
		t.remember(p, f)
	}
	p.asking = false
	p.users--
	t.asking--
}

// record remembers the outcome of a handshake with p; f is nil if it succeeded.
func (t *peerTable) record(p *peer, probe bool, f *failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remember(p, f)
	if probe {
		close(p.probing)
		p.probing = nil
	}
}

// remember is record with t.mu locked.
func (t *peerTable) remember(p *peer, f *failure) {
	switch {
	case f == nil, f.reason == traffic.PeerReset:
		// Whether it is full or not, others need not wait for this connection.
		p.known, p.reason = true, traffic.None
	case f.remember > 0:
		p.known, p.reason, p.until = false, f.reason, t.now().Add(f.remember)
	}
}

// remembered returns why there is no gateway at p, or traffic.None if that is unknown.
func (t *peerTable) remembered(p *peer) traffic.Reason {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now().Before(p.until) {
		return p.reason
	}
	return traffic.None
}

// isKnown reports whether a handshake with p has succeeded, and none has failed since.
func (t *peerTable) isKnown(p *peer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return p.known
}

// forget drops the reason that is remembered for the pod at addr: its gateway has just
// connected.
func (t *peerTable) forget(addr netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[route{to: netip.AddrPortFrom(addr, api.PeerPort)}]; p != nil {
		p.reason = traffic.None
	}
}

// reject remembers why the gateway at the end of r rejects this one.
func (t *peerTable) reject(r route, reason traffic.Reason) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[r]; p != nil {
		p.known, p.reason, p.until = false, reason, t.now().Add(rememberFailed)
	}
}

// dialFailure classifies an error of the TCP handshake with a peer.
func dialFailure(err error) *failure {
	switch {
	case isExhausted(err):
		return &failure{reason: traffic.Exhausted, err: err, final: true}
	case errors.Is(err, context.Canceled):
		return &failure{reason: traffic.Stopping, err: err, final: true}
	case errors.Is(err, syscall.ECONNRESET):
		// The connection was accepted and reset before connect(2) returned: the gateway is full.
		return &failure{reason: traffic.PeerReset, err: err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &failure{reason: traffic.PeerRefused, err: err, remember: rememberRefused}
	case isTimeout(err):
		return &failure{reason: traffic.PeerSilent, err: err, remember: rememberSilent}
	}
	return &failure{reason: traffic.PeerUnreachable, err: err, remember: rememberFailed}
}

// handshakeFailure classifies an error of the TLS handshake with a peer at the time now. No
// data of the application has been sent by then.
func handshakeFailure(err error, now time.Time) *failure {
	switch {
	case isTimeout(err):
		return &failure{reason: traffic.NoAnswer, err: err, remember: rememberSilent}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		// The gateway is full or ends, or its worker died: dialling again costs little.
		return &failure{reason: traffic.PeerReset, err: err}
	}
	reason, err := validityReason(err, now, traffic.PeerExpired, traffic.PeerNotYetValid, traffic.NotTrusted)
	return &failure{reason: reason, err: err, remember: rememberFailed}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &timeout) && timeout.Timeout()
}

// isExhausted reports whether err means that this process or machine has run out of a
// resource.
func isExhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
