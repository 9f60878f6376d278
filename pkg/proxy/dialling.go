//go:build linux

package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// The dialling side of a carrier. Two goroutines work on a connection: one reads from the carrier
// (receive), the other reads from the application and sends (send). What was read of the
// application is kept until the peer has answered. If the peer has not got any of it, because it was
// gone already while the carrier was idle, or says that it has not started the connection, the
// connection is carried another way, and the application notices nothing. Once the peer has acknowledged a byte
// there is no second try: it may have acted on it. What the peer has acknowledged may have been lost on
// the way, so the second try says that it is one, and begun.go knows what was begun.

// lostAfter is how long a carrier that was idle may leave everything of a connection unacknowledged
// until it counts as dead.
const lostAfter = time.Second

// start has k carry c: it sends the header together with the application's data that is there. The
// rest is for the goroutine that calls c.rest, or for one of its own if k is new.
func (k *carrier) start(c *connection, h header) error {
	waits := c.app == nil
	var source *plainReader
	if !waits {
		var err error
		if source, err = c.reader(); err != nil {
			return err
		}
	}
	reused := k.served > 0
	k.lend(c, reused)
	c.settle()
	c.relaying.Store(2)
	var room [2*framePrefix + maxHeader]byte
	k.mu.Lock()
	head := k.frontOf(room[:], h)
	k.mu.Unlock()
	// A peer that reads nothing can hold this up.
	written := k.records.written()
	k.mu.Lock()
	k.served++
	k.claimed, k.carried = true, c
	k.answered, k.lost, k.saidAll, k.tooLate = false, false, false, false
	k.written = written
	k.mu.Unlock()

	if waits {
		b := k.proxy.pools.get(classTiny)
		err := c.sealOnce(b, copy(b.b, head), false)
		k.goOn(c, reused, func() { k.sendAdmitted(c, err) })
		return nil
	}
	source.keep()
	source.findUrgent(k.urgent)
	front := len(head) + framePrefix
	source.reserve, source.tail, source.poll = front, framePrefix, true
	b, size, err := source.next()
	source.poll = false
	ended := err == io.EOF
	if err != nil && !ended {
		c.proxy.pools.put(b)
		err = fmt.Errorf("reading from the application: %w", err)
		if frameKind(head[0]) == frameEnd {
			k.holdEnd()
			k.sendEnd()
		}
	} else {
		copy(b.b, head)
		c.sent.Add(uint64(source.fresh))
		err = c.sealOnce(b, source.frameUp(b, front, size, ended), false)
	}
	k.goOn(c, reused, func() { k.send(c, ended, err) })
	return nil
}

// frontOf writes what k says before the first data of a connection to the front of room: a header, and before it the end that
// is owed. k.mu is locked.
func (k *carrier) frontOf(room []byte, h header) []byte {
	at := 0
	if k.owesEnd {
		k.owesEnd = false
		putFrame(room, frameEnd, 0)
		at = framePrefix
	}
	head := appendHeader(room[:at+framePrefix], h)
	putFrame(head[at:], frameHeader, len(head)-at-framePrefix)
	return head
}

// goOn has the rest done that carries c to the peer.
func (k *carrier) goOn(c *connection, reused bool, rest func()) {
	if !reused {
		go k.receive()
		go rest()
		return
	}
	k.proxy.watchLost()
	c.rest = rest
}

// sendAdmitted is send for a connection that waits, once the peer has answered. err is that of the header.
func (k *carrier) sendAdmitted(c *connection, err error) {
	if err != nil {
		// The reading goroutine finds out why.
		_ = k.conn.SetReadDeadline(time.Now().Add(finTimeout))
	}
	err = cmp.Or(k.awaitOutcome(), err)
	switch {
	case c.app != nil:
		k.send(c, false, nil)
	case k.reclaim(c):
		k.proxy.carryAgain(c)
	default:
		c.directionEnded(err)
	}
}

