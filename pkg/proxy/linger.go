//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// When a worker dies, the kernel closes its sockets, and a FIN in the middle of a stream
// would look like its end. So all sockets of connections have SO_LINGER with a time of zero
// from the start, which makes every close(2) a RST: accepted ones inherit it from their
// listener, dialled ones get it before connect(2). It also discards unsent data, so
// closeGently unsets it first. A socket that is used again keeps it.

// prepareListener makes the connections that l accepts end with a RST unless
// closeGently ends them, and has what is written to them sent at once. captured means that they are those of applications, whose urgent
// data is to be found.
func prepareListener(l net.Listener, captured bool) error {
	conn, ok := l.(syscall.Conn)
	if !ok {
		return nil // there is no socket to inherit from
	}
	return onSocket(conn, func(fd int) error {
		if captured {
			if err := oobInline(fd, true); err != nil {
				return err
			}
		}
		return errors.Join(noDelay(fd), lingerZero(fd))
	})
}

func lingerZero(fd int) error {
	if err := setLinger(fd, true); err != nil {
		return fmt.Errorf("setting SO_LINGER: %w", err)
	}
	return nil
}

// control calls do with the descriptor of raw.
func control(raw syscall.RawConn, do func(fd int) error) (err error) {
	if controlErr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

// onSocket calls do with the descriptor of socket.
func onSocket(socket syscall.Conn, do func(fd int) error) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("accessing the socket: %w", err)
	}
	return control(raw, do)
}

// closeGently closes s; written data still arrives, then the end. Errors mean that the
// socket is closed already.
func closeGently(s stream) {
	_ = onSocket(s, func(fd int) error { return setLinger(fd, false) })
	_ = s.Close()
}

// close is closeGently for a stream that nobody writes to or reads from any more.
func (p *Proxy) close(s stream) { p.closeAtOnce(s, false) }

// resetAtOnce is reset for such a stream.
func (p *Proxy) resetAtOnce(s stream) { p.closeAtOnce(s, true) }

// closeAtOnce has /dev/null take the place of the socket: Go's scheduler is told of close(2), which sends a FIN or a RST here,
// and takes a processor away for it, but of this call it is not. The descriptor, which is that of /dev/null then, is closed later.
func (p *Proxy) closeAtOnce(s stream, linger bool) {
	replaced := false
	_ = onSocket(s, func(fd int) error {
		err := setLinger(fd, linger)
		if p.null >= 0 {
			_, _, errno := unix.RawSyscall(unix.SYS_DUP3, uintptr(p.null), uintptr(fd), unix.O_CLOEXEC)
			replaced = errno == 0
		}
		return err
	})
	if replaced {
		p.spent.add(s)
		p.stir()
		return
	}
	_ = s.Close()
}

// maxSpent is how many descriptors are closed together. The first close(2) after a moment without work wakes the thread that looks
// after Go's scheduler, which then looks every 20 µs for as long as there is work, and for a millisecond at least.
const maxSpent = 256

// closeEnded closes the descriptors of connections that have ended, and what is kept of those for others.
func (p *Proxy) closeEnded() {
	p.spent.close()
	p.used.close()
}

// spent has streams whose sockets are closed, and whose descriptors are not.
type spent struct {
	mu      sync.Mutex
	streams []stream
}

// add closes s, and those before it, when there are enough, with the next sweep, or where descriptors are needed.
func (p *spent) add(s stream) {
	p.mu.Lock()
	p.streams = append(p.streams, s)
	full := len(p.streams) >= maxSpent
	p.mu.Unlock()
	if full {
		p.close()
	}
}

func (p *spent) any() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams) > 0
}

func (p *spent) close() {
	p.mu.Lock()
	all := p.streams
	p.streams = nil
	p.mu.Unlock()
	for _, s := range all {
		_ = s.Close()
	}
}

// reset closes s with a RST instead of a FIN. Errors mean that the socket is closed
// already.
func reset(s stream) {
	_ = onSocket(s, lingerZero)
	_ = s.Close()
}
