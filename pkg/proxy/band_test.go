//go:build linux

package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// testBand does on loopback, without privilege, what the eBPF programs do in a
// pod. The option of a SYN is a source address of its own, the mark: a marked
// socket is bound to it. The destination is a group of two listeners, of which a
// program sends what comes from the mark to the gateway's in-band listener, and
// everything else to the application's. A testBand is that in-band listener.
type testBand struct {
	mark     netip.Addr
	arrivals chan net.Conn
	closed   chan struct{}
	close    func()
	// steered holds the addresses of groups.
	steered sync.Map
	// arrived counts connections.
	arrived atomic.Int64
	// number is what the gateway of the listener says about itself, or 0.
	number atomic.Uint32
	// lost means that options do not arrive.
	lost atomic.Bool
	// dropped means that the handshake succeeds only without them.
	dropped atomic.Bool
	// marked is called instead of marking a socket, if it is set; shown, instead
	// of looking at it.
	marked atomic.Pointer[func() error]
	shown  atomic.Pointer[func() (bool, error)]
}

func newBand() *testBand {
	b := &testBand{mark: podAddress(), arrivals: make(chan net.Conn), closed: make(chan struct{})}
	b.close = sync.OnceFunc(func() { close(b.closed) })
	return b
}

func (b *testBand) Accept() (net.Conn, error) {
	select {
	case conn := <-b.arrivals:
		return conn, nil
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

func (b *testBand) Close() error { b.close(); return nil }

func (b *testBand) Addr() net.Addr { return &net.TCPAddr{Port: api.InbandPort} }

// listen opens a group at at and returns the application's listener.
func (b *testBand) listen(t testing.TB, at netip.AddrPort) net.Listener {
	t.Helper()
	application := listenShared(t, at)
	at = addrPort(application.Addr())
	gateway := listenShared(t, at)
	b.forward(t, gateway)
	// The first listener of a group has the number 0. A program looks at the
	// network header by way of SKF_NET_OFF (linux/filter.h); the source address
	// is at 12.
	mark := b.mark.As4()
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0xfff00000 + 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(mark[:]), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	raw, err := gateway.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	}); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	b.steered.Store(at, nil)
	return application
}

// forward makes all connections of l arrive at the in-band listener.
func (b *testBand) forward(t testing.TB, l net.Listener) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.arrived.Add(1)
			select {
			case b.arrivals <- conn:
				continue
			case <-b.closed:
			case <-stop:
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); close(stop); <-done })
}

func listenShared(t testing.TB, at netip.AddrPort) net.Listener {
	t.Helper()
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}), err)
	}}
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

var errNoBand = errors.New("no such option at this level")

func (s *testSockets) MarkInband(fd, _ int) error {
	switch {
	case s.band == nil:
		return errNoBand
	case s.band.marked.Load() != nil:
		return (*s.band.marked.Load())()
	case s.band.lost.Load(), s.band.dropped.Load():
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, toSockaddr(netip.AddrPortFrom(s.band.mark, 0)))
}

func (s *testSockets) Negotiated(fd int) (shown, givenUp bool, err error) {
	switch {
	case s.band == nil:
		return false, false, errNoBand
	case s.band.shown.Load() != nil:
		shown, err := (*s.band.shown.Load())()
		return shown, false, err
	case s.band.dropped.Load():
		return false, true, nil
	}
	near, err := unix.Getsockname(fd)
	if err != nil {
		return false, false, fmt.Errorf("own address: %w", err)
	}
	far, err := unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return true, false, nil // who only asks has reset the connection
	}
	if err != nil {
		return false, false, fmt.Errorf("peer's address: %w", err)
	}
	if fromSockaddr(far).Addr() == s.band.mark {
		return true, false, nil
	}
	_, steered := s.band.steered.Load(fromSockaddr(far))
	return steered && fromSockaddr(near).Addr() == s.band.mark, false, nil
}

// Answered says that the gateway of the band has answered.
func (s *testSockets) Answered(fd int) (gateway uint32, port uint16, err error) {
	far, err := unix.Getpeername(fd)
	if err != nil {
		return 0, 0, fmt.Errorf("peer's address: %w", err)
	}
	return s.band.number.Load(), fromSockaddr(far).Port(), nil
}

// inBand gives a pod the in-band listener b.
func inBand(o *Options, b *testBand) {
	o.Inband = []net.Listener{b}
	o.Sockets.(*testSockets).band = b
}

// inbandPair starts two pods with gateways; what the client dials at the server
// goes in band, as if it were a Service.
func inbandPair(t testing.TB, change func(*Options)) (client, server *testPod, b *testBand) {
	t.Helper()
	a := newAuthority(t)
	b = newBand()
	server = newPod(t, a, func(o *Options) {
		inBand(o, b)
		if change != nil {
			change(o)
		}
	})
	client = newPod(t, a, func(o *Options) {
		o.Sockets.(*testSockets).band = b
		o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(server.ip, 0)}
		if change != nil {
			change(o)
		}
	})
	return client, server, b
}

// behind opens a listener of an application in the pod at ip.
func (b *testBand) behind(t testing.TB, ip netip.Addr) net.Listener {
	t.Helper()
	return b.listen(t, netip.AddrPortFrom(ip, 0))
}
