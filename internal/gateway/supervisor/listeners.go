//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// listeners are what the worker inherits.
type listeners struct {
	handoff.Listeners
	edgesPath string
	// whenFree calls a function that listens at an address until the port is free.
	whenFree func(ctx context.Context, address netip.AddrPort, listen func() error) error
}

// openPeer opens the listener for other gateways.
func (l *listeners) openPeer(ctx context.Context) (err error) {
	// The empty host is the dual-stack wildcard, or 0.0.0.0 without IPv6.
	l.Peer, err = listen(ctx, ":"+strconv.Itoa(api.PeerPort))
	return err
}

// awaitPeer is openPeer once the port is free.
func (l *listeners) awaitPeer(ctx context.Context) error {
	return l.whenFree(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), api.PeerPort), func() error { return l.openPeer(ctx) })
}

// openEdges opens the socket for edges.
func (l *listeners) openEdges() (err error) {
	l.Edges, err = handoff.ListenEdges(l.edgesPath)
	return err
}

// openMarked opens the listeners of the own pod, in the current network namespace, and marks them for
// the eBPF programs, which must be attached to sockets already. It returns their ports: the first pair
// of api.ListenerPairs that is free. IPv6 is left out where the kernel does not have it.
func (l *listeners) openMarked(ctx context.Context) (ports api.Listeners, err error) {
	first := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), api.CapturePort)
	err = l.whenFree(ctx, first, func() error {
		ports, err = l.tryPairs(ctx)
		return err
	})
	return ports, err
}

func (l *listeners) tryPairs(ctx context.Context) (ports api.Listeners, err error) {
	for _, ports = range api.ListenerPairs() {
		if l.Capture, err = listenLoopback(ctx, ports.Capture, false); err == nil {
			if l.Inband, err = listenLoopback(ctx, ports.Inband, true); err == nil {
				return ports, nil
			}
			handoff.CloseAll(l.Capture)
			l.Capture = nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return api.Listeners{}, err
}

// close closes what is open.
func (l *listeners) close() {
	l.closeTCP()
	l.Edges.Close()
	// The container ends, too.
	_ = os.Remove(l.edgesPath)
}

// closeTCP closes the listeners for connections, and what keeps something of the programs in the kernel.
func (l *listeners) closeTCP() {
	handoff.CloseAll(l.Capture)
	handoff.CloseAll(l.Inband)
	handoff.CloseAll(l.Waiting)
	l.Urgent.Close()
	l.Peer.Close()
}

// listenLoopback opens one marked listener for each address family of loopback that
// the kernel has, or none.
func listenLoopback(ctx context.Context, port uint16, inband bool) ([]*os.File, error) {
	var files []*os.File
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = bpf.MarkListener(int(fd), inband)
				if failed == nil && !inband { // what is accepted inherits it, and the handshake needs it
					level, name := tuning.HopOption(ip)
					failed = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), level, name, tuning.MaxHops))
				}
			})
			return errors.Join(err, failed)
		}}
		f, err := listenWith(ctx, config, netip.AddrPortFrom(ip, port).String())
		if ip.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // an IPv6 address cannot be used here
		}
		if err != nil {
			handoff.CloseAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func listen(ctx context.Context, address string) (*os.File, error) {
	return listenWith(ctx, net.ListenConfig{}, address)
}

func listenWith(ctx context.Context, config net.ListenConfig, address string) (*os.File, error) {
	// Go listens with MPTCP unless told otherwise, which is slower.
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	defer ln.Close()
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("keeping the listener on %s: %w", address, err)
	}
	var f *os.File
	var failed error
	err = raw.Control(func(fd uintptr) { f, failed = handoff.Keep(int(fd)) })
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("keeping the listener on %s: %w", address, err)
	}
	return f, nil
}
