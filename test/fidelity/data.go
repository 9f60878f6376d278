//go:build linux

package fidelity

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// carrying is about data.
func carrying() []Scenario {
	return join(
		fromBothEnds("single bytes", func(p *play, a, b *socket) {
			a.quietly(call{Name: "set", Level: unix.IPPROTO_TCP, Option: unix.TCP_NODELAY, N: 1})
			text := "one byte at a time"
			for i := range len(text) {
				if r := a.do(call{Name: "send", Data: []byte(text[i : i+1])}); r.N != 1 {
					a.said(r, count(r), "send")
				}
			}
			b.gather(len(text))
			a.send(text)
			var all strings.Builder
			for range len(text) {
				r := b.do(call{Name: "recv", N: 1, Wait: patience})
				all.Write(r.Data)
			}
			p.say("byte by byte: %q", all.String())
		}),
		fromBothEnds("four megabytes", func(p *play, a, b *socket) {
			a.host.start(call{Name: "send", FD: a.fd, N: 4 << 20})
			b.drain(4 << 20)
		}),
		fromBothEnds("small buffers", func(p *play, a, b *socket) {
			a.set("SO_SNDBUF", 4096)
			b.set("SO_RCVBUF", 4096)
			a.get("SO_SNDBUF")
			b.get("SO_RCVBUF")
			a.host.start(call{Name: "send", FD: a.fd, N: 200_000})
			b.drain(200_000)
		}),
		fromBothEnds("full window that opens again", func(p *play, a, b *socket) {
			n := p.fillUp(a)
			r := b.do(call{Name: "drain", N: n, Wait: patience})
			p.say("all of it arrives: %v", r.Errno == 0 && r.N == n)
			a.pollsFor(unix.POLLOUT, patience)
			a.send("more")
			b.gather(4)
		}),
		fromBothEnds("full window for a while", func(p *play, a, b *socket) {
			n := p.fillUp(a)
			time.Sleep(7 * time.Second)
			r := b.do(call{Name: "drain", N: n, Wait: patience})
			p.say("all of it arrives: %v", r.Errno == 0 && r.N == n)
			a.close()
			b.recv()
		}),
		fromBothEnds("full in both directions", func(p *play, a, b *socket) {
			n, m := p.fillUp(a), p.fillUp(b)
			r := b.do(call{Name: "drain", N: n, Wait: patience})
			s := a.do(call{Name: "drain", N: m, Wait: patience})
			p.say("all of it arrives: %v, %v", r.N == n, s.N == m)
		}),
		fromBothEnds("MSG_PEEK and SIOCINQ", func(p *play, a, b *socket) {
			a.send("look at me")
			b.awaitQueued(10)
			b.recv(unix.MSG_PEEK)
			b.recvN(4, unix.MSG_PEEK)
			b.recvN(4)
			b.ioctl("queued bytes", unix.SIOCINQ)
			b.recv()
		}),
		fromBothEnds("MSG_WAITALL", func(p *play, a, b *socket) {
			done := b.host.start(call{Name: "recv", FD: b.fd, N: 10, Flags: unix.MSG_WAITALL})
			a.send("01234")
			time.Sleep(100 * time.Millisecond)
			a.send("56789")
			r := await(done)
			b.said(r, received(r), "recv WAITALL")
		}),
		fromBothEnds("MSG_WAITALL and a half-close", func(p *play, a, b *socket) {
			done := b.host.start(call{Name: "recv", FD: b.fd, N: 10, Flags: unix.MSG_WAITALL})
			a.send("01234")
			a.shutdown(unix.SHUT_WR)
			r := await(done)
			b.said(r, received(r), "recv WAITALL")
		}),
		fromBothEnds("MSG_TRUNC", func(p *play, a, b *socket) {
			a.send("0123456789")
			b.awaitQueued(10)
			r := b.do(call{Name: "recv", N: 6, Flags: unix.MSG_TRUNC})
			b.said(r, count(r), "recv TRUNC of 6 bytes")
			b.recv()
		}),
		fromBothEnds("SO_RCVLOWAT", func(p *play, a, b *socket) {
			b.set("SO_RCVLOWAT", 10)
			a.send("01234")
			b.awaitQueued(5)
			b.pollsFor(unix.POLLIN, moment)
			a.send("56789")
			b.pollsFor(unix.POLLIN, patience)
			b.recv()
		}),
		fromBothEnds("sendfile", func(p *play, a, b *socket) {
			done := b.host.start(call{Name: "drain", FD: b.fd, Wait: patience})
			r := a.do(call{Name: "sendfile", N: 300_000})
			a.said(r, count(r), "sendfile")
			a.shutdown(unix.SHUT_WR)
			r = await(done)
			b.said(r, count(r), "recv all")
		}),
		fromBothEnds("splice", func(p *play, a, b *socket) {
			r := a.do(call{Name: "splice", Data: []byte("through pipes")})
			a.said(r, count(r), "splice")
			b.awaitQueued(13)
			r = b.do(call{Name: "unsplice", N: 100, Wait: patience})
			b.said(r, received(r), "splice")
		}),
		fromBothEnds("TCP_CORK and MSG_MORE", func(p *play, a, b *socket) {
			a.set("TCP_CORK", 1)
			a.send("first ")
			a.send("second ")
			a.set("TCP_CORK", 0)
			b.gather(13)
			a.send("third ", unix.MSG_MORE)
			a.send("fourth")
			b.gather(12)
		}),
		fromBothEnds("reading without data", func(p *play, a, b *socket) {
			b.nonblock()
			r := b.do(call{Name: "recv", N: 1})
			b.said(r, received(r), "recv")
			a.send("")
			b.recvNothing()
		}),
		[]Scenario{
			{Name: "both directions at the same time", play: func(p *play) {
				c, s := p.pair(ip6)
				const n = 2 << 20
				for _, each := range []*socket{c, s} {
					each.host.start(call{Name: "send", FD: each.fd, N: n})
				}
				here := c.host.start(call{Name: "drain", FD: c.fd, N: n, Wait: patience})
				s.drain(n)
				r := await(here)
				c.said(r, count(r), "recv all")
			}},
			{Name: "many questions and answers", play: func(p *play) {
				c, s := p.pair(ip4)
				var right int
				for range 50 {
					c.do(call{Name: "send", Data: []byte("ping")})
					if r := s.do(call{Name: "recv", N: 10, Wait: patience}); string(r.Data) != "ping" {
						break
					}
					s.do(call{Name: "send", Data: []byte("pong")})
					if r := c.do(call{Name: "recv", N: 10, Wait: patience}); string(r.Data) != "pong" {
						break
					}
					right++
				}
				p.say("right answers: %d", right)
			}},
			{Name: "unacknowledged bytes", play: func(p *play) {
				c, s := p.pair(ip4)
				c.send("hello")
				c.awaitAcked()
				p.fillUp(c)
				p.say("unacknowledged: %v", c.do(call{Name: "ioctl", Option: unix.SIOCOUTQ}).N > 0)
				s.send("")
			}},
			{Name: "segment size", play: func(p *play) {
				c, _ := p.pair(ip4)
				r := c.do(call{Name: "get", Level: unix.IPPROTO_TCP, Option: unix.TCP_MAXSEG})
				c.said(r, sizeText(r.N), "TCP_MAXSEG")
			}},
		},
	)
}

func sizeText(n int) string {
	if n <= 1500 {
		return "fits Ethernet"
	}
	return "does not fit Ethernet"
}
