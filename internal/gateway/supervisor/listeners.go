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
)

// listeners are what the worker inherits.
type listeners struct {
	handoff.Listeners
	edgesPath string
	// whenFree calls a function that listens at an address until the port is free.
	whenFree func(ctx context.Context, address netip.AddrPort, listen func() error) error
}

// open opens the listeners but for those of openMarked, in the current network namespace, and
// the socket for edges. IPv6 is left out where the kernel does not have it.
func (l *listeners) open(ctx context.Context) (err error) {
	if err := l.whenFree(ctx, netip.AddrPortFrom(netip.IPv6Unspecified(), api.PeerPort), func() (err error) {
		// The empty host is the dual-stack wildcard, or 0.0.0.0 without IPv6.
		l.Peer, err = listen(ctx, ":"+strconv.Itoa(api.PeerPort))
		return err
	}); err != nil {
		return err
	}
	l.Edges, err = handoff.ListenEdges(l.edgesPath)
	return err
}

// openMarked opens the listeners of the own pod, and marks them for the eBPF programs, which must
// be attached to sockets already.
func (l *listeners) openMarked(ctx context.Context) (err error) {
	if l.Capture, err = l.listenLoopback(ctx, api.CapturePort); err != nil {
		return err
	}
	l.Inband, err = l.listenLoopback(ctx, api.InbandPort)
	return err
}

// close closes what is open.
func (l *listeners) close() {
	closeFiles(l.Capture)
	closeFiles(l.Inband)
	closeFiles([]*os.File{l.Peer, l.Edges})
	// The container ends, too.
	_ = os.Remove(l.edgesPath)
}

// listenLoopback opens one marked listener for each address family of loopback that
// the kernel has, or none.
func (l *listeners) listenLoopback(ctx context.Context, port uint16) ([]*os.File, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var marked error
		err := raw.Control(func(fd uintptr) { marked = bpf.MarkListener(int(fd), port == api.InbandPort) })
		return errors.Join(err, marked)
	}}
	var files []*os.File
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		address := netip.AddrPortFrom(ip, port)
		err := l.whenFree(ctx, address, func() error {
			f, err := listenWith(ctx, config, address.String())
			if err == nil {
				files = append(files, f)
			}
			return err
		})
		if ip.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // an IPv6 address cannot be used here
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
	}
	return files, nil
}

// closeFiles closes files, of which some may be nil.
func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
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
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("keeping the listener on %s: %w", address, err)
	}
	return f, nil
}
