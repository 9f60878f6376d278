//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errTruncated means that a TCP stream ended without the close_notify alert that marks a
// genuine end (RFC 8446, 6.1).
var errTruncated = errors.New("connection closed without close_notify")

// noRecord is what tls.Conn gets while no complete record is buffered. It is temporary in the
// sense of net.Error, so that tls.Conn does not treat it as the end.
type noRecord struct{}

func (noRecord) Error() string   { return "no complete record is buffered" }
func (noRecord) Timeout() bool   { return false }
func (noRecord) Temporary() bool { return true }

var errNoRecord net.Error = noRecord{}

// recordConn lies between a tls.Conn and its socket. It reads and writes many
// records with one system call, where tls.Conn alone takes one or two calls for
// each, and it waits for the network without holding a buffer. Records of data pass
// tls.Conn by, see records.go.
//
// What tls.Conn writes is kept until flush, so that the end of a handshake and the first data
// are sent together, as are all records of one write.
//
// A Read returns at most one record, so that the buffer of tls.Conn never holds the beginning
// of another. During the handshake Read blocks; after startRelay it returns errNoRecord
// instead, and awaitRecord waits.
type recordConn struct {
	conn  stream
	raw   syscall.RawConn
	pools *bufferPools

	// The read side belongs to the goroutine that reads from the tls.Conn. in.b[r:w] is
	// received and not yet read; in is nil if that is empty. left is how much of the current
	// record is not yet read; all of it is buffered.
	in       *buffer
	r, w     int
	left     int
	pace     pace
	relaying bool
	// heard means that something has been received.
	heard   bool
	readErr error
	// onReadable is fillOnce, bound once because a method value allocates.
	onReadable func(fd uintptr) bool

	// The write side is shared: tls.Conn answers a key update of the peer from within
	// Read.
	mu      sync.Mutex
	sink    *sink
	out     *buffer
	pending int
	// sent is how many bytes have been written.
	sent     uint64
	writeErr error
}

func newRecordConn(conn stream, pools *bufferPools) (*recordConn, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reaching the socket: %w", err)
	}
	c := &recordConn{conn: conn, raw: raw, pools: pools, sink: newSink(raw)}
	c.onReadable = c.fillOnce
	return c, nil
}

// startRelay ends the blocking reads of the handshake.
func (c *recordConn) startRelay() { c.relaying = true }

