//go:build linux

package proxy

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// begin starts a connection, or refuses it if there is no memory for it. It is refused in permissive
// mode, too: an application must not get plaintext because somebody fills the pod's memory. The peer
// sees a RST, as from a gateway that is full, and dials again.
func (a *acceptor) begin(conn stream) {
	if a.direction == traffic.Outbound && a.proxy.waiters.arrive(conn) {
		return
	}
	if !a.proxy.awaitRoom(a.accepting) {
		c := a.proxy.open(a.direction, conn)
		c.pending = false
		a.proxy.name(c)
		c.refuse(traffic.NoMemory, nil)
		return
	}
	a.handle(conn)
}

// name fills in the ends of an outbound connection that is not carried, as far as they are known.
func (p *Proxy) name(c *connection) {
	if !c.dialled() {
		return
	}
	destination, _, err := p.originalDestination(c.sockets[0])
	if err != nil {
		c.line.Destination, _ = endsOf(c.sockets[0])
		return
	}
	c.line.Destination = destination
	_ = c.nameSource(p.settings.Load(), destination)
}

// errNoRoom means that there is no memory for another connection.
var errNoRoom = errors.New(traffic.NoMemory.String())

// awaitRoom waits until there is memory for a connection, as long as that makes sense, or ctx is done. Those behind it
// wait in the backlog, where they do not count towards the pod's memory.
func (p *Proxy) awaitRoom(ctx context.Context) bool {
	for {
		ok, again := p.options.Memory.Admit()
		if ok || again == 0 {
			return ok
		}
		// What is idle goes first.
		p.carriers.drop()
		p.used.close()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(again):
		}
	}
}

// settle tells that c has all that it takes, once.
func (c *connection) settle() {
	if c.pending {
		c.pending = false
		c.proxy.options.Memory.Settle()
	}
}

// FitMemory has buffers and handshakes follow the memory that is left.
func (p *Proxy) FitMemory() {
	left := p.options.Memory
	if left == nil {
		return
	}
	left.Look()
	p.options.handshakes.bound(left.Handshakes(maxHandshakes))
	p.carriers.bound(left.Idle(maxAwaiting))
	size := left.Buffer()
	if p.fitted.Swap(int64(size)) == int64(size) {
		return
	}
	p.fits.Add(1)
	p.used.close()
	p.pools.fit(size)
	for _, l := range p.options.Capture {
		if socket, ok := l.(syscall.Conn); ok {
			_ = onSocket(socket, func(fd int) error { return fitSegments(fd, size) })
		}
	}
	for _, c := range p.live.snapshot() {
		c.mu.Lock()
		sockets := c.sockets
		c.mu.Unlock()
		for _, socket := range sockets {
			if socket != nil {
				fitSocket(socket, size)
			}
		}
	}
}

// smallSegment is the payload of a segment on Ethernet.
const smallSegment = 1448

// fitSegments has the other end of connections that fd will accept, or will open, send small segments while
// buffers are bounded. The kernel makes a new socket's send buffer large enough for twenty segments
// (tcp_sndbuf_expand in net/ipv4/tcp_input.c), and those on loopback have 64 KiB: each stream of
// an application can hold 2.6 MiB before the gateway has read a byte.
func fitSegments(fd, size int) error {
	segment := 0 // as large as the interface allows
	if size > 0 {
		segment = smallSegment
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, segment)
}

// fitSocket bounds the stream's buffers in the kernel to size bytes each, or with 0 has the kernel size
// them again. Before Linux 5.14, which brought SO_BUF_LOCK, they get MaxBuffer instead. Errors mean that
// the socket is closed already.
func fitSocket(s stream, size int) {
	_ = onSocket(s, func(fd int) error {
		if size == 0 {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, 0) == nil {
				return nil
			}
			size = memory.MaxBuffer
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	})
}
