package traffic

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// maxStrangers is how many of api.MaxEdges may belong to unauthenticated clients: a sender of
// SYNs from many addresses must not push out the edges of the pod's own traffic.
const maxStrangers = api.MaxEdges / 4

// Key is what the connections of an edge have in common. See api.Edge for the fields.
type Key struct {
	Direction            Direction
	Source               netip.Addr
	Destination, Dialled netip.AddrPort
	Peer, Wire           string
	Verdict, Reason      string
}

// stranger reports whether an unauthenticated client can make such an edge.
func (k *Key) stranger() bool { return k.Direction == Inbound && k.Peer == "" }

// Edge sums up the connections of a key.
type Edge struct {
	// Sent and Received count bytes. The mutex of Edges guards everything else.
	Sent, Received atomic.Uint64

	key         Key
	connections uint64
	open        int64
	lastSeen    time.Time
	// place is where the edge is in its list, nil once it is in none.
	place *list.Element
}

// Verdict returns how the edge's connections are carried.
func (e *Edge) Verdict() string { return e.key.Verdict }

// Edges are the edges of a gateway. Its mutex is locked when it is decided how a connection is
// carried and when the connection ends, for a few operations on a map; never while bytes are
// relayed.
type Edges struct {
	since time.Time

	mu    sync.Mutex
	edges map[Key]*Edge
	// known and strangers hold the edges, the one last seen at the front.
	known, strangers       list.List
	maxKnown, maxStrangers int
	// forgotten counts the connections of edges that had to make room.
	forgotten uint64
}

// NewEdges returns an empty table with room for api.MaxEdges.
func NewEdges() *Edges { return newEdges(api.MaxEdges, maxStrangers) }

func newEdges(max, maxStrangers int) *Edges {
	return &Edges{since: time.Now(), edges: make(map[Key]*Edge), maxKnown: max - maxStrangers, maxStrangers: maxStrangers}
}

// Open counts a connection that is open from now on.
func (t *Edges) Open(k Key, now time.Time) *Edge {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.touch(k, now)
	e.connections++
	e.open++
	return e
}

// Pass counts a connection that ended without being carried.
func (t *Edges) Pass(k Key, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.touch(k, now).connections++
}

// Close counts the end of a connection that was opened as one of e and has sent and received
// that many bytes. If its key turns out to be k, it moves there.
func (t *Edges) Close(e *Edge, k Key, sent, received uint64, now time.Time) {
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
	e.Sent.Add(-sent)
	e.Received.Add(-received)
	if e.place == nil {
		t.forgotten--
	} else if e.connections == 0 {
		t.remove(e)
	}
	right := t.touch(k, now)
	right.connections++
	right.Sent.Add(sent)
	right.Received.Add(received)
}

// touch returns the edge of k as the one last seen. To make room it drops the edge of its list
// that was not seen for longest, even one with open connections: their counts are lost.
func (t *Edges) touch(k Key, now time.Time) *Edge {
	e := t.edges[k]
	if e == nil {
		order, max := t.listOf(k)
		if order.Len() >= max {
			oldest := order.Back().Value.(*Edge)
			t.forgotten += oldest.connections
			t.remove(oldest)
		}
		e = &Edge{key: k}
		e.place = order.PushFront(e)
		t.edges[k] = e
	} else {
		t.toFront(e)
	}
	e.lastSeen = now
	return e
}

func (t *Edges) listOf(k Key) (order *list.List, max int) {
	if k.stranger() {
		return &t.strangers, t.maxStrangers
	}
	return &t.known, t.maxKnown
}

func (t *Edges) toFront(e *Edge) {
	if e.place != nil {
		order, _ := t.listOf(e.key)
		order.MoveToFront(e.place)
	}
}

func (t *Edges) remove(e *Edge) {
	order, _ := t.listOf(e.key)
	order.Remove(e.place)
	e.place = nil
	delete(t.edges, e.key)
}

// Read returns all edges, the one last seen first, without the pod.
func (t *Edges) Read() api.Edges {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := api.Edges{Since: t.since, Time: time.Now(), Edges: make([]api.Edge, 0, len(t.edges)), Forgotten: t.forgotten}
	known, stranger := t.known.Front(), t.strangers.Front()
	for known != nil || stranger != nil {
		from := &known
		if known == nil || stranger != nil && stranger.Value.(*Edge).lastSeen.After(known.Value.(*Edge).lastSeen) {
			from = &stranger
		}
		all.Edges = append(all.Edges, (*from).Value.(*Edge).describe())
		*from = (*from).Next()
	}
	return all
}

func (e *Edge) describe() api.Edge {
	k := &e.key
	return api.Edge{
		Direction: k.Direction.String(), Source: k.Source, Destination: k.Destination, Dialled: k.Dialled,
		Peer: k.Peer, Wire: k.Wire, Verdict: k.Verdict, Reason: k.Reason,
		Connections: e.connections, Open: e.open, Sent: e.Sent.Load(), Received: e.Received.Load(), LastSeen: e.lastSeen,
	}
}
