//go:build linux

package proxy

import (
	"container/heap"
	"container/list"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits on connections from the network whose peer is not yet authenticated. One costs up to
// about 20 KB. A gateway has at most maxDialHandshakes of them open to one peer, so that only
// strangers, or very many pods behind one address or /64, meet the limit of a source.
const (
	maxHandshakes          = 4096
	maxHandshakesPerSource = 1024
	maxDialHandshakes      = 256
)

// errEvicted is the cause of a half-open connection that has to make room.
var errEvicted = errors.New("too many handshakes at once")

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

// handshakeLimit bounds half-open handshakes, in all and by source. A newcomer is always let in:
// where there are too many, the oldest one of the source that has most makes room. So strangers
// that open many and finish none take the places of each other.
type handshakeLimit struct {
	total, perSource int

	mu      sync.Mutex
	open    int
	number  uint64
	sources map[netip.Addr]*handshakeSource
	// largest is a heap of sources, the one that has most on top.
	largest sourceHeap
}

// handshakeSource holds the half-open handshakes of a source, the oldest at the front.
type handshakeSource struct {
	addr    netip.Addr
	waiting list.List
	// index is the place in the heap.
	index int
}

// halfOpen is a handshake that has not ended.
type halfOpen struct {
	source *handshakeSource
	// number grows with each handshake.
	number uint64
	// place is nil once the handshake has ended or has made room.
	place *list.Element
	evict func()
}

func newHandshakeLimit(total, perSource int) *handshakeLimit {
	return &handshakeLimit{total: total, perSource: perSource, sources: make(map[netip.Addr]*handshakeSource)}
}

// sourceOf returns what counts as one source: an address, or of IPv6 its /64, which is what one
// host can choose addresses from.
func sourceOf(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() {
		return netip.PrefixFrom(ip, 64).Masked().Addr()
	}
	return ip
}

// acquire counts a handshake of ip. It calls evict if the handshake has to make room later. It
// reports whether another one had to.
func (l *handshakeLimit) acquire(ip netip.Addr, evict func()) (h *halfOpen, crowded bool) {
	l.mu.Lock()
	source := l.sources[sourceOf(ip)]
	if source == nil {
		source = &handshakeSource{addr: sourceOf(ip)}
		l.sources[source.addr] = source
		heap.Push(&l.largest, source)
	}
	l.open++
	l.number++
	h = &halfOpen{source: source, number: l.number, evict: evict}
	h.place = source.waiting.PushBack(h)
	heap.Fix(&l.largest, source.index)
	var victim *halfOpen
	switch {
	case source.waiting.Len() > l.perSource:
		victim = source.oldest()
	case l.open > l.total:
		victim = l.largest[0].oldest()
	}
	if victim != nil {
		l.remove(victim)
	}
	l.mu.Unlock()
	if victim != nil {
		victim.evict()
	}
	return h, victim != nil
}

// release ends h. It reports false if h has made room before.
func (l *handshakeLimit) release(h *halfOpen) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.place == nil {
		return false
	}
	l.remove(h)
	return true
}

// bound changes how many there may be in all. Where there are more, each newcomer has one make room.
func (l *handshakeLimit) bound(total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total = total
}

func (l *handshakeLimit) remove(h *halfOpen) {
	l.open--
	h.source.waiting.Remove(h.place)
	h.place = nil
	if h.source.waiting.Len() == 0 {
		heap.Remove(&l.largest, h.source.index)
		delete(l.sources, h.source.addr)
		return
	}
	heap.Fix(&l.largest, h.source.index)
}

func (s *handshakeSource) oldest() *halfOpen { return s.waiting.Front().Value.(*halfOpen) }

// sourceHeap is a heap.Interface. Of sources that have as many, the one with the oldest handshake
// comes first. Only acquire and remove change it, and a source in it is never empty then.
type sourceHeap []*handshakeSource

func (h sourceHeap) Len() int { return len(h) }

func (h sourceHeap) Less(i, j int) bool {
	if a, b := h[i].waiting.Len(), h[j].waiting.Len(); a != b || a == 0 {
		return a > b
	}
	return h[i].oldest().number < h[j].oldest().number
}

func (h sourceHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *sourceHeap) Push(x any) {
	s := x.(*handshakeSource)
	s.index = len(*h)
	*h = append(*h, s)
}

func (h *sourceHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
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