// send carries the application's data to the peer. err is that of the beginning, ended means that there
// is no more.
func (k *carrier) send(c *connection, ended bool, err error) {
	if err == nil && !ended {
		err = k.seal(c, c.source, func() error {
			if !c.source.full() {
				return nil
			}
			return k.awaitOutcome()
		})
		if errors.Is(err, errParked) {
			c.park(c.app, func() { k.send(c, false, nil) })
			return
		}
	}
	if err == nil || errors.Is(err, errPeerWrite) {
		if err == nil {
			k.mu.Lock()
			k.saidAll = true
			k.mu.Unlock()
		} else {
			// The reading goroutine finds out why.
			_ = k.conn.SetReadDeadline(time.Now().Add(finTimeout))
		}
		err = cmp.Or(k.awaitOutcome(), err)
	}
	if k.reclaim(c) {
		k.proxy.carryAgain(c)
		return
	}
	if err == nil {
		err = c.watch(c.app)
	}
	c.directionEnded(err)
}

// awaitOutcome waits until the peer has answered, or never will.
func (k *carrier) awaitOutcome() error {
	k.mu.Lock()
	if !k.answered && !k.lost && !k.broken && k.outcome == nil {
		k.outcome = make(chan struct{})
	}
	outcome := k.outcome
	k.mu.Unlock()
	if outcome != nil {
		<-outcome
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lost {
		return errAgain
	}
	return nil
}

// decided wakes who waits for the outcome. k.mu is locked.
func (k *carrier) decided() {
	if k.outcome != nil {
		close(k.outcome)
		k.outcome = nil
	}
}

// reclaim takes c back if it is to be carried another way. If not, it is too late for that.
func (k *carrier) reclaim(c *connection) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.lost {
		k.tooLate = true
		return false
	}
	k.carried = nil
	c.detach()
	return true
}

// unheard reports whether the peer has acknowledged nothing of the connection that it was to carry, and
// k was idle before. k.mu is locked.
func (k *carrier) unheard() bool {
	if k.carried == nil || k.answered || k.tooLate || k.served == 1 {
		return false
	}
	acked, err := ackedBytes(k.conn)
	return err == nil && acked <= 1+k.written
}

// lose gives c up, if it may be carried another way. k.mu is locked. err is why: unless that comes from
// the peer, c is begun there, or may be yet, which does no harm to an application that waits: it has sent nothing.
func (k *carrier) lose(err error) {
	k.lost = true
	if k.carried.waiting == nil && !errors.Is(err, errAgain) {
		k.carried.again = true
		k.carried.silent = k.carried.silent || !errors.Is(err, syscall.ECONNRESET) && err != io.EOF
	}
	k.decided()
	// send may wait for the application, unless that waits itself.
	if k.carried.waiting == nil {
		_ = k.carried.app.SetReadDeadline(time.Unix(1, 0))
	}
}

// watchLost looks after lostAfter whether peers have answered.
func (p *Proxy) watchLost() {
	if p.watching.Swap(true) {
		return
	}
	time.AfterFunc(lostAfter, func() {
		p.watching.Store(false)
		again := false
		for _, c := range p.live.snapshot() {
			if k := c.carrier.Load(); k != nil && k.dialled {
				again = k.suspect(c) || again
			}
		}
		if again {
			p.watchLost()
		}
	})
}

// suspect gives c up if k is dead, and reports whether that is still open.
func (k *carrier) suspect(c *connection) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.carried != c || k.lost || !k.unheard() {
		return false
	}
	if time.Since(c.started) < lostAfter {
		return true
	}
	k.lose(errSilent)
	reset(k.conn)
	return false
}

// receive carries what the peer sends to the applications, until the carrier ends.
func (k *carrier) receive() {
	at, err := k.receiveFrames()
	if err == errParked {
		k.park(func() { k.receive() })
		return
	}
	k.gone.Store(true)
	k.mu.Lock()
	c, first := k.carried, k.served == 1
	if c != nil && !k.lost && !k.answered && !k.tooLate && c.cause() == nil && (errors.Is(err, errAgain) || k.unheard()) {
		k.lose(err)
	}
	lost, complete := k.lost, k.saidAll && at == ended
	k.broken = true
	k.decided()
	k.mu.Unlock()
	if c == nil || lost || complete {
		if lost {
			k.proxy.carriers.dropPeer(k.route)
		}
		k.finish(err)
		return
	}
	err = truncated(err)
	if first && at == asked {
		err = c.unsealFailed(err, true)
	}
	c.abort(err)
	if at != ended {
		c.directionEnded(nil)
	}
	k.finish(err)
}

