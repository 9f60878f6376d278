//go:build linux

// Package knock is about connections of applications whose connect(2) waits until it is known what becomes
// of them. Their SYNs come through raw sockets, which also carry the answers.
package knock

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Programs is what a Gate asks the eBPF programs, through its raw socket: bpf.Waiting, bpf.Admit and
// bpf.NoteDestination.
type Programs interface {
	Waiting(fd int, client, listener netip.AddrPort) (destination netip.AddrPort, pod bool, err error)
	Admit(fd int, client, listener netip.AddrPort) error
	NoteDestination(fd int, destination netip.AddrPort, works bool) error
}

// SYN begins a connection that waits.
type SYN struct {
	// Client and Listener are its ends, Destination is what the application connects to, which may
	// be a pod.
	Client, Listener, Destination netip.AddrPort
	Pod                           bool
	// Sequence is the initial sequence number, by which two connections with the same ends differ.
	Sequence uint32
	// packet is the IP header and what follows.
	packet packet
}

// Gate has the connections of one address family.
type Gate struct {
	file     *os.File
	raw      syscall.RawConn
	programs Programs
	six      bool

	// mu guards what Programs.Waiting has the socket remember.
	mu sync.Mutex
}

// New returns a Gate for a socket of bpf.Programs.Hold. It closes the file when it fails.
func New(socket *os.File, programs Programs) (*Gate, error) {
	g, err := open(socket, programs)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("taking over a raw socket: %w", err)
	}
	return g, nil
}

func open(socket *os.File, programs Programs) (*Gate, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var sa unix.Sockaddr
	if err := control(raw, func(fd int) (err error) {
		sa, err = unix.Getsockname(fd)
		return err
	}); err != nil {
		return nil, err
	}
	_, six := sa.(*unix.SockaddrInet6)
	return &Gate{file: socket, raw: raw, programs: programs, six: six}, nil
}

// Close ends Next.
func (g *Gate) Close() error { return g.file.Close() }

// SetReadDeadline ends Next at t, and with the zero value never.
func (g *Gate) SetReadDeadline(t time.Time) error { return g.file.SetReadDeadline(t) }

// Next waits for a SYN, which may be one that was sent again. The error is os.ErrClosed after Close.
func (g *Gate) Next() (*SYN, error) {
	var room [maxPacket]byte
	for {
		n, err := g.read(room[:])
		if err != nil {
			return nil, err
		}
		packet := cut(room[:n])
		if packet == nil {
			continue
		}
		s := &SYN{packet: packet, Sequence: packet.sequence()}
		s.Client, s.Listener = packet.ends()
		if s.Destination, s.Pod, err = g.destination(s); err == nil {
			return s, nil
		}
	}
}

// read reads a packet, from its IP header on.
func (g *Gate) read(room []byte) (n int, err error) {
	at := 0
	if g.six {
		at = ip6Header
	}
	readErr := g.raw.Read(func(fd uintptr) bool {
		var from unix.Sockaddr
		n, from, err = unix.Recvfrom(int(fd), room[at:], 0)
		for err == unix.EINTR {
			n, from, err = unix.Recvfrom(int(fd), room[at:], 0)
		}
		if from, ok := from.(*unix.SockaddrInet6); ok && err == nil {
			putHeader6(room, from.Addr, netip.IPv6Loopback().As16(), unix.IPPROTO_TCP, n)
		}
		return err != unix.EAGAIN
	})
	return n + at, errors.Join(readErr, err)
}

func (g *Gate) destination(s *SYN) (destination netip.AddrPort, pod bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	err = control(g.raw, func(fd int) (err error) {
		destination, pod, err = g.programs.Waiting(fd, s.Client, s.Listener)
		return err
	})
	return destination, pod, err
}

// Waits reports whether the application still waits.
func (g *Gate) Waits(s *SYN) bool {
	_, _, err := g.destination(s)
	return err == nil
}

// Admit lets a connection come to its listener. It fails if the application does not wait any longer.
func (g *Gate) Admit(s *SYN) error {
	return control(g.raw, func(fd int) error {
		if err := g.programs.Admit(fd, s.Client, s.Listener); err != nil {
			return err
		}
		return g.send(fd, s.packet.again())
	})
}

// Refuse ends the application's connect(2) with why: unix.EHOSTUNREACH, unix.ENETUNREACH, or
// unix.ECONNREFUSED for everything else.
func (g *Gate) Refuse(s *SYN, why syscall.Errno) error {
	p := s.packet.reset()
	if why == unix.EHOSTUNREACH || why == unix.ENETUNREACH {
		p = s.packet.unreachable(why)
	}
	return control(g.raw, func(fd int) error { return g.send(fd, p) })
}

// send sends a packet to loopback, whatever its header says: the route is that to loopback, so that the
// kernel does not ask whether its addresses may come from there.
func (g *Gate) send(fd int, packet []byte) error {
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if g.six {
		to = &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
	}
	return os.NewSyscallError("sendto", unix.Sendto(fd, packet, 0, to))
}

// Note has connections to a destination not wait for the next second, or has them wait.
func (g *Gate) Note(destination netip.AddrPort, works bool) error {
	return control(g.raw, func(fd int) error { return g.programs.NoteDestination(fd, destination, works) })
}

// control calls do with the descriptor of raw.
func control(raw syscall.RawConn, do func(fd int) error) (err error) {
	if failed := raw.Control(func(fd uintptr) { err = do(int(fd)) }); failed != nil {
		return failed
	}
	return err
}
