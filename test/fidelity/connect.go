//go:build linux

package fidelity

import (
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// connecting is about connect(2), and what both ends are called.
func connecting() []Scenario {
	return join(
		forFamilies("connect", func(p *play, f family) {
			c, s := p.pair(f)
			c.names()
			s.names()
			c.converse(s)
		}),
		forFamilies("connect without waiting", func(p *play, f family) {
			l := p.listen(f)
			c := p.clientSocket(f)
			c.nonblock()
			c.connect(f.at(p.server, p.port))
			c.pollsFor(unix.POLLOUT, patience)
			c.pendingError()
			c.names()
			l.accept().send("hello")
			c.recv()
		}),
		forFamilies("closed port", func(p *play, f family) {
			c := p.clientSocket(f)
			c.connect(f.at(p.server, p.port))
			c.recv()
		}),
		forFamilies("closed port without waiting", func(p *play, f family) {
			c := p.clientSocket(f)
			c.nonblock()
			c.connect(f.at(p.server, p.port))
			c.do(call{Name: "await", Flags: unix.POLLERR, Wait: patience})
			c.pendingError()
			c.pendingError()
		}),
		forFamilies("unreachable host", func(p *play, f family) {
			c := p.clientSocket(f)
			c.connect(f.of(p.places.Unreachable4, p.places.Unreachable6, p.port))
			c.recv()
		}),
		forFamilies("dead host", func(p *play, f family) {
			c := p.clientSocket(f)
			c.nonblock()
			c.connect(f.of(p.places.Dead4, p.places.Dead6, p.port))
			c.pollsFor(unix.POLLOUT, moment)
		}),
		[]Scenario{
			{Name: "dead host with TCP_SYNCNT", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.set("TCP_SYNCNT", 1)
				c.connect(ip4.of(p.places.Dead4, p.places.Dead6, p.port))
			}},
			{Name: "dead host with TCP_USER_TIMEOUT", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.set("TCP_USER_TIMEOUT", 3000)
				c.connect(ip4.of(p.places.Dead4, p.places.Dead6, p.port))
			}},
			{Name: "connect while connecting", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.nonblock()
				c.connect(ip4.of(p.places.Dead4, p.places.Dead6, p.port))
				c.connect(ip4.of(p.places.Dead4, p.places.Dead6, p.port))
			}},
			{Name: "connect again after a refusal", play: func(p *play) {
				l := p.listen(ip4)
				c := p.clientSocket(ip4)
				c.connect(ip4.at(p.server, p.port+1))
				c.connect(ip4.at(p.server, p.port))
				c.names()
				l.accept().names()
			}},
			{Name: "connect while connected", play: func(p *play) {
				c, s := p.pair(ip4)
				c.connect(ip4.at(p.server, p.port))
				s.send("still here")
				c.recv()
			}},
			{Name: "connect elsewhere after disconnecting", play: func(p *play) {
				c, s := p.pair(ip4)
				l := p.listen(ip4)
				c.simple(call{Name: "disconnect"}, "connect to AF_UNSPEC")
				s.recv()
				c.connect(ip4.at(p.server, p.port+1))
				c.names()
				l.accept().names()
			}},
			{Name: "port 0", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.connect(ip4.at(p.server, 0))
			}},
			{Name: "multicast address", play: func(p *play) {
				c := p.clientSocket(ip4)
				c.connect(netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 1}), p.port))
			}},
			{Name: "own pod", play: func(p *play) {
				l := p.socket(p.client, "listener", unix.AF_INET, 0)
				l.bind(ip4.at(p.client, p.port))
				l.quietly(call{Name: "listen", N: 1})
				c := p.clientSocket(ip4)
				c.connect(ip4.at(p.client, p.port))
				c.names()
				l.accept().names()
			}},
			{Name: "loopback", play: func(p *play) {
				loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.port)
				l := p.socket(p.client, "listener", unix.AF_INET, 0)
				l.bind(loopback)
				l.quietly(call{Name: "listen", N: 1})
				c := p.clientSocket(ip4)
				c.connect(loopback)
				c.names()
				l.accept().names()
			}},
			{Name: "IPv6 listener of both families", play: func(p *play) {
				l := p.socket(p.server, "listener", unix.AF_INET6, 0)
				l.set("IPV6_V6ONLY", 0)
				l.bind(netip.AddrPortFrom(netip.IPv6Unspecified(), p.port))
				l.quietly(call{Name: "listen", N: 1})
				c := p.clientSocket(ip4)
				c.connect(ip4.at(p.server, p.port))
				l.accept().names()
			}},
			{Name: "MPTCP client", play: func(p *play) {
				l := p.listen(ip4)
				c := p.socket(p.client, "client", unix.AF_INET, unix.IPPROTO_MPTCP)
				c.connect(ip4.at(p.server, p.port))
				c.names()
				s := l.accept()
				s.names()
				c.send("question")
				s.recv()
				s.shutdown(unix.SHUT_WR)
				c.recv()
			}},
			{Name: "MPTCP at both ends", play: func(p *play) {
				l := p.socket(p.server, "listener", unix.AF_INET, unix.IPPROTO_MPTCP)
				l.bind(ip4.at(p.server, p.port))
				l.quietly(call{Name: "listen", N: 1})
				c := p.socket(p.client, "client", unix.AF_INET, unix.IPPROTO_MPTCP)
				c.connect(ip4.at(p.server, p.port))
				s := l.accept()
				s.names()
				s.send("answer")
				c.recv()
				c.close()
				s.recv()
			}},
			{Name: "Fast Open", play: func(p *play) {
				l := p.listen(ip4, option{"TCP_FASTOPEN", 8})
				c := p.clientSocket(ip4)
				r := c.do(call{Name: "send", Data: []byte("early"), Flags: unix.MSG_FASTOPEN, Addr: ip4.at(p.server, p.port)})
				c.said(r, count(r), "send with MSG_FASTOPEN")
				c.names()
				s := l.accept()
				s.recv()
				s.send("answer")
				c.recv()
			}},
			{Name: "TCP_FASTOPEN_CONNECT", play: func(p *play) {
				l := p.listen(ip4, option{"TCP_FASTOPEN", 8})
				c := p.clientSocket(ip4)
				c.set("TCP_FASTOPEN_CONNECT", 1)
				c.connect(ip4.at(p.server, p.port))
				c.send("early")
				s := l.accept()
				s.recv()
				s.send("answer")
				c.recv()
			}},
			{Name: "Fast Open to a closed port", play: func(p *play) {
				c := p.clientSocket(ip4)
				r := c.do(call{Name: "send", Data: []byte("early"), Flags: unix.MSG_FASTOPEN, Addr: ip4.at(p.server, p.port)})
				c.said(r, count(r), "send with MSG_FASTOPEN")
				c.recv()
			}},
			{Name: "bound to an interface", play: func(p *play) {
				l := p.listen(ip4)
				c := p.clientSocket(ip4)
				c.setDevice("eth0")
				if r := c.connect(ip4.at(p.server, p.port)); r.Errno == 0 {
					l.accept().names()
				}
			}},
			{Name: "saved SYN", play: func(p *play) {
				_, s := p.pairWith(ip4, nil, []option{{"TCP_SAVE_SYN", 1}})
				r := s.do(call{Name: "getbytes", Level: unix.IPPROTO_TCP, Option: unix.TCP_SAVED_SYN, N: 200})
				const source = 12 // where the header has it, RFC 791
				from := "another one"
				if len(r.Data) >= source+net.IPv4len {
					switch ip, _ := netip.AddrFromSlice(r.Data[source : source+net.IPv4len]); {
					case ip == p.client.IP4:
						from = "client"
					case ip.IsLoopback():
						from = "loopback"
					}
				}
				s.said(r, "from "+from, "TCP_SAVED_SYN")
			}},
			{Name: "what a socket is", play: func(p *play) {
				c, s := p.pair(ip4)
				for _, each := range []*socket{c, s} {
					each.get("SO_DOMAIN")
					each.get("SO_PROTOCOL")
					each.pendingError()
					each.get("TCP_NODELAY")
				}
			}},
		},
	)
}

