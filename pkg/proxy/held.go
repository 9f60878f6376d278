//go:build linux

package proxy

import (
	"runtime"
	"slices"
	"time"
)

// The last that a dialling gateway sends of most connections is their end, alone, when the application at the other end has gone
// already. Between gateways that are busy the next header follows soon: they travel together, which saves both a wake-up.

// endWithin is how long an end waits for the next header. Twice that passes at most.
const endWithin = time.Millisecond

// mayHoldEnd reports whether nobody waits for the end of c: the application at the other end has ended its direction, too. Where
// there is time for it, ends are sent at once, as the next connection would have to wait for the other end to follow this one.
func (k *carrier) mayHoldEnd(c *connection) bool {
	return k.dialled && c.appEnded.Load() && !k.gone.Load() && k.proxy.live.count() > runtime.GOMAXPROCS(0)
}

// holdEnd has the end of what is carried travel with the next header, or follow within endWithin.
func (k *carrier) holdEnd() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.owesEnd = true
}

func (k *carrier) owing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.owesEnd
}

// payEnd has the end that k owes travel with what is written next, and reports whether there was one.
func (k *carrier) payEnd() (owed bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.owesEnd {
		return false
	}
	k.owesEnd = false
	var b [framePrefix]byte
	putFrame(b[:], frameEnd, 0)
	_, _ = k.tls.Write(b[:]) // what is written next meets the error again
	return true
}

// sendEnd is payEnd for what nothing is to travel with.
func (k *carrier) sendEnd() {
	if k.payEnd() {
		_ = k.records.flush() // the reading goroutine finds out why
	}
}

// owe has the end that k owes be sent within endWithin. p.mu is locked.
func (p *pool) owe(k *carrier) {
	if slices.Contains(p.owing, k) {
		return
	}
	p.owing = append(p.owing, k)
	if len(p.owing) == 1 {
		time.AfterFunc(p.endWithin, p.sendEnds)
	}
}

// sendEnds sends the ends of carriers that have been idle for a while.
func (p *pool) sendEnds() {
	var due []*carrier
	idleBefore := time.Now().Add(-p.endWithin)
	p.mu.Lock()
	p.owing = slices.DeleteFunc(p.owing, func(k *carrier) bool {
		idle := k.place != nil
		if idle && k.idleSince.After(idleBefore) {
			return false
		}
		if idle {
			due = append(due, k)
		}
		return true // in use it has paid
	})
	if len(p.owing) > 0 {
		time.AfterFunc(p.endWithin, p.sendEnds)
	}
	p.mu.Unlock()
	for _, k := range due {
		go k.sendEnd()
	}
}
