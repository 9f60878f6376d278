//go:build linux

package proxy

import (
	"slices"
	"sync"
	"time"
)

// Bounds of idle carriers. One costs each gateway about 20 KB, and a third of that when it has parked.
const (
	// maxIdle and maxIdlePerPeer bound those that this gateway has dialled; it keeps them for
	// idleTimeout. After maxCarrierAge a carrier is not used again, so that sessions and keys have an end.
	maxIdle        = 512
	maxIdlePerPeer = 64
	idleTimeout    = 15 * time.Second
	maxCarrierAge  = time.Hour
	// maxAwaiting and maxAwaitingPerPeer bound those that other gateways have dialled, which are
	// asked to close them after awaitTimeout at the latest.
	maxAwaiting        = 1024
	maxAwaitingPerPeer = 2 * maxIdlePerPeer
	awaitTimeout       = time.Minute
	// goAwayTimeout is how long a peer may take to close a carrier that it was asked to close: a
	// header that it has sent before arrives within one round trip.
	goAwayTimeout = 2 * time.Second
)

// pool keeps the idle carriers of a gateway. Its mutex is locked twice for each connection that a
// carrier carries, for a few operations.
type pool struct {
	mu sync.Mutex
	// dialled are those that this gateway may use, awaiting those whose peers may.
	dialled, awaiting *idleSet
	// all has those of both kinds, those in use included.
	all map[*carrier]struct{}
	// closed means that no carrier is used again.
	closed bool
	// owing are idle carriers, or were, whose end is to be sent alone after endWithin, or what is in its place in tests. The timer
	// runs while there are any.
	owing     []*carrier
	endWithin time.Duration
	// none is closed when the last carrier has ended; nil unless there is a waiter.
	none chan struct{}
}

func newPool(endWithin time.Duration) *pool {
	return &pool{
		endWithin: endWithin,
		dialled:   newIdleSet(maxIdle, maxIdlePerPeer), awaiting: newIdleSet(maxAwaiting, maxAwaitingPerPeer),
		all: make(map[*carrier]struct{}),
	}
}

// opened counts a carrier, until ended.
func (p *pool) opened(k *carrier) {
	p.mu.Lock()
	p.all[k] = struct{}{}
	p.mu.Unlock()
}

func (p *pool) ended(k *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delete(p.all, k); len(p.all) == 0 && p.none != nil {
		close(p.none)
		p.none = nil
	}
}

func (p *pool) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all) > 0
}

// empty returns a channel that is closed as soon as there is no carrier.
func (p *pool) empty() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.none == nil {
		p.none = make(chan struct{})
	}
	none := p.none
	if len(p.all) == 0 {
		close(p.none)
		p.none = nil
	}
	return none
}

// put keeps k, which this gateway has dialled, for the next connection to its peer.
func (p *pool) put(k *carrier) {
	now, owes := time.Now(), k.owing()
	p.mu.Lock()
	surplus := []*carrier(nil)
	if p.closed || k.gone.Load() || now.Sub(k.made) > maxCarrierAge || k.settings != k.proxy.settings.Load() {
		surplus = append(surplus, k)
	} else {
		surplus = p.dialled.add(k, now)
		if owes {
			p.owe(k)
		}
	}
	p.mu.Unlock()
	retire(surplus)
}

// take returns the carrier to peer that was used last, if s allows it for another connection, or nil.
func (p *pool) take(peer route, s *settings) *carrier {
	for {
		p.mu.Lock()
		k := p.dialled.latest(peer)
		p.mu.Unlock()
		if k == nil {
			return nil
		}
		if !k.gone.Load() && k.settings == s && time.Since(k.made) <= maxCarrierAge && k.verify(s) == nil && k.quiet() && k.claim() {
			return k
		}
		go k.retire()
	}
}

// await notes that k, which a peer has dialled, is idle. It reports false if k must not be used again.
func (p *pool) await(k *carrier) bool {
	now := time.Now()
	p.mu.Lock()
	ok := !p.closed && !k.gone.Load() && now.Sub(k.made) <= maxCarrierAge && k.settings == k.proxy.settings.Load()
	surplus := []*carrier(nil)
	if ok {
		surplus = p.awaiting.add(k, now)
	}
	p.mu.Unlock()
	sendAway(surplus)
	return ok
}

// remove takes k out if it is idle.
func (p *pool) remove(k *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.dialled {
		p.dialled.remove(k)
	} else {
		p.awaiting.remove(k)
	}
}

// expire ends what has been idle for too long.
func (p *pool) expire(now time.Time) {
	p.mu.Lock()
	old, waiting := p.dialled.before(now.Add(-idleTimeout)), p.awaiting.before(now.Add(-awaitTimeout))
	p.mu.Unlock()
	retire(old)
	sendAway(waiting)
}

// park has those park at l that have been idle since before t, and returns how many have to.
func (p *pool) park(l *lot, t time.Time) (asked int) {
	p.mu.Lock()
	idle := slices.Concat(p.dialled.since(t), p.awaiting.since(t))
	p.mu.Unlock()
	for _, k := range idle {
		if s, ok := k.conn.(parkable); ok && s.ask(l) {
			asked++
		}
	}
	return asked
}

// dropPeer ends the idle carriers to a peer, of which one has turned out to be dead.
func (p *pool) dropPeer(peer route) {
	p.mu.Lock()
	all := p.dialled.of(peer)
	p.mu.Unlock()
	retire(all)
}

// drop ends all idle carriers.
func (p *pool) drop() {
	p.mu.Lock()
	all, waiting := p.dialled.clear(), p.awaiting.clear()
	p.mu.Unlock()
	retire(all)
	sendAway(waiting)
}

// bound changes how many idle carriers of each kind there may be, and ends the oldest of those beyond.
func (p *pool) bound(most int) {
	p.mu.Lock()
	p.dialled.total, p.awaiting.total = min(most, maxIdle), min(most, maxAwaiting)
	all, waiting := p.dialled.shrink(), p.awaiting.shrink()
	p.mu.Unlock()
	retire(all)
	sendAway(waiting)
}

// close ends all idle carriers, and has those in use end with their connections.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.drop()
}

// abort resets all carriers.
func (p *pool) abort() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.all {
		reset(k.conn)
	}
}

// retire and sendAway do not wait: a peer that reads nothing can hold up what is written to it.

func retire(all []*carrier) {
	for _, k := range all {
		go k.retire()
	}
}

func sendAway(all []*carrier) {
	for _, k := range all {
		go k.sendAway()
	}
}
