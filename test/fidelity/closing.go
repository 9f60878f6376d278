//go:build linux

package fidelity

import (
	"time"

	"golang.org/x/sys/unix"
)

// closing is about connections that end in an orderly way, in every order.
func closing() []Scenario {
	return join(
		fromBothEnds("half-close", func(p *play, a, b *socket) {
			a.send("last words")
			a.shutdown(unix.SHUT_WR)
			b.gather(10)
			b.recv()
			b.awaits(unix.POLLIN | unix.POLLRDHUP)
			b.send("answer")
			a.recv()
			b.close()
			a.recv()
		}),
		fromBothEnds("half-close at once", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_WR)
			b.recv()
			b.sendMany(100_000)
			b.close()
			a.drain(0)
		}),
		fromBothEnds("half-close, and a long silence", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_WR)
			b.recv()
			time.Sleep(6 * time.Second)
			b.send("late")
			a.recv()
			b.shutdown(unix.SHUT_WR)
			a.recv()
		}),
		fromBothEnds("states of a half-close", func(p *play, a, b *socket) {
			a.awaitState("ESTABLISHED")
			a.shutdown(unix.SHUT_WR)
			b.awaitState("CLOSE_WAIT")
			a.awaitState("FIN_WAIT2")
			b.shutdown(unix.SHUT_WR)
			b.awaitState("CLOSE")
			a.awaitState("CLOSE")
		}),
		fromBothEnds("close", func(p *play, a, b *socket) {
			a.close()
			b.recv()
			b.awaits(unix.POLLIN | unix.POLLRDHUP)
			b.close()
		}),
		fromBothEnds("close behind a megabyte", func(p *play, a, b *socket) {
			a.host.start(call{Name: "send", FD: a.fd, N: 1 << 20})
			b.awaits(unix.POLLIN)
			time.Sleep(100 * time.Millisecond)
			b.drain(1 << 20)
			a.close()
			b.recv()
		}),
		fromBothEnds("close that leaves data to the kernel", func(p *play, a, b *socket) {
			a.sendMany(50_000)
			a.close()
			b.drain(0)
		}),
		fromBothEnds("write to an end that has closed", func(p *play, a, b *socket) {
			a.close()
			b.recv()
			b.send("too late")
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.send("much too late")
			b.pendingError()
		}),
		fromBothEnds("write to an end whose close is not read", func(p *play, a, b *socket) {
			a.close()
			b.awaits(unix.POLLRDHUP)
			b.send("too late")
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.pendingError()
			b.recv()
			b.send("much too late")
		}),
		fromBothEnds("shutdown of both directions", func(p *play, a, b *socket) {
			a.send("last words")
			a.shutdown(unix.SHUT_RDWR)
			b.gather(10)
			b.recv()
			a.recv()
			b.send("too late")
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.send("much too late")
		}),
		fromBothEnds("shutdown of the receiving direction", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_RD)
			a.recv()
			b.send("hello")
			a.awaitQueued(5)
			a.gather(5)
			a.recv()
			a.send("answer")
			b.recv()
		}),
		fromBothEnds("shutdown twice", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_WR)
			a.shutdown(unix.SHUT_WR)
			b.shutdown(unix.SHUT_WR)
			a.recv()
			a.awaits(unix.POLLHUP)
			a.shutdown(unix.SHUT_WR)
		}),
		fromBothEnds("write after shutdown", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_WR)
			a.send("no")
			b.send("yes")
			a.recv()
		}),
		[]Scenario{
			{Name: "both shut down at the same time", play: func(p *play) {
				c, s := p.pair(ip4)
				c.send("from the client")
				s.send("from the server")
				done := c.host.start(call{Name: "shutdown", FD: c.fd, N: unix.SHUT_WR})
				s.shutdown(unix.SHUT_WR)
				c.said(await(done), "ok", "shutdown")
				c.gather(15)
				s.gather(15)
				c.recv()
				s.recv()
				c.awaits(unix.POLLHUP)
				s.awaits(unix.POLLHUP)
				c.pendingError()
				s.pendingError()
			}},
			{Name: "both close at the same time", play: func(p *play) {
				c, s := p.pair(ip4)
				p.forget(c)
				done := c.host.start(call{Name: "close", FD: c.fd})
				s.close()
				c.said(await(done), "ok", "close")
			}},
			{Name: "linger while the other end does not read", play: func(p *play) {
				c, _ := p.pair(ip4)
				p.fillUp(c)
				c.linger(3)
				c.close()
			}},
			{Name: "linger while the other end reads", play: func(p *play) {
				c, s := p.pair(ip4)
				c.linger(30)
				c.sendMany(100_000)
				done := s.host.start(call{Name: "drain", FD: s.fd, Wait: patience})
				c.close()
				s.said(await(done), "", "recv all")
			}},
		},
	)
}

