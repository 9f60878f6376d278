//go:build linux

package proxy

import (
	"os"

	"golang.org/x/sys/unix"
)

// Urgent data (RFC 6093) is a mark in the stream, and what stands there is for the receiver's kernel
// to give to its application, beside the stream or in it. The mark is passed on: sockets have the byte in the
// stream, reads stop before it, and it goes on alone, in a frame of its own under TLS. Where the peer knows no such
// frames, the gateway's kernel takes the byte out of the stream: an application that expects it
// elsewhere would take it for data.

// findUrgent has r look for urgent data, or not.
func (r *plainReader) findUrgent(on bool) {
	if r.inline != on && onSocket(r.conn, func(fd int) error { return oobInline(fd, on) }) == nil {
		r.inline = on
	}
	r.marks = r.inline && on
}

// oobInline has a socket keep urgent data in the stream, or not.
func oobInline(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return setOption(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, value)
}

// atMark reports whether what has come to r begins with urgent data, which is read alone. The error is what a read would return,
// EAGAIN if nothing has come: a mark that comes with data after the question would be missed.
func (r *plainReader) atMark(fd uintptr) (bool, error) {
	if !r.marks {
		return false, nil
	}
	if errno := peek(int(fd)); errno != 0 {
		return false, errno
	}
	return atMark(fd), nil
}

// writeUrgent writes b to s with the mark at its last byte.
func writeUrgent(s stream, b []byte) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), b, unix.MSG_OOB|unix.MSG_NOSIGNAL, nil)
		return failed != unix.EAGAIN
	}); err != nil {
		return err
	}
	return os.NewSyscallError("sendto", failed)
}
