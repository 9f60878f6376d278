//go:build linux

package fidelity

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// onTheWire is about options of a socket that packets on the wire show, or that decide how long it
// waits for packets. A label is a TOS that no other scenario has, by which the scenario finds its
// connection on the wire.
func onTheWire() []Scenario {
	tos := func(w wireSocket) int { return w.TOS }
	class := func(w wireSocket) int { return w.TrafficClass }
	var label int
	labelled := func() []option {
		label += 4
		return []option{{"IP_TOS", label}}
	}
	has := func(what func(wireSocket) int, value int) func(wireSocket) bool {
		return func(w wireSocket) bool { return what(w) == value }
	}
	// keeps finds a connection whose next probe is due in seconds, or a little earlier.
	keeps := func(seconds int) func(wireSocket) bool {
		due := time.Duration(seconds) * time.Second
		return func(w wireSocket) bool { return w.KeepAlive > due-10*time.Second && w.KeepAlive <= due }
	}
	keepAlive := func(seconds int) []option {
		return []option{{"TCP_KEEPIDLE", seconds}, {"TCP_KEEPINTVL", seconds}, {"SO_KEEPALIVE", 1}}
	}
	all := join(
		beforeAndAfter("IP_TOS", ip4, func(at int) ([]option, func(wireSocket) bool) {
			return []option{{"IP_TOS", 0xc0 + 4*at}}, has(tos, 0xc0+4*at)
		}),
		beforeAndAfter("IP_TOS of a v4-mapped connection", mapped, func(at int) ([]option, func(wireSocket) bool) {
			return []option{{"IP_TOS", 0xd0 + 4*at}}, has(tos, 0xd0+4*at)
		}),
		beforeAndAfter("IPV6_TCLASS", ip6, func(at int) ([]option, func(wireSocket) bool) {
			return []option{{"IPV6_TCLASS", 0xe0 + 4*at}}, has(class, 0xe0+4*at)
		}),
		beforeAndAfter("SO_KEEPALIVE", ip4, func(at int) ([]option, func(wireSocket) bool) {
			return keepAlive(1000 + 100*at), keeps(1000 + 100*at)
		}),
		beforeAndAfter("SO_PRIORITY", ip4, func(at int) ([]option, func(wireSocket) bool) {
			l := append(labelled(), option{"SO_PRIORITY", 3})
			return l, func(w wireSocket) bool { return w.TOS == l[0].value && w.Priority == 3 }
		}),
		beforeAndAfter("TCP_CONGESTION", ip4, func(at int) ([]option, func(wireSocket) bool) {
			l := append(labelled(), option{congestion, 0})
			return l, func(w wireSocket) bool { return w.TOS == l[0].value && w.Congestion == rare }
		}),
	)
	mark := 0xa0
	all = append(all, fromBothEnds("IP_TOS after data", func(p *play, a, b *socket) {
		// Programs that greet the other end first mark what comes then.
		a.send("greeting")
		b.gather(8)
		a.set("IP_TOS", mark)
		a.send("marked")
		b.gather(6)
		a.shows("IP_TOS", 0, has(tos, mark))
	})...)
	quiet := labelled()
	all = append(all, Scenario{Name: "no keepalive", play: func(p *play) {
		c, s := p.pairWith(ip4, quiet, quiet)
		time.Sleep(6 * time.Second)
		c.showsKeepAlive(has(tos, quiet[0].value))
		s.showsKeepAlive(has(tos, quiet[0].value))
	}})
	for _, each := range []struct {
		name    string
		options []option
		data    bool
	}{
		{"TCP_USER_TIMEOUT", []option{{"TCP_USER_TIMEOUT", 3000}}, true},
		{"keepalive", []option{{"TCP_KEEPIDLE", 1}, {"TCP_KEEPINTVL", 2}, {"TCP_KEEPCNT", 2}, {"SO_KEEPALIVE", 1}}, false},
	} {
		all = append(all, silence(each.name, each.data, each.options)...)
	}
	// RFC 5082, as BGP has it: packets that more than a few routers have passed on are dropped, and so is a RST of the kernel.
	secured := func(f family) []option {
		if f == ip6 {
			return []option{{"IPV6_UNICAST_HOPS", 255}, {"IPV6_MINHOPCOUNT", 250}}
		}
		return []option{{"IP_TTL", 255}, {"IP_MINTTL", 250}}
	}
	impatient := option{"TCP_SYNCNT", 1}
	all = append(all, forFamilies("TTL security", func(p *play, f family) {
		c, s := p.pairWith(f, append(secured(f), impatient), secured(f))
		c.converse(s)
	})...)
	all = append(all, forFamilies("TTL security to a closed port", func(p *play, f family) {
		c := p.clientSocket(f)
		c.setAll(append(secured(f), impatient))
		c.connect(f.at(p.server, p.port))
	})...)
	return append(all, Scenario{Name: "silence that ends", cut: true, play: func(p *play) {
		c, s := p.pair(ip4)
		p.cut()
		c.send("into the silence")
		s.send("and back")
		c.pollsFor(unix.POLLIN, 4*time.Second)
		p.mend()
		s.gather(16)
		c.gather(8)
	}})
}

