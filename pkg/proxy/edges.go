//go:build linux

package proxy

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// maxStrangers is how many of the edges may be those of clients that never proved
// who they are: whoever sends SYNs from many addresses must not push out what is
// known about the pod's own traffic.
const maxStrangers = api.MaxEdges / 4

// edgeKey is what the connections of an edge have in common.
type edgeKey struct {
	inbound              bool
	source               netip.Addr
	destination, dialled netip.AddrPort
	peer, wire           string
	verdict, reason      string
}

// stranger reports whether anybody can make up such an edge.
func (k *edgeKey) stranger() bool { return k.inbound && k.peer == "" }

// edge sums up the connections of a key. The bytes are added by those who settle
// connections, everything else is guarded by the table's mutex.
type edge struct {
	key            edgeKey
	sent, received atomic.Uint64
	connections    uint64
	open           int64
	lastSeen       time.Time
	// place is where the edge is in its list, nil once it is in none.
	place *list.Element
}

// edgeTable knows who the gateway has talked to. Its mutex is taken when it is
// decided how a connection is carried and when it ends, for a few operations on a
// map; never while bytes are relayed.
type edgeTable struct {
	since time.Time

	mu    sync.Mutex
	edges map[edgeKey]*edge
	// known and strangers hold the edges, the one last seen at the front.
	known, strangers list.List
	maxKnown         int
	maxStrangers     int
	// forgotten counts the connections of edges that had to make room.
	forgotten uint64
}

func newEdgeTable(max, maxStrangers int, now time.Time) *edgeTable {
	return &edgeTable{since: now, edges: make(map[edgeKey]*edge), maxKnown: max - maxStrangers, maxStrangers: maxStrangers}
}

// enter counts a connection that is open from now on.
func (t *edgeTable) enter(k edgeKey, now time.Time) *edge {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.touch(k, now)
	e.connections++
	e.open++
	return e
}

// pass counts a connection that was decided and ended at once.
func (t *edgeTable) pass(k edgeKey, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.touch(k, now).connections++
}

// leave counts the end of a connection that entered e and has sent and received
// that many bytes since. If it turns out to be one of k, it never was one of e.
func (t *edgeTable) leave(e *edge, k edgeKey, sent, received uint64, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.open--
	if k == e.key {
		e.lastSeen = now
		t.toFront(e)
		return
	}
	e.connections--
	// Negative numbers wrap around, and so do the sums.
	e.sent.Add(-sent)
	e.received.Add(-received)
	if e.place == nil {
		t.forgotten--
	} else if e.connections == 0 {
		t.remove(e)
	}
	right := t.touch(k, now)
	right.connections++
	right.sent.Add(sent)
	right.received.Add(received)
}

// touch returns the edge of k as the one last seen. To make room it drops the one
// of its list not seen for longest, whether connections are open or not: they go on
// counting where nobody looks.
func (t *edgeTable) touch(k edgeKey, now time.Time) *edge {
	e := t.edges[k]
	if e == nil {
		order, max := t.listOf(k)
		if order.Len() >= max {
			oldest := order.Back().Value.(*edge)
			t.forgotten += oldest.connections
			t.remove(oldest)
		}
		e = &edge{key: k}
		e.place = order.PushFront(e)
		t.edges[k] = e
	} else {
		t.toFront(e)
	}
	e.lastSeen = now
	return e
}

func (t *edgeTable) listOf(k edgeKey) (order *list.List, max int) {
	if k.stranger() {
		return &t.strangers, t.maxStrangers
	}
	return &t.known, t.maxKnown
}

func (t *edgeTable) toFront(e *edge) {
	if e.place != nil {
		order, _ := t.listOf(e.key)
		order.MoveToFront(e.place)
	}
}

func (t *edgeTable) remove(e *edge) {
	order, _ := t.listOf(e.key)
	order.Remove(e.place)
	e.place = nil
	delete(t.edges, e.key)
}

// read returns all edges, the one last seen first.
func (t *edgeTable) read() (edges []api.Edge, forgotten uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	edges = make([]api.Edge, 0, len(t.edges))
	known, stranger := t.known.Front(), t.strangers.Front()
	for known != nil || stranger != nil {
		from := &known
		if known == nil || stranger != nil && stranger.Value.(*edge).lastSeen.After(known.Value.(*edge).lastSeen) {
			from = &stranger
		}
		edges = append(edges, (*from).Value.(*edge).describe())
		*from = (*from).Next()
	}
	return edges, t.forgotten
}

func (e *edge) describe() api.Edge {
	k := &e.key
	direction := api.Outbound
	if k.inbound {
		direction = api.Inbound
	}
	return api.Edge{
		Direction: direction, Source: k.source, Destination: k.destination, Dialled: k.dialled,
		Peer: k.peer, Wire: k.wire, Verdict: k.verdict, Reason: k.reason,
		Connections: e.connections, Open: e.open, Sent: e.sent.Load(), Received: e.received.Load(), LastSeen: e.lastSeen,
	}
}

// Edges returns who the gateway has talked to, open connections included. Which pod
// that is it leaves to others to say.
func (p *Proxy) Edges() api.Edges {
	p.live.settleAll()
	edges, forgotten := p.edges.read()
	return api.Edges{Since: p.edges.since, Time: time.Now(), Edges: edges, Forgotten: forgotten}
}

// edgeKey returns what c is an edge of, the way it was carried.
func (c *connection) edgeKey(verdict string) edgeKey {
	return edgeKey{
		inbound: !c.dialled(), source: c.line.Source.Addr(),
		destination: c.line.Destination, dialled: c.line.Dialled,
		peer: c.line.Peer, wire: c.line.Wire,
		verdict: verdict, reason: c.line.Reason,
	}
}

// enterEdge counts c once it is decided that it is carried, and how.
func (c *connection) enterEdge() {
	verdict := api.EdgePlaintext
	if c.line.Encrypted {
		verdict = api.EdgeEncrypted
	}
	c.edge.Store(c.proxy.edges.enter(c.edgeKey(verdict), time.Now()))
}

// leaveEdge counts the end of c, whose bytes must have been settled.
func (c *connection) leaveEdge() {
	now := time.Now()
	e := c.edge.Load()
	if e == nil {
		c.proxy.edges.pass(c.edgeKey(api.EdgeRefused), now)
		return
	}
	k := c.edgeKey(e.key.verdict)
	// The peer's refusal comes when this side already relays.
	if e.key.verdict == api.EdgeEncrypted && c.line.Reason != "" {
		k.verdict = api.EdgeRefused
	}
	c.proxy.edges.leave(e, k, c.line.Sent, c.line.Received, now)
}
