//go:build linux

package proxy

import (
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/knock"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// testGate does what the kernel does for connections that wait: their sockets connect when they are
// admitted.
type testGate struct {
	syns   chan *knock.SYN
	closed chan struct{}
	close  func()
	// admitting is called before a socket connects, if it is set.
	admitting func()
	// attempts has an *attempt for each netip.AddrPort of a client.
	attempts sync.Map

	mu sync.Mutex
	// past is closed by a deadline.
	past chan struct{}
	// works is what Note was called with last, notes how often.
	works map[netip.AddrPort]bool
	notes int
}

func newGate() *testGate {
	g := &testGate{syns: make(chan *knock.SYN), closed: make(chan struct{}), past: make(chan struct{}), works: make(map[netip.AddrPort]bool)}
	g.close = sync.OnceFunc(func() { close(g.closed) })
	return g
}

func (g *testGate) Close() error { g.close(); return nil }

func (g *testGate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	ended := false
	select {
	case <-g.past:
		ended = true
	default:
	}
	switch {
	case t.IsZero() && ended:
		g.past = make(chan struct{})
	case !t.IsZero() && !ended:
		close(g.past)
	}
	return nil
}

func (g *testGate) Next() (*knock.SYN, error) {
	g.mu.Lock()
	past := g.past
	g.mu.Unlock()
	select {
	case <-past:
		return nil, os.ErrDeadlineExceeded
	default:
	}
	select {
	case s := <-g.syns:
		return s, nil
	case <-past:
		return nil, os.ErrDeadlineExceeded
	case <-g.closed:
		return nil, os.ErrClosed
	}
}

func (g *testGate) attempt(s *knock.SYN) *attempt {
	if a, ok := g.attempts.Load(s.Client); ok && a.(*attempt).syn.Sequence == s.Sequence && !a.(*attempt).gone.Load() {
		return a.(*attempt)
	}
	return nil
}

func (g *testGate) Waits(s *knock.SYN) bool { return g.attempt(s) != nil }

func (g *testGate) Admit(s *knock.SYN) error {
	a := g.attempt(s)
	if a == nil {
		return syscall.EPERM
	}
	if g.admitting != nil {
		g.admitting()
	}
	err := unix.Connect(a.fd, toSockaddr(s.Listener))
	a.ended <- outcome{err: err}
	return nil
}

func (g *testGate) Refuse(s *knock.SYN, why syscall.Errno) error {
	if a := g.attempt(s); a != nil {
		a.ended <- outcome{err: why}
	}
	return nil
}

func (g *testGate) Note(destination netip.AddrPort, works bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.works[destination] = works
	g.notes++
	return nil
}

func (g *testGate) noted(destination netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.works[destination]
}

// attempt is a connect(2) of an application that waits.
type attempt struct {
	t     testing.TB
	gate  *testGate
	fd    int
	syn   *knock.SYN
	gone  atomic.Bool
	ended chan outcome
}

type outcome struct{ err error }

// waitingPod starts a gateway that has connections wait.
func waitingPod(t testing.TB, a *authority, change func(*Options)) (*testPod, *testGate) {
	g := newGate()
	return newPod(t, a, func(o *Options) {
		o.Gates = []Gate{g}
		if change != nil {
			change(o)
		}
	}), g
}

// connect has an application of the pod connect.
func (pod *testPod) connect(g *testGate, destination netip.AddrPort, isPod bool) *attempt {
	pod.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, toSockaddr(netip.AddrPortFrom(pod.ip, 0)))
	}
	if err != nil {
		pod.t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		pod.t.Fatal(err)
	}
	a := &attempt{t: pod.t, gate: g, fd: fd, ended: make(chan outcome, 1), syn: &knock.SYN{
		Client: fromSockaddr(sa), Listener: pod.capture, Destination: destination, Pod: isPod, Sequence: mathrand.Uint32(),
	}}
	pod.t.Cleanup(func() { unix.Close(a.fd) })
	g.attempts.Store(a.syn.Client, a)
	// Of a connection that is not known to wait.
	pod.sockets.destinations.Store(a.syn.Client, destination)
	a.send()
	return a
}

// send sends the SYN, perhaps again.
func (a *attempt) send() {
	a.t.Helper()
	select {
	case a.gate.syns <- a.syn:
	case <-time.After(patienceForTests):
		a.t.Fatal("nobody reads the SYN")
	}
}