// Read reads bytes of one record.
func (c *recordConn) Read(p []byte) (int, error) {
	for c.left == 0 {
		if c.left = c.nextRecord(); c.left > 0 {
			break
		}
		if c.relaying {
			return 0, errNoRecord
		}
		if err := c.flush(); err != nil {
			return 0, err
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.in.b[c.r:c.r+c.left])
	c.left -= n
	c.r += n
	if c.r == c.w {
		c.drained()
	}
	return n, nil
}

// drained gives up the buffer, all of which has been read.
func (c *recordConn) drained() {
	c.pools.put(c.in)
	c.in, c.r, c.w = nil, 0, 0
}

// nextRecord returns the length of the record at the front of the buffer, or 0 if it is not
// complete. For data that is not a record it returns the length of a header, which tls.Conn
// refuses.
func (c *recordConn) nextRecord() int {
	if c.in == nil {
		return 0
	}
	return recordAt(c.in.b[c.r:c.w])
}

// recordAt is nextRecord for the front of b.
func recordAt(b []byte) int {
	if len(b) < recordHeader {
		return 0
	}
	body := int(binary.BigEndian.Uint16(b[3:]))
	// Content types are 20 to 23 (RFC 8446, B.1).
	if b[0] < 20 || b[0] > 23 || body > maxRecordBody {
		return recordHeader
	}
	if len(b) < recordHeader+body {
		return 0
	}
	return recordHeader + body
}

// awaitRecord waits until a complete record is buffered.
func (c *recordConn) awaitRecord() error {
	for c.left == 0 && c.nextRecord() == 0 {
		if err := c.fill(); err != nil {
			return err
		}
	}
	return nil
}

// buffered returns how many bytes are received and not yet read.
func (c *recordConn) buffered() int { return c.w - c.r }

// fill waits for the network and reads once.
func (c *recordConn) fill() error {
	if c.readErr != nil {
		return c.readErr
	}
	if err := awaitReadable(c.conn, c.raw, c.onReadable); err != nil {
		return err
	}
	return c.readErr
}

// fillOnce reads from the socket and reports whether that had an outcome. Without data it
// keeps no more memory than the received part of a record needs.
func (c *recordConn) fillOnce(fd uintptr) bool {
	kept, held := c.in, c.w-c.r
	into, class := kept, c.pools.paced(&c.pace)
	switch {
	case into == nil || into.class < class || held == len(into.b):
		// A record that fills its buffer without being complete needs a larger one.
		if held >= classSize[class] {
			class = into.class + 1
		}
		into = c.pools.get(class)
		if kept != nil {
			copy(into.b, kept.b[c.r:c.w])
		}
	case c.r > 0:
		copy(into.b, into.b[c.r:c.w])
		c.r, c.w = 0, held
	}
	n, err := readFD(fd, into.b[held:])
	if err == unix.EAGAIN {
		switch {
		case into != kept:
			c.pools.put(into)
		case classFor(held) < kept.class:
			small := c.pools.get(classFor(held))
			copy(small.b, kept.b[c.r:c.w])
			c.pools.put(kept)
			c.in, c.r, c.w = small, 0, held
		}
		return false
	}
	if into != kept {
		c.pools.put(kept)
	}
	c.in, c.r, c.w = into, 0, held
	switch {
	case err != nil:
		c.readErr = os.NewSyscallError("read", err)
	case n == 0 && held > 0:
		c.readErr = fmt.Errorf("%w in the middle of a record", errTruncated)
	case n == 0:
		c.readErr = errTruncated
	default:
		c.heard = true
		c.pace.note(n, len(into.b)-held)
		c.w += n
	}
	if c.w == 0 {
		c.pools.put(into)
		c.in = nil
	}
	return true
}

// Write keeps p until flush, or until no buffer is large enough.
func (c *recordConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for rest := p; len(rest) > 0; {
		if c.writeErr != nil {
			return 0, c.writeErr
		}
		if err := c.makeRoom(len(rest)); err != nil {
			return 0, err
		}
		n := copy(c.out.b[c.pending:], rest)
		c.pending += n
		rest = rest[n:]
	}
	return len(p), nil
}

// makeRoom makes room in c.out for n bytes, or at least for some.
func (c *recordConn) makeRoom(n int) error {
	if c.out != nil && len(c.out.b)-c.pending >= n {
		return nil
	}
	want := classFor(c.pending + n)
	if c.out == nil {
		c.out = c.pools.get(want)
		return nil
	}
	if want > c.out.class {
		larger := c.pools.get(want)
		copy(larger.b, c.out.b[:c.pending])
		c.pools.put(c.out)
		c.out = larger
		return nil
	}
	if c.pending < len(c.out.b) {
		return nil
	}
	if err := c.flushLocked(); err != nil {
		return err
	}
	c.out = c.pools.get(want)
	return nil
}

// flush writes everything that is kept with one system call, or with more if the socket's
// buffer is small.
func (c *recordConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *recordConn) flushLocked() error {
	if c.writeErr != nil || c.out == nil {
		return c.writeErr
	}
	n, err := c.sink.write(c.out.b[:c.pending])
	c.sent, c.writeErr = c.sent+uint64(n), err
	c.pools.put(c.out)
	c.out, c.pending = nil, 0
	return c.writeErr
}

// written returns how many bytes have been written to the socket, or are kept.
func (c *recordConn) written() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent + uint64(c.pending)
}

// release returns the buffers to their pools. The connection must be closed and unused.
func (c *recordConn) release() {
	c.drained()
	c.left = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pools.put(c.out)
	c.out, c.pending = nil, 0
	if c.writeErr == nil {
		c.writeErr = net.ErrClosed
	}
}

// Close closes the socket without writing what is kept.
func (c *recordConn) Close() error { return c.conn.Close() }

// LocalAddr returns the socket's own address.
func (c *recordConn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the peer's address.
func (c *recordConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// SetDeadline, SetReadDeadline and SetWriteDeadline do nothing: tls.Conn sets
// a deadline around the close_notify alert, which is only kept here. Deadlines are set on the
// socket.
func (c *recordConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing; see SetDeadline.
func (c *recordConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing; see SetDeadline.
func (c *recordConn) SetWriteDeadline(time.Time) error { return nil }
