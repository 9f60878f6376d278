//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The socket options that the programs on the gateway's own cgroup answer. The
// level is the project's own: no protocol of the kernel uses it, so without the
// programs both calls fail with ENOPROTOOPT.
const (
	// SockoptLevel is the level of the options below ("kgw" in ASCII).
	SockoptLevel = 0x6b6777
	// SockoptOriginalDestination (get) is where the application wanted to
	// connect, on a connection accepted from the capture listener.
	SockoptOriginalDestination = 1
	// SockoptPresentAs (set, before connect) is the address that the accepting
	// application sees as its client's.
	SockoptPresentAs = 2

	// SockoptNetfilterDestination is SO_ORIGINAL_DST (linux/netfilter_ipv4.h)
	// at level SOL_IP and IP6T_SO_ORIGINAL_DST at SOL_IPV6: both have the value
	// 80, and both are answered like SockoptOriginalDestination.
	SockoptNetfilterDestination = 80
)

// endpointSize is the size of struct endpoint in capture.h: an IPv6 address,
// IPv4 in its v4-mapped form, a port in network order, padding of two bytes.
const endpointSize = 20

// ErrNotCaptured says that a connection did not come through the capture.
var ErrNotCaptured = errors.New("the connection was not captured")

// OriginalDestination returns where the application wanted to connect, for a
// connection accepted from the capture listener. The address is IPv4 for v4-mapped
// destinations. The error is [ErrNotCaptured] for every other connection,
// and when the programs are not attached. It needs no privilege.
//
// The application's own address is the remote address of the connection. It is
// a loopback address instead of the pod's where the application had bound its
// socket to a port but to no address: the pod's address of that family is meant.
func OriginalDestination(fd int) (netip.AddrPort, error) {
	var buf [endpointSize]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), SockoptLevel, SockoptOriginalDestination,
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case errno == unix.ENOPROTOOPT || errno == unix.EOPNOTSUPP:
		return netip.AddrPort{}, ErrNotCaptured
	case errno != 0:
		return netip.AddrPort{}, fmt.Errorf("reading the original destination: %w", errno)
	case size != endpointSize:
		return netip.AddrPort{}, fmt.Errorf("reading the original destination: %d bytes instead of %d", size, endpointSize)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(buf[:16])).Unmap(), binary.BigEndian.Uint16(buf[16:18])), nil
}

// PresentAs makes the application that accepts the connection see client as the
// other end. It must be called before connect(2), and works for applications of
// the same pod only. It needs no privilege.
func PresentAs(fd int, client netip.AddrPort) error {
	if !client.IsValid() {
		return fmt.Errorf("presenting a connection as %v: not an address", client)
	}
	buf := make([]byte, endpointSize)
	ip := client.Addr().As16()
	copy(buf, ip[:])
	binary.BigEndian.PutUint16(buf[16:18], client.Port())
	if err := unix.SetsockoptString(fd, SockoptLevel, SockoptPresentAs, string(buf)); err != nil {
		return fmt.Errorf("presenting a connection as %v: %w", client, err)
	}
	return nil
}
