//go:build linux

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A connection ends in two steps, each direction by a FIN, or at once by a RST. The other side has to
// get the same.

// errLeft means that an application has ended its direction, and then closed its socket before it had
// read everything. Its kernel answers what comes later with a RST, which is passed on. Nothing is
// wrong.
var errLeft = errors.New("application has left")

// endOfFile says what it means that nothing more can be read from socket fd: io.EOF after a FIN. A RST
// looks like one where a write of the other direction has got its error. ended means that this side has
// sent its own FIN: it writes no more then.
func endOfFile(fd uintptr, ended *atomic.Bool) error {
	if ended == nil || ended.Load() {
		return io.EOF
	}
	// The FIN may have been sent meanwhile, which also leads there.
	if polled(fd, unix.POLLHUP) && !ended.Load() {
		return errReset
	}
	return io.EOF
}

// sendFIN ends what is written to s. ended is set before.
func sendFIN(s stream, ended *atomic.Bool) error {
	ended.Store(true)
	err := onSocket(s, shutdownWrite)
	if errors.Is(err, unix.ENOTCONN) {
		return errLeft // by a RST
	}
	return err
}

// halfEnd is called when the direction that reads from s has ended, with nil for a carrier, which
// goes on. It wakes up the watch of the other direction, and reports whether that has not ended.
func (c *connection) halfEnd(s stream) (first bool) {
	c.mu.Lock()
	first, other := !c.halfEnded, c.watched
	c.halfEnded, c.watched = true, s
	c.mu.Unlock()
	if other != nil {
		_ = other.SetReadDeadline(time.Unix(1, 0)) // an error means that it is closed
	}
	return first
}

// watch is called when the direction that reads from s has ended. The first one of the two that
// end waits for the other one, or for a RST of s, which nobody would notice otherwise.
func (c *connection) watch(s stream) error {
	if !c.halfEnd(s) {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	for err = errParked; err == errParked; {
		err = awaitReadable(s, raw, pollError)
	}
	switch {
	case err == nil:
		return errLeft
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
		return nil
	}
	return err
}
