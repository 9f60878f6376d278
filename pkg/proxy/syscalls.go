//go:build linux

package proxy

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxRaw is up to how many bytes are read and written without notifying the Go scheduler.
// Sockets of this package never block, so such a call ends within microseconds, while
// releasing the processor to another thread and acquiring it again can take longer. Larger
// calls keep the kernel busy for so long that other goroutines should run. Besides, whoever takes the
// processor over looks for sockets that have become ready, which the scheduler does otherwise only while nothing can run: a
// small request beside two streams of bulk data, all of whose calls were raw, took ten times as long.
const maxRaw = 1 << 14

// readFD is read(2), repeated after EINTR.
func readFD(fd uintptr, p []byte) (int, error) { return transfer(unix.SYS_READ, fd, p) }

// writeFD is write(2), repeated after EINTR.
func writeFD(fd uintptr, p []byte) (int, error) { return transfer(unix.SYS_WRITE, fd, p) }

func transfer(call, fd uintptr, p []byte) (int, error) {
	for {
		var n uintptr
		var errno syscall.Errno
		if len(p) <= maxRaw {
			n, _, errno = unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		} else {
			n, _, errno = unix.Syscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		}
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// sink writes to a socket. It belongs to one goroutine at a time.
type sink struct {
	// nagle means that the kernel may still hold back what is written while something before is not acknowledged. written means that
	// there is something before.
	nagle, written bool
	// more means that something follows at once, for which the kernel is to hold back the end of what is written.
	more bool
	raw  syscall.RawConn
	rest []byte
	err  error
	// onWritable is writeOnce, bound once because a method value allocates.
	onWritable func(fd uintptr) bool
}

func newSink(raw syscall.RawConn) *sink {
	s := &sink{raw: raw}
	s.onWritable = s.writeOnce
	return s
}

// write is net.Conn's Write.
func (s *sink) write(p []byte) (int, error) {
	s.rest, s.err = p, nil
	if err := s.raw.Write(s.onWritable); err != nil {
		s.err = err
	}
	n := len(p) - len(s.rest)
	s.rest = nil
	return n, s.err
}

// maxAlone is how much is one segment for sure, in bytes (RFC 9293, 3.7.1). The kernel sends a first one at once, so that a short
// answer does without an option of its own.
const maxAlone = 536

// hurry has the kernel hold back nothing. Nothing depends on its success.
func (s *sink) hurry(fd int) {
	if s.nagle {
		_ = noDelay(fd)
		s.nagle = false
	}
}

// writeOnce writes until everything is written or the socket is full.
func (s *sink) writeOnce(fd uintptr) bool {
	if s.written || len(s.rest) > maxAlone {
		s.hurry(int(fd))
	}
	s.written = true
	for len(s.rest) > 0 {
		n, err := s.send(fd)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			s.err = os.NewSyscallError("write", err)
			return true
		case n == 0:
			s.err = io.ErrUnexpectedEOF
			return true
		}
		s.rest = s.rest[n:]
	}
	return true
}

func (s *sink) send(fd uintptr) (int, error) {
	if !s.more || len(s.rest) > maxRaw {
		return writeFD(fd, s.rest)
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.rest))), uintptr(len(s.rest)),
			unix.MSG_MORE|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// setLinger has close(2) of a socket reset the connection, or let what was written arrive.
func setLinger(fd int, resets bool) error {
	var l unix.Linger
	if resets {
		l.Onoff = 1
	}
	if _, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0); errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// setOption sets an option of a socket whose value is a number.
func setOption(fd, level, name, value int) error {
	v := int32(value)
	if _, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0); errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// noDelay has what is written to a socket sent at once.
func noDelay(fd int) error { return setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// shutdownWrite sends a FIN.
func shutdownWrite(fd int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
		return os.NewSyscallError("shutdown", errno)
	}
	return nil
}

// pollError reports whether the kernel has a pending error for a socket.
func pollError(fd uintptr) bool { return polled(fd, unix.POLLERR) }

// polled reports whether poll(2) says one of events of a socket, which need not be asked for.
func polled(fd uintptr, events int16) bool { return pollEvents(fd)&events != 0 }

// pollEvents returns those events.
func pollEvents(fd uintptr) int16 {
	set := unix.PollFd{Fd: int32(fd)}
	var none unix.Timespec
	if _, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&set)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0); errno != 0 {
		return 0
	}
	return set.Revents
}

// nothingToRead reports whether nothing has come to a socket, not even its end.
func nothingToRead(fd int) bool { return peek(fd) == unix.EAGAIN }

// wasReset reports whether the end of a socket has come, as a RST. Who reads from it then finds an orderly end.
func wasReset(fd int) bool { return peek(fd) == unix.ECONNRESET }

func peek(fd int) unix.Errno {
	var b [1]byte
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), 1,
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno
}

// atMark reports whether the next byte of a socket is urgent.
func atMark(fd uintptr) bool {
	var at int32
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, fd, unix.SIOCATMARK, uintptr(unsafe.Pointer(&at)))
	return errno == 0 && at == 1
}