// connected returns the connection, of which there must be one.
func (a *attempt) connected() *net.TCPConn {
	a.t.Helper()
	if err := a.end(); err != nil {
		a.t.Fatalf("connect to %v: %v", a.syn.Destination, err)
	}
	fd, err := unix.Dup(a.fd)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "application")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		a.t.Fatal(err)
	}
	// What is left is that of conn.
	unix.Close(a.fd)
	a.fd = -1
	a.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * patienceForTests)); err != nil {
		a.t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// end returns how connect(2) has ended.
func (a *attempt) end() error {
	a.t.Helper()
	select {
	case o := <-a.ended:
		return o.err
	case <-time.After(patienceForTests):
		a.t.Fatalf("connect to %v does not end", a.syn.Destination)
		panic("not reached")
	}
}

// refused checks how connect(2) ends.
func (a *attempt) refused(want syscall.Errno) {
	a.t.Helper()
	if err := a.end(); err != want {
		a.t.Errorf("connect to %v: %v, want %v", a.syn.Destination, err, want)
	}
}

// closedPort returns an address of ip where nobody listens.
func closedPort(t testing.TB, ip netip.Addr) netip.AddrPort {
	t.Helper()
	l := listen(t, netip.AddrPortFrom(ip, 0))
	hangUp(t, l)
	return addrPort(l.Addr())
}

func welcome(conn *net.TCPConn) {
	_, _ = io.WriteString(conn, "welcome")
	echo(conn)
}

// A connection that waits is carried like any other, whoever speaks first, by a carrier that is new or not.
func TestWaitingIsCarried(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	client, gate := waitingPod(t, a, nil)
	silent, talkative := application(t, server.ip, echo), application(t, server.ip, welcome)
	for range 2 {
		conn := client.connect(gate, silent, true).connected()
		exchange(t, conn, "hello")
		end(t, conn)
		conn = client.connect(gate, talkative, true).connected()
		expect(t, conn, "welcome")
		exchange(t, conn, "hello")
		end(t, conn)
	}
	got := client.settled().Outbound
	if got.Encrypted != 4 || got.Reused == 0 || got.Refused != 0 || got.Sent != 20 || got.Received != 34 {
		t.Errorf("counted %+v", got)
	}
	if !gate.noted(silent) || !gate.noted(talkative) {
		t.Error("the destinations do not count as ones that work")
	}
}

// TestNotesAreFew: what works is said once for many connections, and what does not each time.
func TestNotesAreFew(t *testing.T) {
	now := time.Now()
	one, other := netip.MustParseAddrPort("10.0.2.2:80"), netip.MustParseAddrPort("10.0.2.2:81")
	k := new(carrier)
	var got []bool
	for _, ask := range []struct {
		destination netip.AddrPort
		after       time.Duration
	}{{one, 0}, {one, noteInterval - 1}, {one, noteInterval}, {other, noteInterval}, {one, noteInterval}} {
		got = append(got, k.mayNote(ask.destination, now.Add(ask.after)))
	}
	if diff := cmp.Diff([]bool{true, false, true, true, true}, got); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}

	gate := newGate()
	p := &Proxy{waiters: newWaiters([]Gate{gate})}
	c := &connection{proxy: p}
	c.line.Destination = netip.MustParseAddrPort("10.0.2.2:82")
	c.carrier.Store(k)
	for _, works := range []bool{true, true, false, false} {
		c.note(works)
	}
	if gate.notes != 3 {
		t.Errorf("%d notes", gate.notes)
	}
}

// The same in plaintext and in band.
func TestWaitingIsCarriedOtherwise(t *testing.T) {
	t.Run("plaintext", func(t *testing.T) {
		client, gate := waitingPod(t, newAuthority(t), permissive)
		destination := application(t, podAddress(), welcome)
		conn := client.connect(gate, destination, true).connected()
		expect(t, conn, "welcome")
		exchange(t, conn, "hello")
		end(t, conn)
		if line := client.unencrypted(destination, traffic.PeerRefused); line.Sent != 5 || line.Received != 12 {
			t.Errorf("logged %+v", line)
		}
		if !gate.noted(destination) {
			t.Error("the destination does not count as one that works")
		}
	})
	t.Run("in band", func(t *testing.T) {
		a, b := newAuthority(t), newBand()
		server := newPod(t, a, func(o *Options) { inBand(o, b) })
		client, gate := waitingPod(t, a, func(o *Options) { o.Sockets.(*testSockets).band = b })
		for _, serve := range []func(*net.TCPConn){echo, welcome} {
			destination := applicationAt(t, b.behind(t, server.ip), serve)
			conn := client.connect(gate, destination, false).connected()
			write(t, conn, "hello")
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(got), "hello") {
				t.Errorf("read %q, %v", got, err)
			}
			hangUp(t, conn)
		}
		if got := client.settled().Outbound; got.Inband != 2 || got.Encrypted != 2 || got.Refused != 0 {
			t.Errorf("counted %+v", got)
		}
	})
}

