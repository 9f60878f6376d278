//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// A socket that has led to an application leads to another one afterwards: it has its options, and Go's runtime waits for it already.
// That is so where the connection has ended in good order, for the kernel as well. All other sockets are closed.

// kind is what sockets to applications have in common that stand in for each other.
type kind uint8

const (
	kindOnce kind = iota // for one connection
	kindIPv4
	kindIPv6
	kindFreebind // IPv6, from an address that no interface has
	kinds
)

// outfit is what a socket has that a new one has not. It does not depend on the client.
type outfit struct {
	kind kind
	// fits is the Proxy's from before it was made.
	fits uint32
	// inline means that it keeps urgent data in the stream, noDelay that it holds back nothing.
	inline, noDelay bool
}

func (p *Proxy) kindOf(from, application netip.Addr) kind {
	switch {
	case application.IsLinkLocalUnicast():
		return kindOnce // it is bound to an interface for good
	case application.Is4():
		return kindIPv4
	case p.options.Sources6.Contains(from):
		return kindFreebind
	}
	return kindIPv6
}

// applicationSocket returns a socket for a connection from an address to an application: one that has been used, if there is one.
func (p *Proxy) applicationSocket(from, application netip.Addr) (*bareSocket, error) {
	o := outfit{kind: p.kindOf(from, application), fits: p.fits.Load()}
	if s := p.used.take(o); s != nil {
		return s, nil
	}
	s, err := newSocket(application)
	if err != nil {
		return nil, err
	}
	s.outfit = o
	if err := prepareForApplication(s.descriptor.fd, from, o.kind); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func prepareForApplication(fd int, from netip.Addr, k kind) error {
	if err := bindWithoutPort(fd); err != nil {
		return err
	}
	level, name := tuning.HopOption(from)
	if err := setOption(fd, level, name, tuning.MaxHops); err != nil {
		return fmt.Errorf("setting the hop limit: %w", err)
	}
	if k == kindFreebind {
		if err := setOption(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return fmt.Errorf("binding to %v: %w", from, err)
		}
	}
	return lingerZero(fd)
}

// maxUsed is how many sockets of a kind are kept.
const maxUsed = 64

// used has sockets without a connection, until the next sweep.
type used struct {
	mu      sync.Mutex
	sockets [kinds][]*bareSocket
}

// put keeps s, or reports false.
func (u *used) put(s *bareSocket) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := &u.sockets[s.outfit.kind]
	if len(*own) >= maxUsed {
		return false
	}
	*own = append(*own, s)
	return true
}

// take returns a socket that stands in for one of o, or nil.
func (u *used) take(o outfit) *bareSocket {
	u.mu.Lock()
	defer u.mu.Unlock()
	own := &u.sockets[o.kind]
	for n := len(*own) - 1; n >= 0; n-- {
		s := (*own)[n]
		(*own)[n], *own = nil, (*own)[:n]
		if s.outfit.fits == o.fits {
			return s
		}
		_ = s.Close()
	}
	return nil
}

func (u *used) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, own := range u.sockets {
		if len(own) > 0 {
			return true
		}
	}
	return false
}

func (u *used) close() {
	u.mu.Lock()
	all := u.sockets
	u.sockets = [kinds][]*bareSocket{}
	u.mu.Unlock()
	for _, own := range all {
		for _, s := range own {
			_ = s.Close()
		}
	}
}

// keepSocket keeps the socket that has led to c's application, and reports whether it has seen to that. c has ended in good order.
func (c *connection) keepSocket() bool {
	s, ok := c.app.(*bareSocket)
	if !ok || s.outfit.kind == kindOnce || s.outfit.fits != c.proxy.fits.Load() || onSocket(s, settled) != nil {
		return false
	}
	f, alone := s.strip()
	if f == nil { // it was aborted, or has parked
		return false
	}
	again := &bareSocket{outfit: s.outfit}
	again.outfit.inline, again.outfit.noDelay = c.source.inline, !c.toApp.nagle
	again.descriptor.fd = s.descriptor.fd
	again.descriptor.file.Store(f)
	if !alone || disconnect(again.descriptor.fd) != nil || f.SetDeadline(time.Time{}) != nil || !c.proxy.used.put(again) {
		_ = again.Close()
		return true
	}
	c.proxy.stir()
	return true
}

// strip closes s and returns its file, which is open and out of the reach of s. alone reports that nobody is using it. Without a file, or where a
// reader has parked, nothing has changed.
func (s *bareSocket) strip() (f *openSocket, alone bool) {
	s.parking.mu.Lock()
	defer s.parking.mu.Unlock()
	if s.parking.number != 0 || s.parking.closed {
		return nil, false
	}
	f, alone = s.descriptor.strip()
	s.parking.closed = f != nil
	return f, alone
}

func (d *descriptor) strip() (f *openSocket, alone bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file.Load() == nil || d.closed.Swap(true) {
		return nil, false
	}
	// Who comes from here on finds it closed.
	return d.file.Swap(nil), d.users.Load() == 0
}

// settled returns an error unless the connection of a socket is over for the kernel, too: both ends have sent a FIN, and got the
// other's acknowledgement.
func settled(fd int) error {
	var unacknowledged int32
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&unacknowledged))); errno != 0 {
		return errno
	}
	// A FIN counts as well as data.
	if unacknowledged != 0 || pollEvents(uintptr(fd))&(unix.POLLHUP|unix.POLLERR) != unix.POLLHUP {
		return unix.EBUSY
	}
	return nil
}

// disconnect makes a socket without a connection of one whose connection is over.
func disconnect(fd int) error {
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)); errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}
