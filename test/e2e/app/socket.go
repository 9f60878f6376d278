package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a TCP socket that is about to connect.
type socket struct {
	fd int
	to netip.AddrPort
}

func newSocket(address string, protocol int) (*socket, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	domain := unix.AF_INET
	if to.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// It ends what a blocking call waits for.
	time.AfterFunc(dialTimeout, func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) })
	return &socket{fd, to}, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// exchange sends what is left of text over the connected socket, and reads all that comes back.
func (s *socket) exchange(text string) (result, error) {
	f := os.NewFile(uintptr(s.fd), "socket")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return result{}, err
	}
	return exchange(conn.(*net.TCPConn), result{}, text)
}

// converse ADDRESS: sends the lines of its input over one connection, and prints what comes back.
func converse(ctx context.Context, args []string) (result, error) {
	conn, r, err := dial(ctx, "tcp", args[0])
	if err != nil {
		return r, err
	}
	defer conn.Close()
	fmt.Println("connected")
	back := bufio.NewReader(conn)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if _, err := io.WriteString(conn, lines.Text()+"\n"); err != nil {
			return r, err
		}
		text, err := back.ReadString('\n')
		if err != nil {
			return r, err
		}
		fmt.Print(text)
	}
	return r, nil
}

// bySocket KIND ADDRESS TEXT [FIRST]: like talk, over a socket that is used in an uncommon way.
func bySocket(_ context.Context, args []string) (result, error) {
	kind, address, text := args[0], args[1], args[2]
	protocol := unix.IPPROTO_TCP
	if kind == "multipath" {
		protocol = unix.IPPROTO_MPTCP
	}
	s, err := newSocket(address, protocol)
	if err != nil {
		return result{}, err
	}
	switch kind {
	case "multipath":
		err = unix.Connect(s.fd, sockaddr(s.to))
	case "device":
		if err = unix.SetsockoptString(s.fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0"); err == nil {
			err = unix.Connect(s.fd, sockaddr(s.to))
		}
	case "again":
		err = s.connectAgain(args[3])
	case "fastopen":
		text, err = s.fastOpen(text)
	case "fastopenconnect":
		if err = s.withoutCookie(); err == nil {
			err = unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
		}
		if err == nil {
			err = unix.Connect(s.fd, sockaddr(s.to))
		}
		if err == nil {
			var n int
			n, err = unix.Write(s.fd, []byte(text))
			text = text[max(n, 0):]
		}
	case "uring":
		return s.uring(text, 0)
	case "uringasync":
		return s.uring(text, sqeAsync)
	default:
		err = fmt.Errorf("unknown kind %q", kind)
	}
	if err != nil {
		unix.Close(s.fd)
		return result{NotPermitted: errors.Is(err, unix.EPERM)}, err
	}
	return s.exchange(text)
}

// connectAgain connects to another address first, and takes that back.
func (s *socket) connectAgain(first string) error {
	to, err := netip.ParseAddrPort(first)
	if err != nil {
		return err
	}
	if err := unix.Connect(s.fd, sockaddr(to)); err != nil {
		return fmt.Errorf("connecting for the first time: %w", err)
	}
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none)); errno != 0 {
		return fmt.Errorf("disconnecting: %w", errno)
	}
	return unix.Connect(s.fd, sockaddr(s.to))
}

// withoutCookie has the first data go with the SYN, to a server that has never been asked too.
func (s *socket) withoutCookie() error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(s.fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1))
}

// fastOpen connects by sending, and returns what is not sent yet.
func (s *socket) fastOpen(text string) (string, error) {
	if err := s.withoutCookie(); err != nil {
		return text, err
	}
	n, err := unix.SendmsgN(s.fd, []byte(text), nil, sockaddr(s.to), unix.MSG_FASTOPEN)
	return text[max(n, 0):], err
}

// raw ADDRESS TEXT: writes a SYN with the text by itself, which takes CAP_NET_RAW. What is
// received is the text if a SYN-ACK comes back.
func raw(_ context.Context, args []string) (result, error) {
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return result{}, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return result{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(to.Addr(), 0))); err != nil {
		return result{}, os.NewSyscallError("connect", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return result{}, os.NewSyscallError("getsockname", err)
	}
	from := netip.AddrFrom4(local.(*unix.SockaddrInet4).Addr)
	timeout := unix.NsecToTimeval(time.Second.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return result{}, os.NewSyscallError("setsockopt", err)
	}
	port := uint16(20000 + time.Now().UnixNano()%10000)
	if _, err := unix.Write(fd, syn(from, to, port, args[1])); err != nil {
		return result{NotPermitted: errors.Is(err, unix.EPERM)}, os.NewSyscallError("write", err)
	}
	packet := make([]byte, 1<<16)
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		n, err := unix.Read(fd, packet)
		if err != nil {
			return result{}, os.NewSyscallError("read", err)
		}
		tcp := packet[min(n, int(packet[0]&15)*4):n]
		if len(tcp) >= 20 && binary.BigEndian.Uint16(tcp) == to.Port() && binary.BigEndian.Uint16(tcp[2:]) == port && tcp[13] == synFlag|ackFlag {
			return result{Received: args[1] + "\n"}, nil
		}
	}
	return result{}, syscall.ETIMEDOUT
}

// Of TCP's header (RFC 9293).
const (
	synFlag = 2
	ackFlag = 16
)

// syn returns a SYN with data.
func syn(from netip.Addr, to netip.AddrPort, port uint16, text string) []byte {
	segment := binary.BigEndian.AppendUint16(nil, port)
	segment = binary.BigEndian.AppendUint16(segment, to.Port())
	segment = append(segment, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, synFlag, 0xff, 0xff, 0, 0, 0, 0)
	segment = append(segment, text...)
	a, b := from.As4(), to.Addr().As4()
	pseudo := append(append(a[:], b[:]...), 0, unix.IPPROTO_TCP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(segment)))
	binary.BigEndian.PutUint16(segment[16:], checksum(append(pseudo, segment...)))
	return segment
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum += uint32(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