// connect(2) fails as it would without gateways.
func TestWaitingIsRefused(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	bare := application(t, podAddress(), echo)
	forbidden := newPod(t, a, func(o *Options) { o.Config.Rules = api.Rules{Deny: []string{"ns/default/sa/*"}} })
	for name, c := range map[string]struct {
		mode        api.Mode
		destination netip.AddrPort
		reason      traffic.Reason
	}{
		"closed port":                       {api.Strict, closedPort(t, server.ip), traffic.ApplicationRefused},
		"closed port, permissive":           {api.Permissive, closedPort(t, server.ip), traffic.ApplicationRefused},
		"closed port without a gateway":     {api.Permissive, closedPort(t, bare.Addr()), traffic.PeerRefused},
		"no gateway":                        {api.Strict, bare, traffic.PeerRefused},
		"identity that is not allowed":      {api.Strict, application(t, forbidden.ip, echo), traffic.PeerNotAllowed},
		"identity not allowed, permissive":  {api.Permissive, application(t, forbidden.ip, echo), traffic.PeerNotAllowed},
		"destination that cannot be a peer": {api.Strict, netip.AddrPortFrom(netip.IPv4Unspecified(), 80), traffic.NoDestination},
	} {
		t.Run(name, func(t *testing.T) {
			client, gate := waitingPod(t, a, func(o *Options) { o.Config.Mode = c.mode })
			client.connect(gate, c.destination, true).refused(syscall.ECONNREFUSED)
			if gate.noted(c.destination) {
				t.Error("the destination counts as one that works")
			}
			got := client.settled().Outbound
			if got.Active != 0 || got.Plaintext != 0 {
				t.Errorf("counted %+v", got)
			}
			line := client.logged("the connection", func(api.Connection) bool { return true })
			if want := c.reason.String(); len(line.Reason) < len(want) || line.Reason[:len(want)] != want {
				t.Errorf("logged %+v, want the reason %q", line, want)
			}
		})
	}
}

// Where the other side does not answer, connect(2) gets no answer, and its kernel asks again.
func TestWaitingWithoutAnAnswer(t *testing.T) {
	client, gate := waitingPod(t, newAuthority(t), func(o *Options) { o.DialTimeout = 100 * time.Millisecond })
	ip := podAddress()
	drain := fillBacklog(t, netip.AddrPortFrom(ip, api.PeerPort))
	defer drain()
	destination := netip.AddrPortFrom(ip, 80)
	a := client.connect(gate, destination, true)
	for n := range 2 {
		eventually(t, "the end of a try", func() bool {
			return client.proxy.Traffic().Outbound.Refused == uint64(n+1) && client.proxy.waiters.count.Load() == 0
		})
		a.send()
	}
	client.unencrypted(destination, traffic.PeerSilent)
	select {
	case o := <-a.ended:
		t.Errorf("connect: %v", o.err)
	default:
	}
}

// While the gateway dials, SYNs that are sent again change nothing, and one of another socket with the same
// port ends the connection.
func TestWaitingSYNsAreTold(t *testing.T) {
	client, gate := waitingPod(t, newAuthority(t), nil)
	ip := podAddress()
	dials := silentPeer(t, ip)
	destination := netip.AddrPortFrom(ip, 80)
	a := client.connect(gate, destination, true)
	eventually(t, "the dial", func() bool { return dials.Load() == 1 })
	a.send()
	a.send()
	another := *a.syn
	another.Sequence++
	a.gone.Store(true)
	b := &attempt{t: t, gate: gate, fd: a.fd, syn: &another, ended: make(chan outcome, 1)}
	gate.attempts.Store(another.Client, b)
	b.send()
	line := client.unencrypted(destination, traffic.GaveUp)
	eventually(t, "the second dial", func() bool { return dials.Load() == 2 })
	if line.Source != another.Client || line.Error != "" {
		t.Errorf("logged %+v", line)
	}
}

// A SYN that was sent again is read when its connection has come already: that is not another one.
func TestWaitingSYNIsLate(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	client, gate := waitingPod(t, a, nil)
	destination := application(t, server.ip, echo)
	visit := func() *attempt {
		tried := client.connect(gate, destination, true)
		conn := tried.connected()
		tried.gone.Store(true)
		exchange(t, conn, "ping")
		return tried
	}
	visit().send()
	visit()
	if n := client.proxy.live.count(); n != 2 {
		t.Errorf("%d connections", n)
	}
	counters := client.proxy.options.Counters.Of(traffic.Outbound)
	if n, m := counters.Encrypted.Load(), counters.Refused.Load(); n != 2 || m != 0 {
		t.Errorf("%d connections are encrypted, %d refused", n, m)
	}
}

