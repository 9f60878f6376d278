//go:build linux

package proxy

import (
	"net/netip"
	"sync"
	"time"
)

// How many SYNs ask for a gateway: where one has answered before, or where nothing but a gateway
// helps, a lost SYN is taken for chance. Elsewhere the first retransmission, after a second, does
// without the option.
const (
	syns      = 1
	knownSYNs = 3
)

const (
	// maxDropped bounds the memory of a droppedTable; an entry takes about 100 bytes.
	maxDropped = 1024
	// manyLosses is how many times in a row the option was lost where it is taken to be dropped
	// and not to be lost by chance.
	manyLosses = 3
	// manyDestinations is at how many destinations the option is dropped when it is taken to be
	// dropped everywhere.
	manyDestinations = 3
	// maxAskAgain is how long at most the option is not tried at a destination that is in use.
	maxAskAgain = 10 * time.Minute
	// askTimeout bounds the handshake that tries it.
	askTimeout = 5 * time.Second
)

// droppedTable remembers where something on the way drops packets with the gateways' TCP option.
// One connection to a destination waits for a retransmission. Later ones do without the option, while
// connections of the gateway's own try it, so that a loss by chance is forgotten within a second.
type droppedTable struct {
	now func() time.Time

	mu           sync.Mutex
	destinations map[netip.AddrPort]*droppedOption
	// answered is when a gateway last answered the option, wherever.
	answered time.Time
}

// droppedOption is what is known of one destination.
type droppedOption struct {
	// losses is how many times in a row the option was lost.
	losses int
	// again is when the option is tried next, and asking that it is being tried.
	again  time.Time
	asking bool
}

func newDroppedTable(now func() time.Time) *droppedTable {
	return &droppedTable{now: now, destinations: make(map[netip.AddrPort]*droppedOption)}
}

// isDropped reports whether a connection to a destination is better off without the option, and
// whether the caller is to try it again with a connection of its own, and to call lost or arrived
// then.
func (t *droppedTable) isDropped(destination netip.AddrPort) (dropped, ask bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.destinations[destination]
	if d == nil {
		if !t.everywhere() {
			return false, false
		}
		d = t.add(destination)
	}
	if d.asking || t.now().Before(d.again) {
		return true, false
	}
	d.asking = true
	return true, true
}

// everywhere reports whether the option is dropped wherever it was tried lately.
func (t *droppedTable) everywhere() bool {
	if !t.answered.IsZero() && t.now().Sub(t.answered) < maxAskAgain {
		return false
	}
	n := 0
	for _, d := range t.destinations {
		if d.losses >= manyLosses {
			n++
		}
	}
	return n >= manyDestinations
}

// add returns a new entry, in the place of any other if the table is full.
func (t *droppedTable) add(destination netip.AddrPort) *droppedOption {
	if len(t.destinations) >= maxDropped {
		for victim := range t.destinations {
			delete(t.destinations, victim)
			break
		}
	}
	d := &droppedOption{}
	t.destinations[destination] = d
	return d
}

// lost notes that the handshake with a destination succeeded only without the option.
func (t *droppedTable) lost(destination netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.destinations[destination]
	if d == nil {
		d = t.add(destination)
	}
	d.losses++
	d.asking = false
	d.again = t.now()
	if d.losses > 1 {
		d.again = d.again.Add(min(time.Second<<min(d.losses, 16), maxAskAgain))
	}
}

// failed notes that the destination could not be asked.
func (t *droppedTable) failed(destination netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.destinations[destination]; d != nil {
		d.asking, d.again = false, t.now().Add(askTimeout)
	}
}

// arrived notes that the option arrived at a destination, and whether a gateway answered.
func (t *droppedTable) arrived(destination netip.AddrPort, shown bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.destinations, destination)
	if shown {
		t.answered = t.now()
	}
}

// ask tries the option at a destination, with a connection that carries nothing.
func (p *Proxy) ask(destination netip.AddrPort) {
	conn, err := p.dialInband(p.ctx, route{to: destination}, syns, askTimeout)
	if err != nil {
		p.dropped.failed(destination)
		return
	}
	defer reset(conn)
	switch shown, givenUp, err := p.negotiated(conn); {
	case err != nil:
		p.dropped.failed(destination)
	case givenUp:
		p.dropped.lost(destination)
	default:
		p.dropped.arrived(destination, shown)
	}
}
