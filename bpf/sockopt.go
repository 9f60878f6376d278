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
	// SockoptInband (set, before connect) makes the handshake ask the other end
	// whether it has a gateway. The value is an int of 1.
	SockoptInband = 3
	// SockoptPeerShown (get) is an int: 1 if the other end of the connection has
	// shown in the handshake that it has a gateway, 0 otherwise.
	SockoptPeerShown = 4

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

// MarkInband makes the handshake of a socket ask the other end, by a TCP option in
// the SYN, whether it has a gateway. It must be called before connect(2), on a
// TCP socket, not one of MPTCP. It needs no privilege, and fails where
// [Programs.AttachSockets] did not attach.
func MarkInband(fd int) error {
	if err := unix.SetsockoptInt(fd, SockoptLevel, SockoptInband, 1); err != nil {
		return fmt.Errorf("marking a socket as in band: %w", err)
	}
	return nil
}

// PeerShown says whether the other end of a connection has shown in the handshake
// that it has a gateway: of one that [MarkInband] was called for, once it is
// established, and of one accepted from the in-band listener. It is false for any
// other. It is a hint that anybody can give: only TLS proves it. It needs no privilege.
func PeerShown(fd int) (bool, error) {
	shown, err := unix.GetsockoptInt(fd, SockoptLevel, SockoptPeerShown)
	if err != nil {
		return false, fmt.Errorf("asking whether the peer has a gateway: %w", err)
	}
	return shown == 1, nil
}
