//go:build linux

package proxy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stream is a TCP connection: a *bareSocket, or a *net.TCPConn where a listener has no socket of its own, which does not
// park.
type stream interface {
	syscall.Conn
	io.ReadWriteCloser
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// bareSocket is a stream that begins with a third of the system calls that a *net.TCPConn takes: the kernel is
// not asked for what is known. None of them is told to Go's scheduler.
type bareSocket struct {
	parking
	descriptor descriptor
	// local may be asked for later, see localEnd.
	local, remote netip.AddrPort
	outfit        outfit
}

// newBareSocket makes a stream of fd, which does not block, and is the stream's from then on.
func newBareSocket(fd int, local, remote netip.AddrPort) (*bareSocket, error) {
	s := &bareSocket{local: local, remote: remote}
	s.descriptor.fd = fd
	if _, err := s.descriptor.opened(); err != nil {
		_ = s.descriptor.close()
		return nil, err
	}
	return s, nil
}

// SyscallConn does not allocate.
func (s *bareSocket) SyscallConn() (syscall.RawConn, error) { return &s.descriptor, nil }

// Read is that of net.Conn.
func (s *bareSocket) Read(p []byte) (n int, err error) {
	err = s.descriptor.with(func(f *openSocket) (err error) {
		n, err = f.Read(p)
		return err
	})
	return n, err
}

// Write is that of net.Conn.
func (s *bareSocket) Write(p []byte) (n int, err error) {
	err = s.descriptor.with(func(f *openSocket) error {
		m, err := f.Write(p[n:])
		n += m
		return err
	})
	return n, err
}

// Close is that of net.Conn.
func (s *bareSocket) Close() error { return s.end(s.descriptor.close) }

// SetDeadline is that of net.Conn.
func (s *bareSocket) SetDeadline(t time.Time) error { return s.bound(t, s.setDeadline) }

func (s *bareSocket) setDeadline(t time.Time) error {
	return s.descriptor.with(func(f *openSocket) error { return f.SetDeadline(t) })
}

// SetReadDeadline is that of net.Conn.
func (s *bareSocket) SetReadDeadline(t time.Time) error { return s.bound(t, s.setReadDeadline) }

func (s *bareSocket) setReadDeadline(t time.Time) error {
	return s.descriptor.with(func(f *openSocket) error { return f.SetReadDeadline(t) })
}

// SetWriteDeadline is that of net.Conn.
func (s *bareSocket) SetWriteDeadline(t time.Time) error {
	return s.descriptor.with(func(f *openSocket) error { return f.SetWriteDeadline(t) })
}

func (s *bareSocket) ask(l *lot) bool { return s.askWith(l, s.setReadDeadline) }

func (s *bareSocket) interrupted(err error) interruption {
	return s.interruptedWith(err, s.setReadDeadline)
}

func (s *bareSocket) park(resume func()) { s.parkAt(&s.descriptor, resume) }

// LocalAddr returns the socket's own address, without a port where it leads to this machine and the kernel has chosen that.
func (s *bareSocket) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.localEnd()) }

// localEnd is LocalAddr. Of an accepted socket the kernel is asked when somebody wants to know the first time.
func (s *bareSocket) localEnd() netip.AddrPort {
	if !s.local.IsValid() {
		// An error means that the connection has ended: the first read finds out.
		_ = control(&s.descriptor, func(fd int) (err error) {
			s.local, err = localAddress(uintptr(fd))
			return err
		})
	}
	return s.local
}

// RemoteAddr returns the address of the other end.
func (s *bareSocket) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// descriptor is the syscall.RawConn of a bareSocket. Its errors are those of package net.
type descriptor struct {
	// file is what reads and writes wait with: half a KiB, most of it in Go's runtime. It is given up while the reader is
	// parked, and made again when it is needed.
	file   atomic.Pointer[openSocket]
	closed atomic.Bool
	// users is how many calls use file or fd.
	users atomic.Int32
	// mu guards changes of file, and fd, which is the socket while there is none.
	mu sync.Mutex
	fd int
}

// openSocket is a socket that Go's runtime waits for.
type openSocket struct {
	*os.File
	raw syscall.RawConn
}

