//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// errPeerWrite means that the connection to the peer takes nothing more.
var errPeerWrite = errors.New("writing to the peer")

// errNoAnswer means that the peer ended the connection before its status byte.
var errNoAnswer = errors.New("peer closed the connection before it answered")

// finTimeout is how long the dialling side waits for the other side to close first, so that
// TIME_WAIT is where it costs no port.
const finTimeout = 5 * time.Second

// relay carries bytes both ways and returns at once. Each direction has a goroutine with a
// fresh stack, because the stack of a handshake is ten times as large.
func (c *connection) relay(outgoing, incoming way) {
	c.settle()
	c.relaying.Store(2)
	go c.carry(outgoing, c.app)
	go c.carry(incoming, c.wire)
}

// handshakeStack is about how much stack a handshake needs, in bytes.
const handshakeStack = 16 << 10

// growStack makes the calling goroutine's stack large enough for a handshake while it is
// empty. By itself the stack would double four times, and move all frames each time.
//
//go:noinline
func growStack() {
	var room [handshakeStack]byte
	runtime.KeepAlive(&room)
}

// reuseStack is about how much stack it takes to send over a connection that other connections have used, in bytes.
const reuseStack = 4 << 10

// growStackABit is growStack for that.
//
//go:noinline
func growStackABit() {
	var room [reuseStack]byte
	runtime.KeepAlive(&room)
}

// way carries one direction: first begins, and then goes on when that has parked. Without first, then does both.
type way struct{ first, then func() error }

// carry carries one direction, which reads from s.
func (c *connection) carry(w way, s stream) {
	do := w.first
	if do == nil {
		do = w.then
	}
	err := do()
	if errors.Is(err, errParked) {
		c.park(s, func() { c.carry(way{then: w.then}, s) })
		return
	}
	if err == nil {
		err = c.watch(s)
	}
	c.directionEnded(err)
}

// directionEnded is called when a direction has ended, with the error that ended it or nil.
func (c *connection) directionEnded(err error) {
	if err != nil {
		c.abort(err)
	}
	if c.relaying.Add(-1) == 0 {
		c.finish()
	}
}

// finish ends a connection whose two directions have ended.
func (c *connection) finish() {
	cause := c.cause()
	switch {
	case cause == nil, errors.Is(cause, errLeft):
	case c.line.Error == "":
		c.line.Error = cause.Error()
	default:
		c.line.Error += "; " + cause.Error()
	}
	if c.app != nil && !c.keepSocket() {
		c.proxy.close(c.app)
	}
	if k := c.carrier.Load(); k != nil {
		if !c.counted {
			c.countEncrypted()
		}
		if cause == nil && c.detach() {
			switch plain := k.tunedBy(c); {
			case !plain && k.dialled:
				k.retire()
			case !plain:
				k.sendAway()
			case k.dialled:
				k.release()
			}
		}
		c.report()
		c.forget()
		return
	}
	c.report()
	if cause == nil && c.records != nil && c.dialled() {
		awaitFIN(c.wire)
	}
	c.proxy.close(c.wire)
	c.forget()
}

// dialled reports whether this side dialled the peer.
func (c *connection) dialled() bool { return c.direction == traffic.Outbound }

// awaitFIN waits until the peer has closed its socket. Nothing more of what it sends is needed.
func awaitFIN(wire stream) {
	if wire.SetReadDeadline(time.Now().Add(finTimeout)) != nil {
		return
	}
	var scrap [64]byte
	for {
		if _, err := wire.Read(scrap[:]); err != nil {
			return
		}
	}
}

