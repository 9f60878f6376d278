package traffic

import (
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Key is what the connections of an edge have in common. See api.Edge for the fields.
type Key struct {
	Direction            Direction
	Source               netip.Addr
	Destination, Dialled netip.AddrPort
	Peer, Wire           string
	Verdict, Reason      string
}

// holder is api.EdgeHolder of the edge.
func (k *Key) holder() string {
	holder, _ := api.EdgeHolder(k.Direction.String(), k.Peer)
	return holder
}

func (k *Key) stranger() bool {
	_, stranger := api.EdgeHolder(k.Direction.String(), k.Peer)
	return stranger
}

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
// carried and when the connection ends, for a few operations on a map, and a look at each holder if there is
// no room; never while bytes are relayed.
type Edges struct {
	since time.Time

	mu    sync.Mutex
	edges map[Key]*Edge
	// known and strangers hold the edges.
	known, strangers room
	// forgotten counts the connections of edges that had to make room.
	forgotten uint64
}

// NewEdges returns an empty table with room for api.MaxEdges.
func NewEdges() *Edges { return newEdges(api.MaxEdges, api.MaxEdgesOfStrangers) }

func newEdges(max, maxStrangers int) *Edges {
	return &Edges{since: time.Now(), edges: make(map[Key]*Edge), known: newRoom(max - maxStrangers), strangers: newRoom(maxStrangers)}
}

// room holds edges by their holders. Where there is none left, the holder that has most makes room. So
// none, whatever it invents, takes from another one more than what that has beyond an equal share.
type room struct {
	max, used int
	// held has the edges of each holder that has any, the one last seen at the front.
	held map[string]*list.List
}

func newRoom(max int) room { return room{max: max, held: make(map[string]*list.List)} }

func (r *room) add(e *Edge) {
	of := r.held[e.key.holder()]
	if of == nil {
		of = list.New()
		r.held[e.key.holder()] = of
	}
	e.place = of.PushFront(e)
	r.used++
}

func (r *room) toFront(e *Edge) { r.held[e.key.holder()].MoveToFront(e.place) }

func (r *room) remove(e *Edge) {
	of := r.held[e.key.holder()]
	of.Remove(e.place)
	e.place = nil
	if of.Len() == 0 {
		delete(r.held, e.key.holder())
	}
	r.used--
}

// surplus returns the edge that makes room for another one of holder: of those of the holder that has most,
// itself before others, the one that was not seen for longest. There is one at least.
func (r *room) surplus(holder string) *Edge {
	most, found := 0, (*Edge)(nil)
	if own := r.held[holder]; own != nil {
		most, found = own.Len(), oldest(own)
	}
	for _, of := range r.held {
		if n := of.Len(); n > most || n == most && found.key.holder() != holder && oldest(of).lastSeen.Before(found.lastSeen) {
			most, found = n, oldest(of)
		}
	}
	return found
}

func oldest(of *list.List) *Edge { return of.Back().Value.(*Edge) }

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

// touch returns the edge of k as the one last seen. To make room it drops another one, even one with
// open connections: their counts are lost.
func (t *Edges) touch(k Key, now time.Time) *Edge {
	e := t.edges[k]
	if e == nil {
		room := t.roomOf(&k)
		if room.used >= room.max {
			surplus := room.surplus(k.holder())
			t.forgotten += surplus.connections
			t.remove(surplus)
		}
		e = &Edge{key: k}
		room.add(e)
		t.edges[k] = e
	} else {
		t.toFront(e)
	}
	e.lastSeen = now
	return e
}

func (t *Edges) roomOf(k *Key) *room {
	if k.stranger() {
		return &t.strangers
	}
	return &t.known
}

func (t *Edges) toFront(e *Edge) {
	if e.place != nil {
		t.roomOf(&e.key).toFront(e)
	}
}

func (t *Edges) remove(e *Edge) {
	t.roomOf(&e.key).remove(e)
	delete(t.edges, e.key)
}

// Read returns all edges, the one last seen first, without the pod.
func (t *Edges) Read() api.Edges {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := api.Edges{Since: t.since, Time: time.Now(), Edges: make([]api.Edge, 0, len(t.edges)), Forgotten: t.forgotten}
	for _, e := range t.edges {
		all.Edges = append(all.Edges, e.describe())
	}
	slices.SortFunc(all.Edges, func(a, b api.Edge) int { return b.LastSeen.Compare(a.LastSeen) })
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
