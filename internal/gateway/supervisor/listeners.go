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

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Listeners are the sockets that a worker inherits. The supervisor keeps them
// open across workers, so that connections wait in the backlog for the next.
type Listeners struct {
	// Capture holds one listener for each address family of loopback.
	Capture []*os.File
	// Peer accepts connections of other gateways.
	Peer *os.File
	// Inband accepts the connections that the eBPF programs steer there. It has
	// one listener for each address family of loopback.
	Inband []*os.File
	// Edges is the Unix socket where the worker tells who it talks to.
	Edges     *os.File
	edgesPath string
}

// Listen opens the listeners in the current network namespace. IPv6 is left
// out where the kernel does not have it.
func Listen(ctx context.Context) (*Listeners, error) {
	var l Listeners
	var err error
	if l.Capture, err = listenLoopback(ctx, api.CapturePort); err != nil {
		return nil, err
	}
	// The empty host is the dual-stack wildcard, or 0.0.0.0 without IPv6.
	peer, err := listen(ctx, ":"+strconv.Itoa(api.PeerPort))
	if err != nil {
		l.Close()
		return nil, err
	}
	l.Peer = peer
	return &l, nil
}

// ListenInband opens the in-band listeners. The eBPF programs must be attached
// to sockets already: they prepare these listeners when they are opened.
func (l *Listeners) ListenInband(ctx context.Context) error {
	var err error
	l.Inband, err = listenLoopback(ctx, api.InbandPort)
	return err
}

// listenLoopback opens one listener for each address family of loopback that
// the kernel has, or none.
func listenLoopback(ctx context.Context, port uint16) ([]*os.File, error) {
	var files []*os.File
	for _, a := range []string{"127.0.0.1", "::1"} {
		f, err := listen(ctx, netip.AddrPortFrom(netip.MustParseAddr(a), port).String())
		if noIPv6(err) && a == "::1" {
			continue
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// noIPv6 reports whether err says that an IPv6 address cannot be used here.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)
}

func listen(ctx context.Context, address string) (*os.File, error) {
	var config net.ListenConfig
	// Go listens with MPTCP unless told otherwise, which is slower.
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, api.WithHint(fmt.Errorf("listening on %s: %w", address, err),
				"a container of this pod uses the port, or another gateway still runs in the pod")
		}
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, fmt.Errorf("keeping the listener on %s: %w", address, err)
	}
	return f, nil
}

// Close closes what is open.
func (l *Listeners) Close() {
	closeFiles(l.Capture)
	closeFiles(l.Inband)
	if l.Peer != nil {
		l.Peer.Close()
	}
	l.closeEdges()
}
