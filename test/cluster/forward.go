//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// network is a network namespace that we can make sockets in.
type network struct {
	own, other *os.File
}

// openNetwork opens the network namespace of a process.
func openNetwork(pid int) (*network, error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("opening our network namespace: %w", err)
	}
	other, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		own.Close()
		return nil, fmt.Errorf("opening the network namespace of process %d: %w", pid, err)
	}
	return &network{own, other}, nil
}

func (n *network) Close() error {
	return errors.Join(n.own.Close(), n.other.Close())
}

// dial connects from inside the namespace. A socket belongs to the namespace of
// the thread that made it, for good; so only the dial needs the thread.
func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	runtime.LockOSThread()
	if err := unix.Setns(int(n.other.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("entering a network namespace: %w", err)
	}
	// One literal address: the dialler then makes its socket on this very thread.
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp4", address)
	if back := unix.Setns(int(n.own.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, and so ends with this goroutine instead of
		// serving others in the wrong namespace.
		return conn, err
	}
	runtime.UnlockOSThread()
	return conn, err
}

// forward hands every connection of the listener on to target, an address
// inside the network, until the context ends.
func forward(ctx context.Context, listener net.Listener, network *network, target string) error {
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	for {
		client, err := listener.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			// Out of descriptors, for example: others may still be served.
			fmt.Fprintf(os.Stderr, "accepting a connection: %v\n", err)
			if pause(ctx, 100*time.Millisecond) != nil {
				return ctx.Err()
			}
			continue
		}
		go func() {
			defer client.Close()
			server, err := network.dial(ctx, target)
			if err != nil {
				return // the client sees the end of its connection
			}
			defer server.Close()
			relay(client.(*net.TCPConn), server.(*net.TCPConn))
		}()
	}
}

// relay copies both ways until both have ended, each end passed on by itself.
func relay(a, b *net.TCPConn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyHalf(a, b)
	}()
	copyHalf(b, a)
	<-done
}

func copyHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		// An abort: neither direction has a future.
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite() // fails only when the peer has gone, which the other half sees
}
