//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits on connections from the network whose peer is not yet authenticated. One costs up to
// about 20 KB. A gateway has at most maxDialHandshakes of them open to one peer, so that only
// strangers, or very many pods behind one address, meet the limit of a source.
const (
	maxHandshakes          = 4096
	maxHandshakesPerSource = 1024
	maxDialHandshakes      = 256
)

// slotTimeout is how long a connection waits to shake hands with a peer: four times what a
// full queue of a thousand takes on one slow core.
const slotTimeout = 30 * time.Second

// Back-off when accept(2) fails because the process or the machine is out of
// file descriptors or memory.
const (
	minBackOff = 5 * time.Millisecond
	maxBackOff = time.Second
)

// backOff is the last wait of a row of failures; zero before the first.
type backOff time.Duration

// next returns how long to wait now: twice as long each time.
func (b *backOff) next() time.Duration {
	*b = min(max(2**b, backOff(minBackOff)), backOff(maxBackOff))
	return time.Duration(*b)
}

// handshakeLimit counts half-open handshakes, in all and by source address.
type handshakeLimit struct {
	total, perSource int

	mu      sync.Mutex
	open    int
	sources map[netip.Addr]int
}

func newHandshakeLimit(total, perSource int) *handshakeLimit {
	return &handshakeLimit{total: total, perSource: perSource, sources: make(map[netip.Addr]int)}
}

// acquire counts a handshake of source, or reports that the limit is reached.
func (l *handshakeLimit) acquire(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.total || l.sources[source] >= l.perSource {
		return false
	}
	l.open++
	l.sources[source]++
	return true
}

// release ends a handshake of source.
func (l *handshakeLimit) release(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.sources[source]--; l.sources[source] == 0 {
		delete(l.sources, source)
	}
}

// throttle allows an event once in an interval and counts those that it held back.
type throttle struct {
	limit *rate.Limiter
	held  atomic.Int64
}

func newThrottle(interval time.Duration) *throttle {
	return &throttle{limit: rate.NewLimiter(rate.Every(interval), 1)}
}

// allow reports whether the event may happen, and how many were held back before it.
func (t *throttle) allow() (held int64, ok bool) {
	if !t.limit.Allow() {
		t.held.Add(1)
		return 0, false
	}
	return t.held.Swap(0), true
}

// identityCounts counts the open inbound connections by the peer's identity. There are as many
// identities as the authority has signed, and no entry without a connection.
type identityCounts struct {
	mu   sync.Mutex
	open map[string]int
}

// acquire counts a connection of identity unless there are max already. 0 is no bound.
func (i *identityCounts) acquire(identity string, max int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if max > 0 && i.open[identity] >= max {
		return false
	}
	i.open[identity]++
	return true
}

func (i *identityCounts) release(identity string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.open[identity]--; i.open[identity] == 0 {
		delete(i.open, identity)
	}
}

// countPeer counts c as one of its peer's, unless that has as many as the rules in force allow.
func (c *connection) countPeer() error {
	max := c.proxy.settings.Load().rules.MaxPerPeer
	if !c.proxy.byIdentity.acquire(c.line.Peer, max) {
		return fmt.Errorf("%s has %d connections open", c.line.Peer, max)
	}
	c.peerCounted = true
	return nil
}
