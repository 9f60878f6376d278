//go:build linux

package fidelity

import (
	"golang.org/x/sys/unix"
)

// watching is about poll(2), which epoll(7) and select(2) agree with.
func watching() []Scenario {
	return join(
		fromBothEnds("events of a life", func(p *play, a, b *socket) {
			b.polls()
			a.send("hello")
			b.awaits(unix.POLLIN)
			b.polls()
			b.recv()
			b.polls()
			a.shutdown(unix.SHUT_WR)
			b.awaits(unix.POLLRDHUP)
			b.polls()
			b.recv()
			b.polls()
			b.shutdown(unix.SHUT_WR)
			b.awaits(unix.POLLHUP)
			b.polls()
			a.awaits(unix.POLLHUP)
			a.polls()
		}),
		fromBothEnds("events of a reset", func(p *play, a, b *socket) {
			b.send("not read")
			a.awaitQueued(8)
			b.polls()
			a.close()
			b.awaits(unix.POLLERR | unix.POLLHUP)
			b.polls()
			b.recv()
			b.polls()
		}),
		fromBothEnds("events of a full window", func(p *play, a, b *socket) {
			p.fillUp(a)
			b.send("hello")
			a.awaits(unix.POLLIN)
			b.shutdown(unix.SHUT_WR)
			a.awaits(unix.POLLIN | unix.POLLRDHUP)
		}),
		[]Scenario{
			{Name: "events of a socket that is not connected", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.polls()
				c.names()
				c.send("hello")
				c.recvN(1, unix.MSG_DONTWAIT)
				c.shutdown(unix.SHUT_WR)
			}},
			{Name: "events of a socket that is connecting", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.nonblock()
				c.connect(ip4.of(p.places.Dead4, p.places.Dead6, p.port))
				c.polls()
				c.names()
			}},
		},
	)
}

// urgent is about urgent data (RFC 6093).
func urgent() []Scenario {
	return join(
		fromBothEnds("urgent data with SO_OOBINLINE", func(p *play, a, b *socket) {
			b.set("SO_OOBINLINE", 1)
			a.send("before")
			a.send("!", unix.MSG_OOB)
			a.send("behind")
			b.gatherFor(13, soon)
		}),
		fromBothEnds("urgent data beside the stream", func(p *play, a, b *socket) {
			a.send("before")
			b.awaitQueued(6)
			a.send("!", unix.MSG_OOB)
			if r := b.pollsFor(unix.POLLPRI, soon); r.Errno == 0 {
				b.recv(unix.MSG_OOB)
			}
			b.gather(6)
			a.send("behind")
			b.gather(6)
		}),
		fromBothEnds("mark of urgent data", func(p *play, a, b *socket) {
			a.send("before")
			a.send("!", unix.MSG_OOB)
			b.pollsFor(unix.POLLPRI, soon)
			b.ioctl("at the mark", unix.SIOCATMARK)
			b.gather(6)
			b.ioctl("at the mark", unix.SIOCATMARK)
		}),
		fromBothEnds("no urgent data", func(p *play, a, b *socket) {
			a.send("hello")
			b.awaitQueued(5)
			r := b.do(call{Name: "recv", N: 1, Flags: unix.MSG_OOB | unix.MSG_DONTWAIT})
			b.said(r, received(r), "recv OOB")
			b.gather(5)
		}),
	)
}
