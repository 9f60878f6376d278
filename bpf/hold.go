//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Hold has captured connections wait for [Admit] before they reach a listener, but for those to a destination
// that [NoteDestination] has been told about within the last second. It must be called in the
// pod's network namespace, after [Programs.SetListeners] and before [Programs.StartCapture], with the
// capture listeners.
//
// It returns a raw IP socket for each listener, of its address family and in the same order. What is read
// there are the SYNs of connections that wait, from the IP header on for IPv4 and from the TCP header on
// for IPv6; a SYN that is sent again is there again. What is written there must have an IP header. It
// goes to loopback, whatever the header says. Neither filter nor interface of the socket can be changed
// without privilege.
func (p *Programs) Hold(capture []*os.File) (sockets []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range sockets {
				f.Close()
			}
			sockets = nil
		}
	}()
	for _, l := range capture {
		at, err := listensAt(l)
		if err != nil {
			return sockets, err
		}
		s, err := rawSocket(at, p.objects.KgwKnock)
		if err != nil {
			return sockets, fmt.Errorf("opening a raw socket at %v: %w", at, err)
		}
		sockets = append(sockets, s)
	}
	// Nothing waits where nobody would know of it.
	for _, l := range capture {
		if err := attachFilter(int(l.Fd()), p.objects.KgwWait); err != nil {
			return sockets, fmt.Errorf("attaching a filter to a listener: %w", err)
		}
	}
	return sockets, nil
}

func listensAt(l *os.File) (netip.Addr, error) {
	sa, err := unix.Getsockname(int(l.Fd()))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("asking for a listener's address: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), nil
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr), nil
	}
	return netip.Addr{}, errors.New("a listener is not TCP")
}

func attachFilter(fd int, filter *ebpf.Program) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.FD()))
}

// rawBuffer is how much memory SYNs may take that the worker has not read, in bytes: about two thousand.
const rawBuffer = 1 << 20

func rawSocket(at netip.Addr, filter *ebpf.Program) (*os.File, error) {
	family, level, header := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: at.As16()}
	if at.Is4() {
		family, level, header, sa = unix.AF_INET, unix.IPPROTO_IP, unix.IP_HDRINCL, &unix.SockaddrInet4{Addr: at.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := os.NewFile(uintptr(fd), "raw socket")
	if err = attachFilter(fd, filter); err == nil {
		err = os.NewSyscallError("setsockopt", errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1),
			unix.SetsockoptInt(fd, level, header, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rawBuffer),
			unix.BindToDevice(fd, "lo"),
		))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sa))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	// What came before the filter is nobody's business.
	for err == nil {
		_, _, err = unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT)
	}
	return s, nil
}

// Waiting returns the destination of a captured connection from client to listener that waits, as
// [OriginalDestination] does. fd is a socket of [Programs.Hold]; only one call at a time may be under way for
// it. The error is [ErrNotCaptured] if the application does not wait any longer. It needs no privilege.
func Waiting(fd int, client, listener netip.AddrPort) (destination netip.AddrPort, pod bool, err error) {
	if err := setTuple(fd, sockoptWaiting, client, listener); err != nil {
		return netip.AddrPort{}, false, err
	}
	return OriginalDestination(fd)
}

// Admit lets the SYN of a connection that waits reach its listener. It must be sent again then. The error is
// [ErrNotCaptured] if the application does not wait any longer. It needs no privilege.
func Admit(fd int, client, listener netip.AddrPort) error {
	return setTuple(fd, sockoptAdmit, client, listener)
}

func setTuple(fd, option int, client, listener netip.AddrPort) error {
	t := objectsTuple{Client: endpoint(client), Server: endpoint(listener)}
	value := (*[unsafe.Sizeof(t)]byte)(unsafe.Pointer(&t))
	switch err := unix.SetsockoptString(fd, sockoptLevel, option, string(value[:])); err {
	case nil:
		return nil
	case unix.EPERM, unix.ENOPROTOOPT:
		return ErrNotCaptured
	default:
		return fmt.Errorf("looking for the connection of %v: %w", client, err)
	}
}

// NoteDestination tells the programs that there was a connection to a destination just now, or that there
// was none. fd is a socket of [Programs.Hold]. It needs no privilege.
func NoteDestination(fd int, destination netip.AddrPort, works bool) error {
	option := sockoptFails
	if works {
		option = sockoptWorks
	}
	e := endpoint(destination)
	if errno := setsockopt(fd, option, unsafe.Pointer(&e), unsafe.Sizeof(e)); errno != 0 {
		return fmt.Errorf("noting a destination: %w", errno)
	}
	return nil
}