// opened returns the file, which it makes if there is none.
func (d *descriptor) opened() (*openSocket, error) {
	if f := d.file.Load(); f != nil {
		return f, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.file.Load()
	switch {
	case f != nil:
		return f, nil
	case d.closed.Load():
		return nil, net.ErrClosed
	}
	f = &openSocket{File: os.NewFile(uintptr(d.fd), "tcp")}
	var err error
	if f.raw, err = f.SyscallConn(); err != nil {
		return nil, err
	}
	d.file.Store(f)
	return f, nil
}

// with calls do with the file, and once more if that is given up meanwhile.
func (d *descriptor) with(do func(*openSocket) error) error {
	d.users.Add(1)
	defer d.users.Add(-1)
	for {
		f, err := d.opened()
		if err == nil {
			err = do(f)
		}
		switch {
		case err == nil:
			return nil
		case d.closed.Load():
			return net.ErrClosed
		case d.file.Load() == f:
			return err
		}
	}
}

func (d *descriptor) Read(do func(fd uintptr) bool) error {
	return d.with(func(f *openSocket) error { return f.raw.Read(do) })
}

func (d *descriptor) Write(do func(fd uintptr) bool) error {
	return d.with(func(f *openSocket) error { return f.raw.Write(do) })
}

// Control makes no file.
func (d *descriptor) Control(do func(fd uintptr)) error {
	d.users.Add(1)
	defer d.users.Add(-1)
	if f := d.file.Load(); f != nil && f.raw.Control(do) == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Load() {
		return net.ErrClosed
	}
	if f := d.file.Load(); f != nil {
		return f.raw.Control(do)
	}
	do(uintptr(d.fd))
	return nil
}

// giveUp does without the file. Before that it calls leave with the descriptor, which gets another number. Nothing depends on
// its success.
func (d *descriptor) giveUp(leave func(fd int)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.file.Load()
	if f == nil || d.closed.Load() {
		return
	}
	if control(f.raw, func(fd int) error {
		other, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if errno != 0 {
			return errno
		}
		leave(fd)
		d.fd = int(other)
		return nil
	}) != nil {
		return
	}
	d.file.Store(nil)
	_ = f.Close() // the socket stays open
}

func (d *descriptor) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed.Swap(true) {
		return net.ErrClosed
	}
	if f := d.file.Load(); f != nil {
		return f.Close()
	}
	return unix.Close(d.fd)
}

// endsOf returns both addresses of s.
func endsOf(s stream) (local, remote netip.AddrPort) {
	if s, ok := s.(*bareSocket); ok {
		return s.localEnd(), s.remote
	}
	return addrPort(s.LocalAddr()), remoteEnd(s)
}

// remoteEnd returns the address of the other end of s.
func remoteEnd(s stream) netip.AddrPort {
	if s, ok := s.(*bareSocket); ok {
		return s.remote
	}
	return addrPort(s.RemoteAddr())
}

// acceptFrom accepts a connection from the backlog of fd. The error is EAGAIN if that is empty.
func acceptFrom(fd int) (*bareSocket, error) {
	for {
		var from unix.RawSockaddrAny
		size := uint32(unix.SizeofSockaddrAny)
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)),
			unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		switch errno {
		case 0:
			return newBareSocket(int(n), netip.AddrPort{}, addressOf(&from))
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return nil, os.NewSyscallError("accept4", errno)
		}
	}
}

func localAddress(fd uintptr) (netip.AddrPort, error) {
	var name unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, fd, uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", errno)
	}
	return addressOf(&name), nil
}

// connectFrom connects from local, whose port may be 0, to destination. Without a valid local the kernel chooses. On this
// machine there is an outcome at once, unless a backlog is full. prepare is called before.
func connectFrom(ctx context.Context, local, destination netip.AddrPort, timeout time.Duration, prepare func(fd int) error) (*bareSocket, error) {
	s, err := newSocket(destination.Addr())
	if err != nil {
		return nil, err
	}
	if err := prepare(s.descriptor.fd); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s.connect(ctx, local, destination, timeout, connected)
}

