//go:build linux

package fidelity

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Host is one of the two pods: its addresses and its [Agent].
type Host struct {
	IP4, IP6 netip.Addr
	// Service4 and Service6 are those by which clients reach the pod, if they are others.
	Service4, Service6 netip.Addr

	mu      sync.Mutex
	to      *json.Encoder
	last    int
	waiting map[int]chan result
	ended   bool
}

// NewHost returns the pod whose agent reads from in and writes to out.
func NewHost(ip4, ip6 netip.Addr, in io.Writer, out io.Reader) *Host {
	h := &Host{IP4: ip4, IP6: ip6, to: json.NewEncoder(in), waiting: make(map[int]chan result)}
	go func() {
		d := json.NewDecoder(out)
		for {
			var r result
			err := d.Decode(&r)
			h.mu.Lock()
			if err != nil {
				h.ended = true
				for _, w := range h.waiting {
					close(w)
				}
				h.mu.Unlock()
				return
			}
			if w := h.waiting[r.ID]; w != nil {
				w <- r
				delete(h.waiting, r.ID)
			}
			h.mu.Unlock()
		}
	}()
	return h
}

// start has the agent make a call.
func (h *Host) start(c call) <-chan result {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := make(chan result, 1)
	if h.ended {
		close(w)
		return w
	}
	h.last++
	c.ID = h.last
	h.waiting[c.ID] = w
	_ = h.to.Encode(c) // the reader notices as well
	return w
}

// Times of the scenarios. Machines differ, and are busy.
const (
	// patience is how long a call waits for what should happen at once.
	patience = 15 * time.Second
	// soon is patience for what is known not to happen with gateways.
	soon = 5 * time.Second
	// moment is how long nothing has to happen for it to count as nothing.
	moment = time.Second
)

// errEnded says that the agent is gone, errStuck that a call has not returned.
const (
	errEnded = syscall.Errno(4000 + iota)
	errStuck
)

func (h *Host) do(c call) result { return await(h.start(c)) }

// await waits for the result of a call that was started.
func await(started <-chan result) result {
	timeout := time.NewTimer(2 * patience)
	defer timeout.Stop()
	select {
	case r, ok := <-started:
		if !ok {
			return result{Errno: errEnded}
		}
		return r
	case <-timeout.C:
		return result{Errno: errStuck}
	}
}

// Places are addresses that the scenarios need besides those of the two pods.
type Places struct {
	// Nothing answers at Dead4 and Dead6. The client has no route to Unreachable4 and Unreachable6.
	Dead4, Dead6, Unreachable4, Unreachable6 netip.Addr
	// Second4 and Second6 are further addresses of the client, in the ranges of pods, Other4 and Other6 those of another
	// network.
	Second4, Second6, Other4, Other6 netip.Addr
}

// play is one run of a scenario.
type play struct {
	client, server *Host
	places         Places
	// port is the scenario's own on both hosts, and so are the few that follow.
	port uint16
	// cut and mend are [Stage.Cut] and [Stage.Mend], once all scenarios of the group are there.
	cut, mend func()

	transcript []string
	open       []*socket
	listeners  int
}

func (p *play) say(format string, args ...any) {
	p.transcript = append(p.transcript, fmt.Sprintf(format, args...))
}

// end closes what the scenario has left open.
func (p *play) end() {
	for _, s := range p.open {
		s.host.start(call{Name: "close", FD: s.fd})
	}
}

// forget leaves it to the scenario to close s.
func (p *play) forget(s *socket) {
	p.open = slices.DeleteFunc(p.open, func(o *socket) bool { return o == s })
}

// socket is a descriptor of one of the hosts.
type socket struct {
	play   *play
	host   *Host
	name   string
	family int
	fd     int
}

// said writes down what a call returned, and returns it.
func (s *socket) said(r result, text string, call string, args ...any) result {
	what := s.name + " " + fmt.Sprintf(call, args...)
	switch {
	case r.Errno == errEnded || r.Errno == errStuck || r.Errno == 0:
	case r.Errno == unix.ETIME:
		text = "nothing"
	case text == "ok" || text == "":
		text = unix.ErrnoName(r.Errno)
	default:
		text += ", " + unix.ErrnoName(r.Errno)
	}
	switch r.Errno {
	case errEnded:
		text = "the process has died"
	case errStuck:
		text = "never returns"
	}
	s.play.say("%s: %s", what, text)
	return r
}

