//go:build linux

package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive detects a dead idle peer within 75 seconds: after 15 s of silence, four probes
// 15 s apart. The sweeper sets it: most connections end before it matters, and it costs four
// system calls.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4}

// sweepInterval is how often open connections are looked at. It also bounds
// how old the byte counts of open connections are.
const sweepInterval = 5 * time.Second

var (
	errUnacked = errors.New("peer no longer acknowledges data")
	errReset   = errors.New("connection was reset")
)

// sweep aborts connections that no read or write would find to be dead, until
// ctx is done.
//
// It stands in for TCP_USER_TIMEOUT, which since Linux 5.11 also aborts a peer
// that is alive and acknowledges every window probe, but whose application has
// stopped reading. Without gateways such a connection lives forever, so it must with them.
func (p *Proxy) sweep(ctx context.Context) {
	ticker := time.NewTicker(min(sweepInterval, max(p.options.UnackedTimeout/4, time.Millisecond)))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		p.live.accountAll()
		p.carriers.expire(time.Now())
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
	// An outbound connection has its wire second, which is nil before it is dialled; an
	// inbound one has it first.
	wire := sockets[0]
	if c.dialled() {
		wire = sockets[1]
	}
	if wire != nil && wire != c.keptAlive && wire.SetKeepAliveConfig(keepAlive) == nil {
		c.keptAlive = wire
	}
	// The application's socket never has unacknowledged data: both ends are in this kernel.
	for _, socket := range sockets {
		if socket == nil {
			continue
		}
		stalled, ackAge, err := unanswered(socket)
		if err != nil || !stalled {
			continue
		}
		now := time.Now()
		switch {
		case c.stalledSince.IsZero() || now.Add(-ackAge).After(c.stalledSince):
			c.stalledSince = now
		case now.Sub(c.stalledSince) >= p.options.UnackedTimeout:
			c.abort(errUnacked)
		}
		return
	}
	c.stalledSince = time.Time{}
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

// lostProbes is how many window probes in a row may stay unanswered. One is not rare: a Linux
// receiver answers at most two a second (net.ipv4.tcp_invalid_ratelimit), and the next probe
// may be two minutes away.
const lostProbes = 2

// unanswered reports whether the kernel repeats data or probes without an answer, and how long
// ago the last acknowledgement came.
func unanswered(socket *net.TCPConn) (stalled bool, ackAge time.Duration, err error) {
	var info *unix.TCPInfo
	if err := onSocket(socket, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	}); err != nil {
		return false, 0, err
	}
	stalled = info.Unacked > 0 && info.Retransmits > 0 || info.Probes > lostProbes
	return stalled, time.Duration(info.Last_ack_recv) * time.Millisecond, nil
}