// congestion is an option whose value is not a number: the rare algorithm of the two that kernels have.
// Where the other one is not usual either, that makes no difference.
const (
	congestion = "TCP_CONGESTION"
	rare       = "reno"
)

// toDevice is another one, whose value is the pod's interface.
const toDevice = "SO_BINDTODEVICE"

// setAll sets options.
func (s *socket) setAll(list []option) {
	for _, o := range list {
		switch o.name {
		case congestion:
			s.setCongestion(rare)
		case toDevice:
			s.setDevice("eth0")
		default:
			s.set(o.name, o.value)
		}
	}
}

// Moments at which options are set.
const (
	clientBefore = iota
	clientAfter
	serverBefore
	serverAfter
)

// beforeAndAfter makes scenarios in which options are set by the client and the server, before and
// after the connection is made. pick returns the options and how to find them on the wire.
func beforeAndAfter(name string, f family, pick func(at int) ([]option, func(wireSocket) bool)) (all []Scenario) {
	for at, when := range []string{"of the client before connect", "of the client after connect", "of the listener", "of the server after accept"} {
		options, there := pick(at)
		all = append(all, Scenario{Name: name + " " + when + ", " + string(f), play: func(p *play) {
			var before, beforeListen []option
			switch at {
			case clientBefore:
				before = options
			case serverBefore:
				beforeListen = options
			}
			c, s := p.pairWith(f, before, beforeListen)
			setter := c
			switch at {
			case clientAfter:
				c.setAll(options)
			case serverAfter:
				s.setAll(options)
				setter = s
			case serverBefore:
				setter = s
			}
			// What a gateway passes on, it passes on with data at the latest.
			c.send("hello")
			s.gather(5)
			s.send("hello")
			c.gather(5)
			setter.shows(name, 8*time.Second, there)
		}})
	}
	return all
}

// onWire lists the sockets of the pod's connections to the other one.
func (s *socket) onWire() []wireSocket {
	other := s.play.server
	if s.host == other {
		other = s.play.client
	}
	r := s.host.do(call{Name: "wire", Addr: netip.AddrPortFrom(other.IP4, 0), Data: other.IP6.AsSlice()})
	if r.Errno != 0 {
		s.said(r, "", "listing sockets")
	}
	return r.Wire
}

// shows waits until a connection of the pod is as it should be on the wire.
func (s *socket) shows(what string, wait time.Duration, there func(wireSocket) bool) {
	start := time.Now()
	for {
		for _, w := range s.onWire() {
			if there(w) {
				s.play.say("%s, %s on the wire: yes", s.name, what)
				return
			}
		}
		if time.Since(start) >= wait {
			s.play.say("%s, %s on the wire: no", s.name, what)
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// showsKeepAlive says when the next probe of a connection is due.
func (s *socket) showsKeepAlive(mine func(wireSocket) bool) {
	for _, w := range s.onWire() {
		if !mine(w) {
			continue
		}
		switch {
		case w.KeepAlive == 0:
			s.play.say("%s: no keepalive on the wire", s.name)
		case w.KeepAlive < 10*time.Minute:
			s.play.say("%s: keepalive within minutes", s.name)
		default:
			s.play.say("%s: keepalive in hours", s.name)
		}
		return
	}
	s.play.say("%s: not found on the wire", s.name)
}

// silence makes scenarios in which the other pod falls silent and options tell when to give up.
func silence(name string, data bool, options []option) (all []Scenario) {
	for at, when := range []string{"of the client before connect", "of the client after connect", "of the listener", "of the server after accept"} {
		all = append(all, Scenario{Name: "silence and " + name + " " + when, cut: true, play: func(p *play) {
			var before, beforeListen []option
			switch at {
			case clientBefore:
				before = options
			case serverBefore:
				beforeListen = options
			}
			c, s := p.pairWith(ip4, before, beforeListen)
			setter := s
			switch at {
			case clientBefore:
				setter = c
			case clientAfter:
				c.setAll(options)
				setter = c
			case serverAfter:
				s.setAll(options)
			}
			c.send("hello")
			s.gather(5)
			s.send("hello")
			c.gather(5)
			c.awaitAcked()
			s.awaitAcked()
			// Gateways acknowledge on their own: a delayed ACK takes 200 ms at most.
			time.Sleep(moment)
			p.cut()
			if data {
				setter.send("into the silence")
			}
			setter.givesUp()
			p.mend()
		}})
	}
	return all
}

// givesUp waits until the kernel has given the connection up.
func (s *socket) givesUp() {
	r := s.do(call{Name: "await", Flags: unix.POLLERR, Wait: 12 * time.Second})
	if r.Errno == unix.ETIME {
		s.play.say("%s gives up: no", s.name)
		return
	}
	s.said(r, class(r.Took), "gives up")
}
