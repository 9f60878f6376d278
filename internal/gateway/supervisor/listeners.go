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
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// listeners are what the worker inherits.
type listeners struct {
	handoff.Listeners
	edgesPath string
}

// open opens the listeners but for those of openInband, in the current network namespace, and
// the socket for edges. IPv6 is left out where the kernel does not have it.
func (l *listeners) open(ctx context.Context) (err error) {
	if l.Capture, err = listenLoopback(ctx, api.CapturePort); err != nil {
		return err
	}
	// The empty host is the dual-stack wildcard, or 0.0.0.0 without IPv6.
	if l.Peer, err = listen(ctx, ":"+strconv.Itoa(api.PeerPort)); err != nil {
		return err
	}
	l.Edges, err = handoff.ListenEdges(l.edgesPath)
	return err
}

// openInband opens the in-band listeners. The eBPF programs must be attached to sockets
// already: they prepare these listeners when they are opened.
func (l *listeners) openInband(ctx context.Context) (err error) {
	l.Inband, err = listenLoopback(ctx, api.InbandPort)
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

// listenLoopback opens one listener for each address family of loopback that
// the kernel has, or none.
func listenLoopback(ctx context.Context, port uint16) ([]*os.File, error) {
	var files []*os.File
	for _, a := range []string{"127.0.0.1", "::1"} {
		f, err := listen(ctx, netip.AddrPortFrom(netip.MustParseAddr(a), port).String())
		if a == "::1" && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue // an IPv6 address cannot be used here
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
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
	var config net.ListenConfig
	// Go listens with MPTCP unless told otherwise, which is slower.
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, api.WithHint(fmt.Errorf("listening on %s: %w", address, err),
				"a container of this pod uses the port, or another gateway still runs there")
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
