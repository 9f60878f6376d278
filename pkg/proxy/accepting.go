//go:build linux

package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// The accepting side of a carrier. The goroutine that reads also dials the applications, and does not
// read the next header before the connection has ended both ways. This side never closes an idle
// carrier before the peer: it asks the peer to do so, and serves a header that was under way.

// serve carries the connections that come over k, of which c is the first, until k ends. It is
// inbound from the header on.
func (k *carrier) serve(c *connection, s *settings, deadline time.Time, release func() bool) {
	h, err := k.firstHeader(deadline)
	if !release() {
		c.refuse(traffic.Evicted, nil)
		k.finish(errEvicted)
		return
	}
	if err == io.EOF {
		// The peer wanted to know whether there is a gateway.
		c.carrier.Store(k)
		c.unused()
		k.finish(err)
		return
	}
	k.served, k.busy = 1, true
	k.lend(c, false)
	if err != nil {
		err = fmt.Errorf("reading the header: %w", truncated(err))
		k.proxy.decline(c, statusNotAllowed, traffic.Forbidden, err)
		k.finish(err)
		return
	}
	k.serveOn(func() error { return k.carry(c, s, h) })
}

// serveOn carries connections until k ends, or parks. next is what comes first.
func (k *carrier) serveOn(next func() error) {
	err := next()
	for err == nil {
		err = k.carryNext()
	}
	if err == errParked {
		then := k.then
		k.then = nil
		k.park(func() { k.serveOn(then) })
		return
	}
	k.finish(err)
}

// carryNext carries the next connection.
func (k *carrier) carryNext() error {
	k.tidy()
	k.mu.Lock()
	k.busy = false
	k.mu.Unlock()
	if !k.proxy.carriers.await(k) {
		k.sendAway()
	}
	return k.awaitNext()
}

// awaitNext waits for the header of the next connection.
func (k *carrier) awaitNext() error {
	h, err := k.nextHeader()
	if err != nil {
		if err == errParked {
			k.then = func() error { return k.awaitNext() }
		}
		return err
	}
	c, s := k.proxy.open(traffic.Inbound, k.conn), k.proxy.settings.Load()
	k.lend(c, true)
	if err := k.check(c, s); err != nil {
		return err
	}
	return k.carry(c, s, h)
}

func (k *carrier) firstHeader(deadline time.Time) (header, error) {
	if err := k.conn.SetDeadline(deadline); err != nil {
		return header{}, err
	}
	h, err := k.header()
	if err != nil {
		return header{}, err
	}
	return h, k.conn.SetDeadline(time.Time{})
}

// nextHeader waits for a header, and makes k busy with it.
func (k *carrier) nextHeader() (header, error) {
	h, err := k.header()
	if err != nil {
		return header{}, err
	}
	if k.awaySent.Load() {
		// The peer knows before it gets the answer to the first one, or the second one if go-away
		// was sent while that came.
		if k.crossed++; k.crossed > 2 {
			return header{}, fmt.Errorf("%w: a header after go-away", errUnexpected)
		}
	}
	k.proxy.carriers.remove(k)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = true
	if k.saidAway.Load() {
		return h, k.conn.SetDeadline(time.Time{})
	}
	return h, nil
}

func (k *carrier) header() (header, error) {
	f, err := k.next()
	if err != nil {
		return header{}, err
	}
	if f.kind != frameHeader {
		return header{}, fmt.Errorf("%w: %v", errUnexpected, f.kind)
	}
	h, n, err := parseHeader(f.payload)
	if err == nil && n != len(f.payload) {
		err = errHeaderField
	}
	return h, err
}

// check repeats for a further connection what was checked when the peer connected: whether there is
// memory for it, and the peer's certificate. If not, the peer is to dial, and to meet the checks there.
func (k *carrier) check(c *connection, s *settings) error {
	p := k.proxy
	if !p.awaitRoom(p.ctx) {
		c.pending = false
		p.decline(c, statusAgain, traffic.NoMemory, errNoRoom)
		return errNoRoom
	}
	if err := k.verify(s); err != nil {
		reason, err := validityReason(err, s.now(), traffic.ClientExpired, traffic.ClientNotYetValid, traffic.NoHandshake)
		p.decline(c, statusAgain, reason, err)
		return err
	}
	return nil
}

