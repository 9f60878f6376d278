//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotCaptured says that a connection was not captured.
var ErrNotCaptured = errors.New("the connection was not captured")

// SockoptLevel is the level of the socket options that the programs answer.
const SockoptLevel = sockoptLevel

// getsockopt asks for an option at SockoptLevel, and setsockopt sets one. Every connection makes these calls, and
// telling Go's scheduler about them takes longer than they do.
func getsockopt(fd, name int, value unsafe.Pointer, size *uint32) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), sockoptLevel, uintptr(name), uintptr(value),
		uintptr(unsafe.Pointer(size)), 0)
	return errno
}

func setsockopt(fd, name int, value unsafe.Pointer, size uintptr) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), sockoptLevel, uintptr(name), uintptr(value), size, 0)
	return errno
}

// OriginalDestination returns the destination of the application's connect(2), for a
// connection accepted from the capture listener. The address is IPv4 for v4-mapped
// destinations. pod says that it is that of a pod; behind others the cluster chooses one.
// The error is [ErrNotCaptured] for every other connection,
// and when the programs are not attached. It needs no privilege.
//
// The remote address of the connection is the application's own. If the application had
// bound its socket to a port but to no address, that is a loopback address, and stands for
// the pod's address of that family.
func OriginalDestination(fd int) (destination netip.AddrPort, pod bool, err error) {
	var h objectsHandover
	size := uint32(unsafe.Sizeof(h))
	errno := getsockopt(fd, sockoptOriginalDestination, unsafe.Pointer(&h), &size)
	switch {
	// Without the programs the kernel does not know the option.
	case errno == unix.ENOPROTOOPT || errno == unix.EOPNOTSUPP:
		return netip.AddrPort{}, false, ErrNotCaptured
	case errno != 0:
		return netip.AddrPort{}, false, fmt.Errorf("reading the original destination: %w", errno)
	case size != uint32(unsafe.Sizeof(h)):
		return netip.AddrPort{}, false, fmt.Errorf("reading the original destination: %d bytes instead of %d", size, unsafe.Sizeof(h))
	}
	return h.Addr.addrPort(), h.Action == actionPod, nil
}

// PresentAs makes the application that accepts the connection see client as the
// other end. It must be called before connect(2), and works for applications of
// the same pod only. It needs no privilege.
func PresentAs(fd int, client netip.AddrPort) error {
	if !client.IsValid() {
		return fmt.Errorf("presenting a connection as %v: not an address", client)
	}
	e := endpoint(client)
	if errno := setsockopt(fd, sockoptPresentAs, unsafe.Pointer(&e), unsafe.Sizeof(e)); errno != 0 {
		return fmt.Errorf("presenting a connection as %v: %w", client, errno)
	}
	return nil
}

// HandedOver reports whether the application that accepts a connection of [PresentAs] sees its
// client. If it does not, the connection must end before the first byte: the application would take
// it for one of its own pod. It must be called after connect(2). established says that the connection
// is there; one that has ended since is not. It needs no privilege.
func HandedOver(fd int) (done, established bool, err error) {
	var answer int32
	size := uint32(unsafe.Sizeof(answer))
	if errno := getsockopt(fd, sockoptHandedOver, unsafe.Pointer(&answer), &size); errno != 0 {
		return false, false, fmt.Errorf("asking whether the client was handed over: %w", errno)
	}
	return answer > 0, answer == 2, nil
}

// FromOutside reports whether the other end of a connection has an address that is not that of a pod or a node, as far as the
// coverage says, and not an excluded one. It needs no privilege.
func FromOutside(fd int) (bool, error) {
	outside, err := unix.GetsockoptInt(fd, sockoptLevel, sockoptFromOutside)
	if err != nil {
		return false, fmt.Errorf("asking whose address the other end has: %w", err)
	}
	return outside == 1, nil
}

// UrgentAt returns the place in the stream of the first urgent byte that has come to a socket which leads to an application, counted
// from 1, or 0 if none has. The socket is one for which [OriginalDestination] or [HandedOver] has said so. It needs no
// privilege.
func UrgentAt(fd int) (place uint64, err error) {
	size := uint32(unsafe.Sizeof(place))
	if errno := getsockopt(fd, sockoptUrgent, unsafe.Pointer(&place), &size); errno != 0 {
		return 0, fmt.Errorf("asking where urgent data was: %w", errno)
	}
	return place, nil
}

// MarkInband makes the handshake of a socket ask the other end, by a TCP option in
// the first SYNs, at least one, whether it has a gateway. It must be called before connect(2), on a
// TCP socket, not one of MPTCP. It needs no privilege, and fails without
// [Programs.AttachSockets].
func MarkInband(fd, syns int) error {
	value := int32(syns)
	if errno := setsockopt(fd, sockoptInband, unsafe.Pointer(&value), unsafe.Sizeof(value)); errno != 0 {
		return fmt.Errorf("marking a socket as in band: %w", errno)
	}
	return nil
}

// MarkListener tells the programs that a socket is about to listen for the gateway: inband says
// which of its ports. It must be called before listen(2), by a process of the gateway, and fails
// without [Programs.AttachSockets].
func MarkListener(fd int, inband bool) error {
	role := roleCaptureListener
	if inband {
		role = roleInbandListener
	}
	if err := unix.SetsockoptInt(fd, sockoptLevel, sockoptListener, role); err != nil {
		return fmt.Errorf("marking a listener: %w", err)
	}
	return nil
}

// Answered returns what the gateway that has answered a connection of [MarkInband] said about itself in its SYN-ACK: the
// number of its pod ([api.GatewayNumber]), and the port of the connection at its end, behind every translation of
// addresses. gateway is 0 if it said nothing: then it is of an earlier version, or the connection goes to an address that the
// status of its pod does not name. Like that of [Negotiated] this is a hint that anybody can give. It needs no
// privilege.
func Answered(fd int) (gateway uint32, port uint16, err error) {
	var a objectsAnswer
	size := uint32(unsafe.Sizeof(a))
	if errno := getsockopt(fd, sockoptAnswer, unsafe.Pointer(&a), &size); errno != 0 {
		return 0, 0, fmt.Errorf("asking who has answered: %w", errno)
	}
	return a.Gateway, networkOrder(a.Port), nil
}

// Negotiated reports whether the other end of a connection has shown in the handshake that it has a
// gateway, or else whether the handshake ended only without the TCP option: that, or the answer to it,
// was lost with each SYN that had it. The connection is an established one on which [MarkInband] was
// called before, or one accepted from the in-band listener; both are false for any other.
// Anybody can give this hint: only TLS proves it. It needs no privilege.
func Negotiated(fd int) (shown, givenUp bool, err error) {
	var role int32
	size := uint32(unsafe.Sizeof(role))
	if errno := getsockopt(fd, sockoptNegotiated, unsafe.Pointer(&role), &size); errno != 0 {
		return false, false, fmt.Errorf("asking whether the peer has a gateway: %w", errno)
	}
	return role == roleInbandShown, role == roleInbandGivenUp, nil
}
