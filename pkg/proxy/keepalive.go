//go:build linux

package proxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// sweepInterval is how often open connections are looked at. It also bounds
// how old the byte counts of open connections are.
const sweepInterval = 5 * time.Second

var errReset = errors.New("connection was reset")

// sweep aborts connections that no read or write would find to be dead, and gives sockets the options
// that applications have set meanwhile, until ctx is done. How long a silent peer is waited for is
// left to the kernel, as without gateways.
func (p *Proxy) sweep(ctx context.Context) {
	ticker := time.NewTicker(cmp.Or(p.options.sweep, sweepInterval))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.live.accountAll()
		p.carriers.expire(time.Now())
		p.begun.expire(time.Now())
		for _, c := range p.live.snapshot() {
			p.inspect(c)
		}
	}
}

func (p *Proxy) inspect(c *connection) {
	c.mu.Lock()
	sockets := c.sockets
	c.mu.Unlock()
	for _, socket := range sockets {
		if socket != nil && hasError(socket) {
			c.abort(errReset)
			return
		}
	}
	c.tune(true)
}

// hasError reports whether the kernel has a pending error for socket: a RST that came while
// the relay waits for the other side to read.
func hasError(socket *net.TCPConn) (failed bool) {
	_ = onSocket(socket, func(fd int) error {
		set := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(set, 0)
		failed = err == nil && n > 0 && set[0].Revents&unix.POLLERR != 0
		return err
	})
	return failed
}