// newSocket returns a socket of the address family of destination, without a connection.
func newSocket(destination netip.Addr) (*bareSocket, error) {
	family := unix.AF_INET6
	if destination.Is4() {
		family = unix.AF_INET
	}
	n, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("socket", errno)
	}
	s := new(bareSocket)
	s.descriptor.fd = int(n)
	return s, nil
}

// connect is connectFrom for a socket without a connection, which nobody else has. ask tells the outcome, as connected does. An
// error means that s is closed.
func (s *bareSocket) connect(ctx context.Context, local, destination netip.AddrPort, timeout time.Duration,
	ask func(fd int) (done bool, err error)) (*bareSocket, error) {
	s.local, s.remote = local, destination
	fd := s.descriptor.fd
	fail := func(err error) (*bareSocket, error) {
		_ = s.Close()
		return nil, err
	}
	var from, to unix.RawSockaddrInet6
	size := setAddress(&to, destination)
	if local.IsValid() {
		setAddress(&from, local)
		if _, _, errno := unix.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&from)), size); errno != 0 {
			return fail(os.NewSyscallError("bind", errno))
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), size)
	done, err := errno == 0, error(nil)
	if errno == unix.EINPROGRESS || errno == unix.EINTR {
		done, err = ask(fd)
	} else if errno != 0 {
		err = os.NewSyscallError("connect", errno)
	}
	if err != nil {
		return fail(err)
	}
	if _, err := s.descriptor.opened(); err != nil {
		return fail(err)
	}
	if !done {
		if err := s.awaitConnected(ctx, timeout); err != nil {
			reset(s)
			return nil, err
		}
	}
	return s, nil
}

// connected reports whether a connect(2) that was in progress has succeeded.
func connected(fd int) (done bool, err error) {
	set := unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	var none unix.Timespec
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&set)), 1, uintptr(unsafe.Pointer(&none)), 0, 0, 0)
	if errno != 0 || n == 0 {
		return false, nil
	}
	if set.Revents&(unix.POLLERR|unix.POLLHUP) == 0 {
		return true, nil
	}
	failed, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return false, err
	}
	return connectOutcome(set.Revents, syscall.Errno(failed))
}

// connectOutcome is connected for a socket that has events and the error failed, or 0. With POLLERR alone it is in progress still: an
// ICMP error is in the queue of errors a moment before the socket has it.
func connectOutcome(events int16, failed syscall.Errno) (done bool, err error) {
	if failed != 0 {
		return false, os.NewSyscallError("connect", failed)
	}
	return events&(unix.POLLOUT|unix.POLLHUP) != 0, nil
}

// awaitConnected waits until connect(2) has an outcome.
func (s *bareSocket) awaitConnected(ctx context.Context, timeout time.Duration) (err error) {
	if err := s.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = s.SetWriteDeadline(time.Unix(1, 0)) })()
	waiting := s.descriptor.Write(func(fd uintptr) (done bool) {
		done, err = connected(int(fd))
		return done || err != nil
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case waiting != nil:
		return os.NewSyscallError("connect", waiting)
	case err != nil:
		return err
	}
	return s.SetWriteDeadline(time.Time{})
}

// addressOf returns an address as the kernel writes it, with IPv4 addresses unmapped. The zone of a link-local one is the
// number of its interface.
func addressOf(name *unix.RawSockaddrAny) netip.AddrPort {
	switch name.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&in.Port))[:]))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(name))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(in.Scope_id), 10))
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&in.Port))[:]))
	}
	return netip.AddrPort{}
}

// setAddress makes an address as the kernel reads it, and returns its size. a is like those of addressOf.
func setAddress(name *unix.RawSockaddrInet6, a netip.AddrPort) (size uintptr) {
	if a.Addr().Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		in.Family, in.Addr = unix.AF_INET, a.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&in.Port))[:], a.Port())
		return unix.SizeofSockaddrInet4
	}
	name.Family, name.Addr = unix.AF_INET6, a.Addr().As16()
	if scope, err := strconv.ParseUint(a.Addr().Zone(), 10, 32); err == nil {
		name.Scope_id = uint32(scope)
	}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], a.Port())
	return unix.SizeofSockaddrInet6
}