// fillUp sends until the other end's buffers and all on the way are full.
func (p *play) fillUp(s *socket) int {
	r := s.do(call{Name: "fill"})
	s.said(r, "some", "send until nothing more fits")
	return r.N
}

// resetting is about connections that end with a RST.
func resetting() []Scenario {
	return join(
		fromBothEnds("reset", func(p *play, a, b *socket) {
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.recv()
			b.recv()
		}),
		fromBothEnds("reset, seen by SO_ERROR", func(p *play, a, b *socket) {
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.polls()
			b.pendingError()
			b.pendingError()
			b.polls()
		}),
		fromBothEnds("reset, seen by a write", func(p *play, a, b *socket) {
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.send("hello")
			b.send("hello")
			b.shutdown(unix.SHUT_WR)
			b.names()
		}),
		fromBothEnds("reset, seen by a blocked read", func(p *play, a, b *socket) {
			done := b.host.start(call{Name: "recv", FD: b.fd, N: 10})
			time.Sleep(100 * time.Millisecond)
			a.reset()
			r := await(done)
			b.said(r, received(r), "recv")
		}),
		fromBothEnds("reset, seen by a blocked write", func(p *play, a, b *socket) {
			p.fillUp(b)
			done := b.host.start(call{Name: "send", FD: b.fd, N: 16 << 20})
			time.Sleep(100 * time.Millisecond)
			a.reset()
			b.said(await(done), "ok", "send")
		}),
		fromBothEnds("reset behind data that is not read", func(p *play, a, b *socket) {
			a.send("0123456789")
			b.awaitQueued(10)
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.recvN(4)
			b.recv()
			b.recv()
		}),
		fromBothEnds("reset after a half-close", func(p *play, a, b *socket) {
			a.shutdown(unix.SHUT_WR)
			b.recv()
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.pendingError()
			b.send("too late")
		}),
		fromBothEnds("reset by the end that was half-closed", func(p *play, a, b *socket) {
			b.shutdown(unix.SHUT_WR)
			a.recv()
			a.reset()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.pendingError()
			b.recv()
		}),
		fromBothEnds("close with unread data", func(p *play, a, b *socket) {
			b.send("nobody reads this")
			a.awaitQueued(17)
			a.close()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.recv()
			b.recv()
		}),
		fromBothEnds("close with unread data after an answer", func(p *play, a, b *socket) {
			b.send("question and more")
			a.awaitQueued(17)
			a.recvN(8)
			a.send("answer")
			b.awaitQueued(6)
			a.close()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.recv()
			b.recv()
		}),
		fromBothEnds("close with a full window", func(p *play, a, b *socket) {
			p.fillUp(b)
			a.close()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.recv()
		}),
		fromBothEnds("process that dies", func(p *play, a, b *socket) {
			// The kernel closes its sockets: with nothing unread that is an orderly end.
			a.send("last words")
			a.close()
			b.gather(10)
			b.recv()
		}),
	)
}