// The gateway notices that an application does not wait any longer.
func TestWaitingApplicationGivesUp(t *testing.T) {
	client, gate := waitingPod(t, newAuthority(t), nil)
	ip := podAddress()
	dials := silentPeer(t, ip)
	destination := netip.AddrPortFrom(ip, 80)
	a := client.connect(gate, destination, true)
	eventually(t, "the dial", func() bool { return dials.Load() == 1 })
	a.gone.Store(true)
	line := client.unencrypted(destination, traffic.GaveUp)
	if diff := cmp.Diff(api.Connection{
		Time: line.Time, Level: "WARN", Message: api.ConnectionMessage, Direction: api.Outbound, Source: a.syn.Client, Destination: destination,
		Wire: api.WireNone, Reason: traffic.GaveUp.String(), Duration: line.Duration,
	}, line, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
}

// A connection that ends while it comes to the listener is that one, and not another one which nobody has
// ended.
func TestWaitingEndsBeforeItArrives(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	client, gate := waitingPod(t, a, nil)
	var served atomic.Int64
	destination := application(t, server.ip, func(conn *net.TCPConn) {
		served.Add(1)
		echo(conn)
	})
	gate.admitting = func() {
		for _, c := range client.proxy.live.snapshot() {
			c.abort(errReset)
		}
	}
	conn := client.connect(gate, destination, true).connected()
	expectReset(t, conn)
	if got := client.settled().Outbound; got.Encrypted != 1 || served.Load() > 1 {
		t.Errorf("served %d connections, counted %+v", served.Load(), got)
	}
}

// A connection that the peer asks to carry another way waits on.
func TestWaitingPeerAsksForAnotherTry(t *testing.T) {
	a := newAuthority(t)
	client, gate := waitingPod(t, a, nil)
	ip := podAddress()
	carriers := reusingPeer(t, a, ip, func(number int, f *framed) {
		f.answerOne()
		if number == 1 {
			if got, err := f.next(); err != nil || got.kind != frameHeader {
				t.Errorf("got %v, %v", got.kind, err)
			}
			f.send(answered(statusAgain))
			_ = f.CloseWrite()
		}
		// It is the other side that closes.
		_, _ = io.Copy(io.Discard, f.raw)
	})
	destination := netip.AddrPortFrom(ip, 80)
	client.pong(destination)
	conn := client.connect(gate, destination, true).connected()
	write(t, conn, "ping")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expect(t, conn, "pong")
	expectEOF(t, conn)
	hangUp(t, conn)
	if n := client.settled().Outbound; carriers.Load() != 2 || n.Encrypted != 2 || n.Refused != 0 {
		t.Errorf("%d carriers, counted %+v", carriers.Load(), n)
	}
}

// Connections that wait for longer than the drain timeout end without an answer: the next worker gets
// their SYN.
func TestWaitingAtTheEnd(t *testing.T) {
	client, gate := waitingPod(t, newAuthority(t), nil)
	ip := podAddress()
	dials := silentPeer(t, ip)
	a := client.connect(gate, netip.AddrPortFrom(ip, 80), true)
	eventually(t, "the dial", func() bool { return dials.Load() == 1 })
	client.stop()
	select {
	case o := <-a.ended:
		t.Errorf("connect: %v", o.err)
	default:
	}
	if n := client.proxy.Traffic().Outbound; n.Active != 0 {
		t.Errorf("counted %+v", n)
	}
}

// The SYN of one connection too many is left to be sent again.
func TestWaitingIsBounded(t *testing.T) {
	ws, g := newWaiters(nil), newGate()
	at := func(port int) *knock.SYN {
		return &knock.SYN{Client: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port))}
	}
	for port := range maxWaiting {
		if w := ws.enter(t.Context(), g, at(port)); w == nil {
			t.Fatalf("connection %d does not wait", port)
		}
	}
	if ws.enter(t.Context(), g, at(maxWaiting)) != nil {
		t.Errorf("more than %d connections wait", maxWaiting)
	}
	ws.remove(ws.all[wayIn{client: at(7).Client}])
	if ws.enter(t.Context(), g, at(maxWaiting)) == nil {
		t.Error("there is no room after the end of one")
	}
}