// join is slices.Concat for one scenario or many.
func join(lists ...[]Scenario) (all []Scenario) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// converse sends a question to s, which answers, and closes.
func (c *socket) converse(s *socket) {
	c.send("question")
	s.recv()
	s.send("answer")
	c.recv()
	c.close()
	s.recv()
}

// bound is about sockets that are bound before they connect.
func bound() []Scenario {
	unspecified := func(f family, port uint16) netip.AddrPort {
		return f.of(netip.IPv4Unspecified(), netip.IPv6Unspecified(), port)
	}
	return join(
		forFamilies("bound port", func(p *play, f family) {
			l := p.listen(f)
			c := p.clientSocket(f)
			c.bind(unspecified(f, p.port+5))
			c.connect(f.at(p.server, p.port))
			c.names()
			l.accept().names()
		}),
		forFamilies("bound address and port", func(p *play, f family) {
			l := p.listen(f)
			c := p.clientSocket(f)
			c.bind(f.at(p.client, p.port+5))
			c.connect(f.at(p.server, p.port))
			c.names()
			l.accept().names()
		}),
		forFamilies("bound address", func(p *play, f family) {
			l := p.listen(f)
			c := p.clientSocket(f)
			if f.client() == unix.AF_INET {
				c.set("IP_BIND_ADDRESS_NO_PORT", 1)
			}
			c.bind(f.at(p.client, 0))
			c.connect(f.at(p.server, p.port))
			c.names()
			l.accept().names()
		}),
		forFamilies("second address of the pod", func(p *play, f family) {
			p.bound(f, f.of(p.places.Second4, p.places.Second6, 0))
		}),
		forFamilies("address of another network", func(p *play, f family) {
			p.bound(f, f.of(p.places.Other4, p.places.Other6, 0))
		}),
		forFamilies("listener bound to an interface", func(p *play, f family) {
			l := p.listen(f, option{toDevice, 0})
			c := p.clientSocket(f)
			c.connect(f.at(p.server, p.port))
			s := l.accept()
			s.names()
			c.converse(s)
		}),
		forFamilies("one bound port to two servers", func(p *play, f family) {
			first, second := p.listen(f), p.listen(f)
			for i, l := range []*socket{first, second} {
				c := p.clientSocket(f)
				c.set("SO_REUSEADDR", 1)
				c.bind(unspecified(f, p.port+5))
				if r := c.connect(f.at(p.server, p.port+uint16(i))); r.Errno == 0 {
					l.accept().names()
				}
			}
		}),
		[]Scenario{{Name: "one bound port to one server twice", play: func(p *play) {
			l := p.listen(ip4)
			for range 2 {
				c := p.clientSocket(ip4)
				c.set("SO_REUSEADDR", 1)
				c.bind(ip4.at(p.client, p.port+5))
				if r := c.connect(ip4.at(p.server, p.port)); r.Errno == 0 {
					l.accept()
				}
			}
		}}, {Name: "one bound port again after a reset", play: func(p *play) {
			l := p.listen(ip4)
			for range 2 {
				c := p.clientSocket(ip4)
				c.bind(ip4.at(p.client, p.port+5))
				if r := c.connect(ip4.at(p.server, p.port)); r.Errno == 0 {
					s := l.accept()
					c.reset()
					s.recv()
				}
			}
		}}},
	)
}

