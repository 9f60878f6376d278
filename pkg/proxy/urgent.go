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
//
// Hardly any application sends urgent data. Until one does, nothing is asked before a read: the eBPF programs see the first
// such segment before it is in the stream, and set Options.Urgent. A read during which that changes may have
// begun with the urgent byte, which the programs have noted; later reads do not begin before it is known.

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

// read reads what is next into room. first means that the first byte of it is urgent, and no other one is: where urgent data has come
// before, that one is all that is read.
func (r *plainReader) read(fd uintptr, room []byte) (n int, first bool, err error) {
	if !r.marks || r.noneUrgent() {
		n, err = readFD(fd, room)
		if n > 0 && r.marks && !r.noneUrgent() {
			// The kernel ends a read before urgent data, but not behind it.
			place, err := r.urgency.Sockets.UrgentAt(int(fd))
			if err != nil {
				return 0, false, err
			}
			first = place == r.taken+1
		}
		r.taken += uint64(n)
		return n, first, err
	}
	// A mark that comes with data after the question would be missed.
	if errno := peek(int(fd)); errno != 0 {
		return 0, false, errno
	}
	if first = atMark(fd); first {
		room = room[:min(1, len(room))]
	}
	n, err = readFD(fd, room)
	r.taken += uint64(n)
	return n, first, err
}

// noneUrgent reports whether nothing urgent has come to any socket that is watched, and r's is.
func (r *plainReader) noneUrgent() bool {
	return r.urgency != nil && r.urgency.Urgent != nil && r.urgency.Urgent.Load() == 0
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