func (s *socket) do(c call) result {
	c.FD, c.Family = s.fd, s.family
	return s.host.do(c)
}

// simple makes a call that only succeeds or fails.
func (s *socket) simple(c call, text string, args ...any) result {
	return s.said(s.do(c), "ok", text, args...)
}

// class says how long something took.
func class(took time.Duration) string {
	switch {
	case took < 2500*time.Millisecond:
		return "at once"
	case took < 12*time.Second:
		return "after about 3 s"
	}
	return "late"
}

// text names an address by whose it is.
func (p *play) text(a netip.AddrPort) string {
	ip := a.Addr().Unmap()
	name := ip.String()
	switch ip {
	case p.client.IP4, p.client.IP6:
		name = "client"
	case p.server.IP4, p.server.IP6, p.server.Service4, p.server.Service6:
		name = "server"
	case p.places.Dead4, p.places.Dead6:
		name = "dead host"
	case p.places.Unreachable4, p.places.Unreachable6:
		name = "unreachable host"
	case p.places.Second4, p.places.Second6:
		name = "client's second address"
	case p.places.Other4, p.places.Other6:
		name = "client's other address"
	}
	if a.Addr().Is4In6() {
		name = "mapped " + name
	}
	port := "a port"
	switch n := a.Port(); {
	case n >= p.port && n < p.port+portsPerScenario:
		port = fmt.Sprintf("port %d", n-p.port)
	case n == 0:
		port = "no port"
	}
	return name + ", " + port
}

// Families of a client's socket and of what it connects to.
type family string

const (
	ip4    family = "IPv4"
	ip6    family = "IPv6"
	mapped family = "v4-mapped"
)

func families() []family { return []family{ip4, ip6, mapped} }