// bound has the client bind an address and connect to the server.
func (p *play) bound(f family, to netip.AddrPort) {
	l := p.listen(f)
	c := p.clientSocket(f)
	c.bind(to)
	c.connect(f.at(p.server, p.port))
	c.names()
	s := l.accept()
	s.names()
	c.send("question")
	s.recv()
}

// waiting is about listeners and connections that are not accepted yet.
func waiting() []Scenario {
	return []Scenario{
		{Name: "full backlog", play: func(p *play) {
			p.listenAt(ip4, p.port, 1)
			var connected int
			var all []*socket
			for i := range 5 {
				c := p.clientSocket(ip4)
				if i < 2 {
					c.connect(ip4.at(p.server, p.port))
				} else {
					c.nonblock()
					c.do(call{Name: "connect", Addr: ip4.at(p.server, p.port)})
				}
				if all = append(all, c); i < 2 {
					// A gateway believes for a second that others can connect, too, and a connection that does not wait
					// for it is made later than connect(2) returns.
					time.Sleep(soon)
				}
			}
			var polls []<-chan result
			for _, c := range all {
				polls = append(polls, c.host.start(call{Name: "poll", FD: c.fd, Flags: unix.POLLOUT, Wait: patience}))
			}
			for _, poll := range polls {
				if r := await(poll); r.Errno == 0 {
					connected++
				}
			}
			p.say("connected: %d of %d", connected, len(all))
		}},
		{Name: "data before accept", play: func(p *play) {
			l := p.listen(ip4)
			c := p.clientSocket(ip4)
			c.connect(ip4.at(p.server, p.port))
			c.send("early")
			c.awaitAcked()
			s := l.accept()
			s.recv()
		}},
		{Name: "client that has gone before accept", play: func(p *play) {
			l := p.listen(ip4)
			c := p.clientSocket(ip4)
			c.connect(ip4.at(p.server, p.port))
			c.send("and away")
			l.pollsFor(unix.POLLIN, patience)
			c.close()
			s := l.accept()
			s.names()
			s.gather(8)
			s.recv()
		}},
		{Name: "listener that closes with a connection in its backlog", play: func(p *play) {
			l := p.listen(ip4)
			c := p.clientSocket(ip4)
			c.connect(ip4.at(p.server, p.port))
			l.pollsFor(unix.POLLIN, patience)
			l.close()
			c.awaits(unix.POLLERR | unix.POLLHUP)
			c.pendingError()
		}},
		{Name: "listener that closes with connections", play: func(p *play) {
			l := p.listen(ip4)
			c := p.clientSocket(ip4)
			c.connect(ip4.at(p.server, p.port))
			s := l.accept()
			l.close()
			c.send("question")
			s.recv()
			s.send("answer")
			c.recv()
		}},
		{Name: "two listeners with SO_REUSEPORT", play: func(p *play) {
			both := []*socket{}
			for range 2 {
				l := p.socket(p.server, "listener", unix.AF_INET, 0)
				l.set("SO_REUSEPORT", 1)
				l.bind(ip4.at(p.server, p.port))
				l.quietly(call{Name: "listen", N: 128})
				both = append(both, l)
			}
			const n = 30
			for range n {
				p.clientSocket(ip4).quietly(call{Name: "connect", Addr: ip4.at(p.server, p.port)})
			}
			var accepted [2]int
			for end := time.Now().Add(patience); accepted[0]+accepted[1] < n && time.Now().Before(end); {
				for i, l := range both {
					if r := l.do(call{Name: "accept", Wait: 10 * time.Millisecond}); r.Errno == 0 {
						p.open = append(p.open, &socket{play: p, host: p.server, fd: r.N})
						accepted[i]++
					}
				}
			}
			p.say("accepted: %d, by both: %v", accepted[0]+accepted[1], accepted[0] > 0 && accepted[1] > 0)
		}},
		{Name: "TCP_DEFER_ACCEPT", play: func(p *play) {
			l := p.listen(ip4, option{"TCP_DEFER_ACCEPT", 30})
			c := p.clientSocket(ip4)
			c.connect(ip4.at(p.server, p.port))
			l.pollsFor(unix.POLLIN, moment)
			c.send("now")
			s := l.accept()
			s.recv()
		}},
		{Name: "server speaks first", play: func(p *play) {
			c, s := p.pair(ip4)
			s.send("welcome")
			c.recv()
			c.send("thanks")
			s.recv()
		}},
	}
}