// receiveFrames returns the error that ends the carrier, and where the connection is that it carries. It goes on
// where it has parked.
func (k *carrier) receiveFrames() (at reading, err error) {
	c, at := k.current, k.at
	if c == nil && at != ended {
		at = asked
	}
	for {
		f, err := k.next()
		if err == errParked {
			if at == ended {
				c = nil
			}
			k.current, k.at = c, at
			return at, err
		}
		if err != nil {
			return k.where(c, at), err
		}
		if f.kind == frameGoAway {
			k.leave()
			continue
		}
		if at == ended || c == nil {
			// Another connection has begun, or the peer has no right to speak.
			if c = k.asked(); c == nil {
				return idle, fmt.Errorf("%w: %v", errUnexpected, f.kind)
			}
			at = asked
		}
		switch {
		case f.kind == frameStatus && at == asked:
			if err := k.answer(c, status(f.payload[0])); err != nil {
				return asked, err
			}
			at = open
		case f.kind == frameData && at == open:
			if err := c.deliver(f.payload, k.endsNext()); err != nil {
				return open, err
			}
		case f.kind == frameUrgent && at == open && k.urgent:
			if err := c.deliverUrgent(f.payload); err != nil {
				return open, err
			}
		case f.kind == frameEnd && at == open:
			at = ended
			k.tidy()
			var err error
			if closing := sendFIN(c.app, &c.appEnded); closing != nil {
				err = fmt.Errorf("ending the application's input: %w", closing)
			}
			c.halfEnd(nil)
			// Whatever comes now is about another connection.
			c.directionEnded(err)
		default:
			return at, fmt.Errorf("%w: %v", errUnexpected, f.kind)
		}
	}
}

// where returns where the present connection is, of which c may be the one before.
func (k *carrier) where(c *connection, at reading) reading {
	if at == ended || c == nil {
		if k.asked() != nil {
			return asked
		}
	}
	return at
}

// asked returns the connection whose answer is missing, or nil.
func (k *carrier) asked() *connection {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.answered {
		return nil
	}
	return k.carried
}

// answer takes the peer's answer for c. An error means that c is not carried.
func (k *carrier) answer(c *connection, answer status) error {
	if answer == statusAgain {
		return errAgain
	}
	if answer == statusOK {
		if err := c.admit(); err != nil {
			return err
		}
		source, err := c.reader()
		if err != nil {
			return err
		}
		source.drop()
	}
	c.countEncrypted()
	k.mu.Lock()
	k.answered = true
	k.decided()
	k.mu.Unlock()
	return c.checkAnswer(answer)
}

// leave follows the peer's request not to use k again.
func (k *carrier) leave() {
	k.gone.Store(true)
	k.mu.Lock()
	used := k.claimed
	k.mu.Unlock()
	if !used {
		k.proxy.carriers.remove(k)
		go k.retire()
	}
}

// release takes k back from a connection that has ended well.
func (k *carrier) release() {
	k.mu.Lock()
	k.claimed, k.carried = false, nil
	k.mu.Unlock()
	k.proxy.carriers.put(k)
}

// carryAgain carries c another way, of which the peer has got nothing.
func (p *Proxy) carryAgain(c *connection) {
	c.carrier.Store(nil)
	c.wire, c.tls, c.records = nil, nil, nil
	c.line.Wire, c.line.Encrypted, c.line.Peer, c.line.session = api.WireNone, false, "", session{}
	c.attempts++
	if c.attempts > 1 {
		wait := min(resetRetry<<(c.attempts-2), maxResetRetry)
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
		}
	}
	if cause := c.cause(); cause != nil {
		c.refuse(traffic.Stopping, cause)
		return
	}
	if c.attempts > maxAttempts {
		c.refuse(traffic.PeerReset, errAgain)
		return
	}
	if c.app != nil {
		if err := c.app.SetReadDeadline(time.Time{}); err != nil {
			c.refuse(traffic.Broken, err)
			return
		}
		c.source.early, c.source.calls = c.tuneEarly, 0
		c.source.rewind()
	}
	growStack()
	p.carryOut(c, p.settings.Load())
}

// maxAttempts is how often a peer may ask for another try.
const maxAttempts = 5

// ackedBytes returns how many bytes the peer has acknowledged. The SYN of a socket that was connected
// counts as one.
func ackedBytes(conn stream) (acked uint64, err error) {
	err = onSocket(conn, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			acked = info.Bytes_acked
		}
		return err
	})
	return acked, err
}
