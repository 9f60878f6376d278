//go:build linux

package netlab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCP is one end of a TCP connection, for helpers: where it is accepted, or else what it connects to.
type TCP struct{ Listen, To netip.AddrPort }

// Open returns a blocking socket with the connection. It calls prepare for the socket that is to listen or to connect, and connect
// instead of connect(2) unless that is nil. It prints "listening" when the other end can connect.
func (c TCP) Open(prepare func(fd int) error, connect func(fd int, to unix.Sockaddr) error) (int, error) {
	at := cmp.Or(c.To, c.Listen)
	family, where := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()})
	if at.Addr().Is4() {
		family, where = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = prepare(fd)
	if c.To.IsValid() {
		if connect == nil {
			connect = unix.Connect
		}
		return fd, errors.Join(err, connect(fd, where))
	}
	defer unix.Close(fd)
	if err := errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, where), unix.Listen(fd, 1)); err != nil {
		return -1, err
	}
	fmt.Println("listening")
	accepted, _, err := unix.Accept(fd)
	return accepted, err
}