// seal carries the application's data into TLS until its end of file, which becomes a
// close_notify. An answer other than 0 is sent in front of the first data, or alone if there
// is none, or none yet where source polls.
func (c *connection) seal(source *plainReader, answer status) error {
	front := c.framing.prefix()
	source.findUrgent(c.framing != nil)
	source.reserve = front
	if answer != 0 {
		source.reserve++
	}
	for {
		b, size, err := source.next()
		if source.reserve > front && b != nil {
			b.b[0] = byte(answer)
		}
		c.sent.Add(uint64(source.fresh))
		size = c.framing.frameUp(source, b, source.reserve, size)
		source.reserve, source.poll = front, false
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading from the application: %w", err)
		}
		if err := c.sealOnce(b, size, err == io.EOF); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
	}
}

// sealOnce writes size bytes of b, and a close_notify at the end, with one system call, and
// returns b to its pool.
func (c *connection) sealOnce(b *buffer, size int, end bool) error {
	var err error
	if size > 0 {
		err = c.records.seal(c.tls, b.b, size)
	}
	c.proxy.pools.put(b)
	if err == nil && end {
		err = c.tls.CloseWrite()
	}
	if err == nil {
		err = c.records.flush()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errPeerWrite, err)
	}
	return nil
}

// unseal carries the peer's data to the application until its close_notify, which becomes an
// end of file. If check is not nil, it judges the first byte, which is the peer's answer and
// not for the application.
func (c *connection) unseal(check func(status) error) error {
	// The TLS connection may hold a part of the header's record.
	more := true
	for {
		if !more {
			if err := c.records.awaitRecord(); err != nil {
				return c.unsealFailed(err, check != nil)
			}
		}
		b, n, readErr := c.records.decrypt(c.tls, nil)
		data := b.b[:n]
		if n > 0 && check != nil {
			if err := check(status(data[0])); err != nil {
				c.proxy.pools.put(b)
				return err
			}
			check, data = nil, data[1:]
		}
		err := c.unframe(data)
		c.proxy.pools.put(b)
		if err != nil {
			return err
		}
		more = readErr == nil
		switch {
		case readErr == nil || readErr == error(errNoRecord):
		case readErr == io.EOF && !c.framing.complete():
			return c.unsealFailed(errTruncated, false)
		case readErr == io.EOF && check == nil:
			if err := sendFIN(c.app, &c.appEnded); err != nil {
				return fmt.Errorf("ending the application's input: %w", err)
			}
			return nil
		case readErr == io.EOF:
			return c.unsealFailed(errNoAnswer, true)
		default:
			return c.unsealFailed(readErr, check != nil)
		}
	}
}

// unsealFailed wraps an error of the peer's side. Before the peer's answer it may be the
// peer's verdict on our certificate, because in TLS 1.3 the client finishes first. The
// verdict is remembered.
func (c *connection) unsealFailed(err error, unanswered bool) error {
	if unanswered && c.dialled() {
		if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
			reason := rejection(op)
			c.line.Reason = reason.String()
			c.proxy.peers.reject(c.route, reason)
			if c.waiting != nil {
				c.waiting.answered(statusNotAllowed)
			}
		}
	}
	return fmt.Errorf("reading from the peer: %w", err)
}

// deliver writes data to the application. last means that the end follows at once, and travels with the data.
func (c *connection) deliver(data []byte, last bool) error {
	if len(data) == 0 {
		return nil
	}
	c.toApp.more = last
	n, err := c.toApp.write(data)
	c.received.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("writing to the application: %w", err)
	}
	return nil
}

// deliverUrgent is deliver for a byte that is urgent.
func (c *connection) deliverUrgent(data []byte) error {
	_ = control(c.source.raw, func(fd int) error {
		c.toApp.hurry(fd)
		return nil
	})
	if err := writeUrgent(c.app, data); err != nil {
		return fmt.Errorf("writing to the application: %w", err)
	}
	c.received.Add(uint64(len(data)))
	return nil
}

