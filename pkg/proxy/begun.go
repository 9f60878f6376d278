//go:build linux

package proxy

import (
	"io"
	"net/netip"
	"sync"
	"time"
)

// How many connections are remembered whose peers may not know that they have been begun, and for
// how long: a peer sends such a connection once more as soon as it has dialled, or not at all.
const (
	maxUnheard = 1024
	unheardFor = 5 * time.Minute
)

// ends are the two ends of an application's connection, and the address of its client that the peer's certificate names: what
// the application has bound besides is the peer's word.
type ends struct {
	client, destination netip.AddrPort
	named               netip.Addr
}

// begun knows which connections this gateway has begun for peers that may not have got the answer, so
// that none is begun twice: a peer whose carrier is lost may send its connection once more.
type begun struct {
	mu sync.Mutex
	by map[ends]beginning
	// unheard are the keys of those whose carriers have ended, the oldest first.
	unheard []unheard
}

// beginning is how a connection was begun.
type beginning struct {
	// by is the carrier of it, nil after its end.
	by *carrier
	// again means that it was sent before.
	again bool
}

type unheard struct {
	ends
	until time.Time
}

// begin notes that k, which may be nil, begins what h describes. It reports false if that was begun
// before, or is an earlier try that has been overtaken.
func (b *begun) begin(h header, k *carrier) bool {
	if k == nil && !h.Again {
		return true
	}
	key := ends{h.source(), h.Destination, h.Client.Addr()}
	b.mu.Lock()
	defer b.mu.Unlock()
	before, known := b.by[key]
	if known && (h.Again || before.again) && (k == nil || before.by != k) {
		return false
	}
	if k != nil {
		b.drop(k)
		k.begun = key
		b.by[key] = beginning{k, h.Again}
	}
	return true
}

// drop forgets what k has begun. b.mu is locked.
func (b *begun) drop(k *carrier) {
	if b.by[k.begun].by == k {
		delete(b.by, k.begun)
	}
}

// end is called when k ends because of err. Unless the peer has acknowledged the last answer, the
// connection is remembered.
func (b *begun) end(k *carrier, err error, now time.Time) {
	acked, unknown := ackedBytes(k.conn)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == io.EOF || unknown == nil && acked >= k.answeredAt {
		b.drop(k)
		return
	}
	last, known := b.by[k.begun]
	if !known || last.by != k {
		return
	}
	last.by = nil
	b.by[k.begun] = last
	b.unheard = append(b.unheard, unheard{k.begun, now.Add(unheardFor)})
	if len(b.unheard) > maxUnheard {
		b.forgetOldest()
	}
}

// expire forgets what no peer sends any more.
func (b *begun) expire(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.unheard) > 0 && !now.Before(b.unheard[0].until) {
		b.forgetOldest()
	}
}

func (b *begun) anyUnheard() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.unheard) > 0
}

func (b *begun) forgetOldest() {
	if oldest := b.unheard[0].ends; b.by[oldest].by == nil {
		delete(b.by, oldest)
	}
	b.unheard = b.unheard[1:]
}