func (f family) client() int {
	if f == ip4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (f family) server() int {
	if f == ip6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// at returns the address by which a socket of the client reaches host.
func (f family) at(h *Host, port uint16) netip.AddrPort {
	return f.of(cmp.Or(h.Service4, h.IP4), cmp.Or(h.Service6, h.IP6), port)
}

// of returns the one of two addresses that a socket of the client can have or connect to.
func (f family) of(four, six netip.Addr, port uint16) netip.AddrPort {
	switch f {
	case ip4:
		return netip.AddrPortFrom(four, port)
	case ip6:
		return netip.AddrPortFrom(six, port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(four.As16()), port)
}

// socket opens a socket; protocol 0 is TCP.
func (p *play) socket(h *Host, name string, family, protocol int) *socket {
	s := &socket{play: p, host: h, name: name, family: family}
	r := h.do(call{Name: "socket", Family: family, N: protocol})
	s.fd = r.N
	if r.Errno != 0 {
		s.said(r, "ok", "socket")
	} else {
		p.open = append(p.open, s)
	}
	return s
}

func (p *play) clientSocket(f family) *socket { return p.socket(p.client, "client", f.client(), 0) }

// An option of a socket that is set before listen or connect.
type option struct {
	name  string
	value int
}

// listen opens a listener of the server on its own address.
func (p *play) listen(f family, options ...option) *socket {
	return p.listenAt(f, p.port+uint16(p.listeners), 128, options...)
}

func (p *play) listenAt(f family, port uint16, backlog int, options ...option) *socket {
	p.listeners++
	l := p.socket(p.server, "listener", f.server(), 0)
	l.quietly(call{Name: "set", Level: unix.SOL_SOCKET, Option: unix.SO_REUSEADDR, N: 1})
	l.setAll(options)
	at := netip.AddrPortFrom(p.server.IP4, port)
	if f == ip6 {
		at = netip.AddrPortFrom(p.server.IP6, port)
	}
	l.quietly(call{Name: "bind", Addr: at})
	l.quietly(call{Name: "listen", N: backlog})
	return l
}

// quietly makes a call of which only a failure is written down.
func (s *socket) quietly(c call) {
	if r := s.do(c); r.Errno != 0 {
		s.said(r, "ok", "%s", c.Name)
	}
}

// pair connects the client to the server.
func (p *play) pair(f family) (client, server *socket) {
	return p.pairWith(f, nil, nil)
}

// pairWith is pair with options that the client's socket and the listener get before.
func (p *play) pairWith(f family, ofClient, ofListener []option) (client, server *socket) {
	l := p.listen(f, ofListener...)
	client = p.clientSocket(f)
	client.setAll(ofClient)
	client.connect(f.at(p.server, p.port))
	return client, l.accept()
}

func (s *socket) connect(to netip.AddrPort) result {
	r := s.do(call{Name: "connect", Addr: to})
	if r.Errno == 0 {
		// How long that takes is the machine's business: in band the gateways shake hands first.
		return s.said(r, "ok", "connect to %s", s.play.text(to))
	}
	s.play.say("%s connect to %s: %s, %s", s.name, s.play.text(to), unix.ErrnoName(r.Errno), class(r.Took))
	return r
}

func (s *socket) bind(to netip.AddrPort) result {
	return s.simple(call{Name: "bind", Addr: to}, "bind to %s", s.play.text(to))
}

// accept waits for a connection and returns it.
func (s *socket) accept() *socket {
	r := s.do(call{Name: "accept", Wait: patience})
	a := &socket{play: s.play, host: s.host, name: "server", family: s.family, fd: r.N}
	if r.Errno == 0 {
		s.play.open = append(s.play.open, a)
	} else {
		a.fd = -1
	}
	text := s.play.text(r.Addr)
	if r.Errno != 0 {
		text = ""
	}
	s.said(r, text, "accept")
	return a
}

func (s *socket) names() {
	for _, name := range []string{"getsockname", "getpeername"} {
		r := s.do(call{Name: name})
		text := ""
		if r.Errno == 0 {
			text = s.play.text(r.Addr)
		}
		s.said(r, text, "%s", name)
	}
}

func (s *socket) send(data string, flags ...int) result {
	r := s.do(call{Name: "send", Data: []byte(data), Flags: union(flags)})
	return s.said(r, count(r), "send %q%s", data, flagText(flags))
}

// sendMany sends n bytes of a pattern.
func (s *socket) sendMany(n int) result {
	r := s.do(call{Name: "send", N: n})
	return s.said(r, count(r), "send %d bytes", n)
}

func count(r result) string {
	if r.Errno != 0 && r.N <= 0 {
		return ""
	}
	return fmt.Sprint(r.N, " bytes")
}

func (s *socket) recv(flags ...int) result { return s.recvN(100, flags...) }

// recvN receives up to n bytes, once there are some.
func (s *socket) recvN(n int, flags ...int) result {
	r := s.do(call{Name: "recv", N: n, Wait: patience, Flags: union(flags)})
	return s.said(r, received(r), "recv%s", flagText(flags))
}

// recvNothing is recv for what is not to come.
func (s *socket) recvNothing() result {
	r := s.do(call{Name: "recv", N: 100, Wait: moment})
	return s.said(r, received(r), "recv for a moment")
}

func received(r result) string {
	switch {
	case r.Errno != 0:
		return ""
	case r.N == 0:
		return "the end"
	}
	return fmt.Sprintf("%q", r.Data)
}

// gather receives until there are n bytes or something else happens, in as many calls as it takes.
func (s *socket) gather(n int) { s.gatherFor(n, patience) }

// gatherFor is gather with another patience.
func (s *socket) gatherFor(n int, wait time.Duration) {
	var all []byte
	for len(all) < n {
		r := s.do(call{Name: "recv", N: n - len(all), Wait: wait})
		if r.Errno != 0 || r.N == 0 {
			s.said(r, received(r), "recv after %q", all)
			return
		}
		all = append(all, r.Data...)
	}
	s.play.say("%s recv: %q", s.name, all)
}

// drain receives the pattern until its end, or n bytes if n is not 0.
func (s *socket) drain(n int) result {
	r := s.do(call{Name: "drain", N: n, Wait: patience})
	return s.said(r, count(r), "recv all")
}

func (s *socket) shutdown(how int) result {
	return s.simple(call{Name: "shutdown", N: how}, "shutdown(%s)", []string{"RD", "WR", "RDWR"}[how])
}

func (s *socket) close() {
	s.play.forget(s)
	r := s.do(call{Name: "close"})
	s.said(r, "ok, "+class(r.Took), "close")
}

func (s *socket) linger(seconds int) {
	s.simple(call{Name: "linger", N: seconds}, "SO_LINGER %d s", seconds)
}

// reset closes the socket with a RST.
func (s *socket) reset() {
	s.linger(0)
	s.close()
}

func (s *socket) nonblock() { s.quietly(call{Name: "nonblock", N: 1}) }

// Options by name: level and number.
var optionNumbers = map[string][2]int{
	"SO_KEEPALIVE":            {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	"SO_PRIORITY":             {unix.SOL_SOCKET, unix.SO_PRIORITY},
	"SO_REUSEADDR":            {unix.SOL_SOCKET, unix.SO_REUSEADDR},
	"SO_REUSEPORT":            {unix.SOL_SOCKET, unix.SO_REUSEPORT},
	"SO_OOBINLINE":            {unix.SOL_SOCKET, unix.SO_OOBINLINE},
	"SO_RCVLOWAT":             {unix.SOL_SOCKET, unix.SO_RCVLOWAT},
	"SO_RCVBUF":               {unix.SOL_SOCKET, unix.SO_RCVBUF},
	"SO_SNDBUF":               {unix.SOL_SOCKET, unix.SO_SNDBUF},
	"SO_DOMAIN":               {unix.SOL_SOCKET, unix.SO_DOMAIN},
	"SO_PROTOCOL":             {unix.SOL_SOCKET, unix.SO_PROTOCOL},
	"IP_TOS":                  {unix.IPPROTO_IP, unix.IP_TOS},
	"IP_TTL":                  {unix.IPPROTO_IP, unix.IP_TTL},
	"IP_MINTTL":               {unix.IPPROTO_IP, unix.IP_MINTTL},
	"IP_BIND_ADDRESS_NO_PORT": {unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT},
	"IPV6_TCLASS":             {unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	"IPV6_UNICAST_HOPS":       {unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS},
	"IPV6_MINHOPCOUNT":        {unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT},
	"IPV6_V6ONLY":             {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
	"TCP_NODELAY":             {unix.IPPROTO_TCP, unix.TCP_NODELAY},
	"TCP_CORK":                {unix.IPPROTO_TCP, unix.TCP_CORK},
	"TCP_MAXSEG":              {unix.IPPROTO_TCP, unix.TCP_MAXSEG},
	"TCP_KEEPIDLE":            {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	"TCP_KEEPINTVL":           {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	"TCP_KEEPCNT":             {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	"TCP_USER_TIMEOUT":        {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
	"TCP_SYNCNT":              {unix.IPPROTO_TCP, unix.TCP_SYNCNT},
	"TCP_DEFER_ACCEPT":        {unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT},
	"TCP_FASTOPEN":            {unix.IPPROTO_TCP, unix.TCP_FASTOPEN},
	"TCP_FASTOPEN_CONNECT":    {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT},
	"TCP_SAVE_SYN":            {unix.IPPROTO_TCP, unix.TCP_SAVE_SYN},
	"TCP_QUICKACK":            {unix.IPPROTO_TCP, unix.TCP_QUICKACK},
}

func (s *socket) set(name string, value int) result {
	o := optionNumbers[name]
	return s.simple(call{Name: "set", Level: o[0], Option: o[1], N: value}, "%s = %d", name, value)
}

func (s *socket) get(name string) int {
	o := optionNumbers[name]
	r := s.do(call{Name: "get", Level: o[0], Option: o[1]})
	s.said(r, fmt.Sprint(r.N), "%s", name)
	return r.N
}

func (s *socket) setCongestion(name string) {
	s.simple(call{Name: "setstring", Level: unix.IPPROTO_TCP, Option: unix.TCP_CONGESTION, Data: []byte(name)}, "TCP_CONGESTION = %s", name)
}

func (s *socket) setDevice(name string) {
	s.simple(call{Name: "setstring", Level: unix.SOL_SOCKET, Option: unix.SO_BINDTODEVICE, Data: []byte(name)}, "%s = %s", toDevice, name)
}

// pendingError reads SO_ERROR.
func (s *socket) pendingError() {
	r := s.do(call{Name: "get", Level: unix.SOL_SOCKET, Option: unix.SO_ERROR})
	text := "none"
	if r.N != 0 {
		text = unix.ErrnoName(syscall.Errno(r.N))
	}
	s.said(r, text, "SO_ERROR")
}

// Names of poll's events, and all of them.
var eventNames = []struct {
	bit  int
	name string
}{
	{unix.POLLIN, "IN"}, {unix.POLLPRI, "PRI"}, {unix.POLLOUT, "OUT"}, {unix.POLLRDHUP, "RDHUP"}, {unix.POLLHUP, "HUP"}, {unix.POLLERR, "ERR"},
}

const allEvents = unix.POLLIN | unix.POLLPRI | unix.POLLOUT | unix.POLLRDHUP

func events(n int) string {
	var names []string
	for _, e := range eventNames {
		if n&e.bit != 0 {
			names = append(names, e.name)
		}
	}
	if names == nil {
		return "nothing"
	}
	return strings.Join(names, " ")
}

// awaits waits until all of these events are there, and writes down all that are.
func (s *socket) awaits(which int) result {
	r := s.do(call{Name: "await", Flags: which, Wait: patience})
	if r.Errno == unix.ETIME {
		s.play.say("%s poll for %s: only %s", s.name, events(which), events(r.N))
		return r
	}
	text := "yes"
	if r.Took > 4*time.Second {
		text = "yes, but late"
	}
	return s.said(r, text, "poll for %s", events(which))
}

// polls writes down all events that there are.
func (s *socket) polls() {
	r := s.do(call{Name: "poll", Flags: allEvents})
	s.said(r, events(r.N), "poll")
}

// pollsFor waits a while for some events.
func (s *socket) pollsFor(which int, wait time.Duration) result {
	r := s.do(call{Name: "poll", Flags: which, Wait: wait})
	return s.said(r, events(r.N), "poll %s for %v", events(which), wait)
}

func (s *socket) ioctl(name string, number int) int {
	r := s.do(call{Name: "ioctl", Option: number})
	s.said(r, fmt.Sprint(r.N), "%s", name)
	return r.N
}

// awaitQueued waits until n bytes can be received.
func (s *socket) awaitQueued(n int) { s.awaitIoctl("queued bytes", unix.SIOCINQ, n) }

// awaitAcked waits until the kernel holds no byte that is not acknowledged.
func (s *socket) awaitAcked() { s.awaitIoctl("unacknowledged bytes", unix.SIOCOUTQ, 0) }

func (s *socket) awaitIoctl(what string, number, want int) {
	r := s.do(call{Name: "ioctl", Option: number, N: want, Wait: patience})
	s.said(r, fmt.Sprint(r.N), "%s", what)
}

// stateNames are those of include/net/tcp_states.h.
var stateNames = []string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"}

// awaitState waits until TCP_INFO has a state.
func (s *socket) awaitState(name string) {
	r := s.do(call{Name: "state", N: slices.Index(stateNames, name), Wait: patience})
	s.said(r, stateNames[min(r.N, len(stateNames)-1)], "state")
}

func union(flags []int) (all int) {
	for _, f := range flags {
		all |= f
	}
	return all
}

func flagText(flags []int) (text string) {
	names := map[int]string{
		unix.MSG_OOB: "OOB", unix.MSG_PEEK: "PEEK", unix.MSG_WAITALL: "WAITALL", unix.MSG_TRUNC: "TRUNC",
		unix.MSG_DONTWAIT: "DONTWAIT", unix.MSG_MORE: "MORE", unix.MSG_FASTOPEN: "FASTOPEN",
	}
	for _, f := range flags {
		text += " " + names[f]
	}
	return text
}
