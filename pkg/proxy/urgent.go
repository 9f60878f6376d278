//go:build linux

package proxy

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Urgent data (RFC 6093) is a mark in the stream, and what stands there is for the receiver's kernel
// to give to its application, beside the stream or in it. In plaintext the mark is passed on: sockets
// have it in the stream, reads stop before it, and the byte goes on alone.

// keepUrgent makes source find marks in what it reads from socket.
func keepUrgent(source *plainReader, socket *net.TCPConn) {
	source.marks = onSocket(socket, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	}) == nil
}

// beforeMark bounds what may be read next, which is a single byte at a mark.
func (r *plainReader) beforeMark(fd uintptr, room []byte) []byte {
	if !r.marks {
		return room
	}
	at, err := unix.IoctlGetInt(int(fd), unix.SIOCATMARK)
	if r.urgent = err == nil && at == 1; r.urgent {
		return room[:1]
	}
	return room
}

// writeUrgent writes b to socket with the mark at its last byte.
func writeUrgent(socket *net.TCPConn, b []byte) error {
	raw, err := socket.SyscallConn()
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