// plainReader reads from an application's socket, and holds no buffer while it waits.
type plainReader struct {
	conn  stream
	raw   syscall.RawConn
	pools *bufferPools
	// ended means that nothing more is written to the socket.
	ended *atomic.Bool
	// early is called when data has been read, the first few times, if it is not nil.
	early func()
	// inline means that the socket keeps urgent data in the stream, marks that it is looked for, urgent that the last call of
	// next has read a byte of it and nothing else.
	inline, marks, urgent bool
	// calls is how often early was called.
	calls uint8
	// urgency has Urgent and Sockets where conn is one that Sockets.UrgentAt knows, or is nil. taken is how many bytes have been
	// read from the socket.
	urgency *Options
	taken   uint64
	pace    pace
	// reserve is how many bytes at the front of the next buffer are left free, tail how many at its
	// end.
	reserve, tail int
	// poll makes next return at once, even without data; twice makes it look for the end behind
	// little data.
	poll, twice bool

	b    *buffer
	size int
	err  error
	// fresh is how many bytes the last call of next has read from the socket.
	fresh int
	// kept is what has been read and may be read again.
	kept kept
	// onReadable is readOnce, bound once because a method value allocates.
	onReadable func(fd uintptr) bool
}

func newPlainReader(conn stream, pools *bufferPools, ended *atomic.Bool) (*plainReader, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reaching the socket: %w", err)
	}
	r := &plainReader{conn: conn, raw: raw, pools: pools, ended: ended}
	r.onReadable = r.readOnce
	return r, nil
}

// next returns a buffer with the reserved bytes and the data behind them, size bytes in all.
// The caller returns it to its pool. The buffer may be nil if nothing was read and nothing is
// reserved.
func (r *plainReader) next() (b *buffer, size int, err error) {
	r.b, r.size, r.err, r.fresh = nil, 0, nil, 0
	if b, size := r.kept.again(r); b != nil {
		r.begin()
		return b, size, nil
	}
	if err := awaitReadable(r.conn, r.raw, r.onReadable); err != nil {
		return nil, 0, err
	}
	b, r.b = r.b, nil
	if r.size > r.reserve {
		r.begin()
	}
	return b, r.size, r.err
}

// earlyReads is how many reads are early: a program may greet the other end before it sets options.
const earlyReads = 3

// begin is called when there is data.
func (r *plainReader) begin() {
	if r.early == nil {
		return
	}
	r.early()
	if r.calls++; r.calls == earlyReads {
		r.early = nil
	}
}

func (r *plainReader) readOnce(fd uintptr) bool {
	b := r.pools.get(r.pools.paced(&r.pace))
	room := r.kept.bound(b.b[r.reserve : sealPayload[b.class]-r.tail])
	n, first, err := r.read(fd, room)
	r.urgent = first
	switch {
	case err == unix.EAGAIN && !r.poll:
		r.pools.put(b)
		return false
	case err == unix.EAGAIN:
	case err != nil:
		r.err = err
	case n == 0:
		r.err = endOfFile(fd, r.ended)
	default:
		r.pace.note(n, len(room))
		// Where the urgent byte is, and whether there are others beside it.
		at, mixed := 0, first && n > 1
		if r.twice && !first && n < len(room) {
			var more int
			at = n
			more, mixed = r.readMore(fd, room[n:])
			n += more
		}
		r.fresh = n
		if mixed {
			r.kept.part(r, room[:n], at)
			r.pools.put(b)
			r.b, r.size = r.kept.again(r)
			return true
		}
		r.kept.add(r, room[:n])
	}
	r.size = r.reserve + max(0, n)
	if r.size == 0 {
		r.pools.put(b)
	} else {
		r.b = b
	}
	return true
}

// readMore reads what is there behind little data: an application that answers and closes has often done
// both by then, and the end travels with the answer. marked means that the first byte of it is urgent.
func (r *plainReader) readMore(fd uintptr, room []byte) (n int, marked bool) {
	n, marked, err := r.read(fd, room)
	switch {
	case err == unix.EAGAIN:
	case err != nil:
		r.err = err
	case n == 0:
		r.err = endOfFile(fd, r.ended)
	}
	return n, marked
}