// carry carries c to the application that h names, until it has ended. An error ends k.
func (k *carrier) carry(c *connection, s *settings, h header) error {
	c.line.Source, c.line.Destination, c.line.Dialled = h.Client, h.Destination, h.Dialled
	source, err := k.proxy.reach(c, s, h, k.certificates[0])
	if err != nil {
		return err
	}
	c.settle()
	c.countEncrypted()
	c.relaying.Store(2)
	// What the peer sees acknowledged and unanswered, it does not send again, and what has reached the application, it must
	// not. The answer acknowledges, too.
	k.owe()
	if h.Waits || k.r == k.w || !k.acknowledge() {
		err = k.answerNow()
	} else {
		k.answerLater()
	}
	if err != nil {
		k.sealed <- struct{}{}
		return k.ended(c, err)
	}
	source.twice = true
	go k.sealOff(c, source)
	return k.carryOn(c)
}

// carryOn carries what the peer sends, until c has ended or parks.
func (k *carrier) carryOn(c *connection) error {
	err := k.unseal(c)
	if errors.Is(err, errParked) {
		k.then = func() error { return k.carryOn(c) }
		return errParked
	}
	if err == nil {
		err = c.watch(k.conn)
	}
	return k.ended(c, err)
}

// ended is called when the direction from the peer has ended, and waits for the other one.
func (k *carrier) ended(c *connection, err error) error {
	if err != nil {
		k.answerAndAbort(c, err)
	}
	c.relaying.Add(-1)
	<-k.sealed
	_ = k.conn.SetReadDeadline(time.Time{}) // that of watch; an error means that it is closed
	c.relaying.Add(-1)
	c.finish()
	return c.cause()
}

// answerWithin is how long the answer to a header may wait for the first data of the application, with which it travels.
const answerWithin = 5 * time.Millisecond

// owe notes that the peer has no answer yet.
func (k *carrier) owe() {
	k.answeredAt = math.MaxUint64
	k.owes.Store(true)
}

// answerLater answers after answerWithin, unless the answer has travelled with something before.
func (k *carrier) answerLater() {
	within := cmp.Or(k.proxy.options.answerWithin, answerWithin)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.overdue == nil {
		k.overdue = time.AfterFunc(within, func() { _ = k.answerNow() }) // the reading goroutine meets the error again
		return
	}
	k.overdue.Reset(within)
}

// acknowledge has the kernel acknowledge what has been read, at once, and reports whether it has: not where more has come.
func (k *carrier) acknowledge() (done bool) {
	_ = control(k.records.raw, func(fd int) error {
		// 2 goes on with acknowledgements that wait for data to travel with.
		done = setOption(fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK, 2) == nil && nothingToRead(fd)
		return nil
	})
	return done
}

// payAnswer has the answer that k owes travel with what is written next, and reports whether there was one.
func (k *carrier) payAnswer() (owed bool, err error) {
	if !k.owes.Load() {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.owes.Load() {
		return false, nil
	}
	if k.overdue != nil {
		k.overdue.Stop()
	}
	var b [framePrefix + 1]byte
	putFrame(b[:], frameStatus, 1)
	b[framePrefix] = byte(statusOK)
	k.answeredAt = k.records.written() + uint64(sealedSize(len(b)))
	_, err = k.tls.Write(b[:])
	// Who sees this may write.
	k.owes.Store(false)
	return true, err
}

// answerNow is payAnswer for what nothing is to travel with.
func (k *carrier) answerNow() error {
	owed, err := k.payAnswer()
	if owed && err == nil {
		err = k.records.flush()
	}
	return err
}

// answerAndAbort ends a connection that may be unanswered.
func (k *carrier) answerAndAbort(c *connection, err error) {
	_ = k.answerNow() // there is an error already
	c.abort(err)
}

func (k *carrier) sealOff(c *connection, source *plainReader) {
	err := k.seal(c, source, nil)
	if errors.Is(err, errParked) {
		c.park(c.app, func() { k.sealOff(c, source) })
		return
	}
	if err == nil {
		err = c.watch(c.app)
	}
	if err != nil {
		k.answerAndAbort(c, err)
	}
	k.sealed <- struct{}{}
}

// unseal carries what the peer sends to the application, until its end.
func (k *carrier) unseal(c *connection) error {
	for first := k.owes.Load(); ; first = false {
		f, err := k.next()
		if err != nil {
			return fmt.Errorf("reading from the peer: %w", truncated(err))
		}
		if !first {
			// The peer may have to wait for the answer with the rest of what its application says.
			if err := k.answerNow(); err != nil {
				return err
			}
		}
		switch {
		case f.kind == frameData:
			if err := c.deliver(f.payload, k.endsNext()); err != nil {
				return err
			}
		case f.kind == frameUrgent && k.urgent:
			if err := c.deliverUrgent(f.payload); err != nil {
				return err
			}
		case f.kind == frameEnd:
			k.tidy()
			if err := sendFIN(c.app, &c.appEnded); err != nil {
				return fmt.Errorf("ending the application's input: %w", err)
			}
			return nil
		default:
			return fmt.Errorf("%w: %v", errUnexpected, f.kind)
		}
	}
}
