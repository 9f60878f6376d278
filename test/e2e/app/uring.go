package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From include/uapi/linux/io_uring.h.
const (
	uringGetEvents   = 1
	uringOffSQRing   = 0
	uringOffSQEs     = 0x10000000
	uringConnect     = 16
	uringSend        = 26
	uringReceive     = 27
	uringSingleMmap  = 1
	uringEntries     = 4
	sqeAsync         = 1 << 4 // a thread of the kernel makes the call
	sizeofSQE        = 64
	sizeofCompletion = 16
)

// uringParams is struct io_uring_params.
type uringParams struct {
	SQEntries, CQEntries, Flags, SQThreadCPU, SQThreadIdle, Features, WQ uint32
	_                                                                    [3]uint32
	SQ                                                                   struct {
		Head, Tail, RingMask, RingEntries, Flags, Dropped, Array, _ uint32
		UserAddr                                                    uint64
	}
	CQ struct {
		Head, Tail, RingMask, RingEntries, Overflow, CQEs, Flags, _ uint32
		UserAddr                                                    uint64
	}
}

// submission is struct io_uring_sqe.
type submission struct {
	Opcode, Flags uint8
	Priority      uint16
	FD            int32
	Offset, Addr  uint64
	Len           uint32
	OpFlags       uint32
	UserData      uint64
	_             [3]uint64
}

// completion is struct io_uring_cqe.
type completion struct {
	UserData uint64
	Result   int32
	Flags    uint32
}

// ring makes one call at a time.
type ring struct {
	fd      int
	params  uringParams
	rings   []byte
	entries []byte
}

func newRing() (*ring, error) {
	r := &ring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&r.params)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	if r.params.Features&uringSingleMmap == 0 {
		return nil, errors.New("io_uring before Linux 5.4")
	}
	size := max(r.params.SQ.Array+r.params.SQEntries*4, r.params.CQ.CQEs+r.params.CQEntries*sizeofCompletion)
	var err error
	if r.rings, err = unix.Mmap(r.fd, uringOffSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the rings: %w", err)
	}
	if r.entries, err = unix.Mmap(r.fd, uringOffSQEs, uringEntries*sizeofSQE, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return nil, fmt.Errorf("mapping the entries: %w", err)
	}
	return r, nil
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[offset])) }

// do makes a call and waits for its end.
func (r *ring) do(s submission) (int, error) {
	tail := r.word(r.params.SQ.Tail)
	at := *tail & *r.word(r.params.SQ.RingMask)
	*(*submission)(unsafe.Pointer(&r.entries[at*sizeofSQE])) = s
	*r.word(r.params.SQ.Array + at*4) = at
	atomic.AddUint32(tail, 1)
	head := r.word(r.params.CQ.Head)
	for atomic.LoadUint32(r.word(r.params.CQ.Tail)) == *head {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 1, uringGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
	c := *(*completion)(unsafe.Pointer(&r.rings[r.params.CQ.CQEs+(*head&*r.word(r.params.CQ.RingMask))*sizeofCompletion]))
	atomic.AddUint32(head, 1)
	if c.Result < 0 {
		return 0, unix.Errno(-c.Result)
	}
	return int(c.Result), nil
}

// uring is bySocket without a system call on the socket.
func (s *socket) uring(text string, flags uint8) (result, error) {
	r, err := newRing()
	if err != nil {
		return result{}, err
	}
	call := func(opcode uint8, memory unsafe.Pointer, length uint32, offset uint64) (int, error) {
		var pin runtime.Pinner
		defer pin.Unpin()
		pin.Pin(memory)
		return r.do(submission{Opcode: opcode, Flags: flags, FD: int32(s.fd), Addr: uint64(uintptr(memory)), Len: length, Offset: offset})
	}
	if s.to.Addr().Is4() {
		a := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(s.to), Addr: s.to.Addr().As4()}
		_, err = call(uringConnect, unsafe.Pointer(a), 0, unix.SizeofSockaddrInet4)
	} else {
		a := &unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(s.to), Addr: s.to.Addr().As16()}
		_, err = call(uringConnect, unsafe.Pointer(a), 0, unix.SizeofSockaddrInet6)
	}
	if err != nil {
		return result{NotPermitted: errors.Is(err, unix.EPERM)}, fmt.Errorf("connecting by io_uring: %w", err)
	}
	line := []byte(text + "\n")
	if _, err := call(uringSend, unsafe.Pointer(&line[0]), uint32(len(line)), 0); err != nil {
		return result{}, fmt.Errorf("sending by io_uring: %w", err)
	}
	var received strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(received.String(), "\n") {
		n, err := call(uringReceive, unsafe.Pointer(&buffer[0]), uint32(len(buffer)), 0)
		if err != nil {
			return result{}, fmt.Errorf("receiving by io_uring: %w", err)
		}
		if n == 0 {
			break
		}
		received.Write(buffer[:n])
	}
	return result{Received: received.String()}, nil
}

func networkOrder(a netip.AddrPort) uint16 { return a.Port()<<8 | a.Port()>>8 }

// rings: counts 1 if the kernel has io_uring, and says otherwise how it refuses. It fails where
// that does not tell whether others get it.
func rings(context.Context, []string) (result, error) {
	r, err := newRing()
	if err == nil {
		unix.Close(r.fd)
		return result{Count: 1}, nil
	}
	disabled, none := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
	switch {
	case errors.Is(err, unix.ENOSYS):
		return result{Received: err.Error()}, nil
	case none == nil && errors.Is(err, unix.EPERM) && strings.TrimSpace(string(disabled)) == "2":
		return result{Received: "kernel.io_uring_disabled is 2"}, nil
	}
	return result{}, err
}
