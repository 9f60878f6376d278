//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// sweeps has idle connections park at once.
func sweeps(o *Options) { o.sweep = 5 * time.Millisecond }

// isParked reports whether the reader of s is parked.
func isParked(s stream) bool {
	p, ok := s.(*bareSocket)
	if !ok {
		return false
	}
	p.parking.mu.Lock()
	defer p.parking.mu.Unlock()
	return p.resume != nil
}

// awaitParked waits until nothing of the pods' open connections has a goroutine.
func awaitParked(t testing.TB, pods ...*testPod) {
	t.Helper()
	eventually(t, "idle connections to park", func() bool {
		for _, pod := range pods {
			for _, c := range pod.proxy.live.snapshot() {
				c.mu.Lock()
				sockets := c.sockets
				c.mu.Unlock()
				if slices.ContainsFunc(sockets[:], func(s stream) bool { return !isParked(s) }) {
					return false
				}
			}
		}
		return true
	})
}

// TestIdleConnectionsPark: what an idle connection gets wakes it up, from either side, as often as it
// likes: data, the end of one direction and of the other, and a RST.
func TestIdleConnectionsPark(t *testing.T) {
	parkable := func(t *testing.T, run func(t *testing.T, client *testPod, pods []*testPod, far net.Listener)) {
		t.Run("encrypted", func(t *testing.T) {
			client, server := pair(t, sweeps)
			run(t, client, []*testPod{client, server}, listen(t, netip.AddrPortFrom(server.ip, 0)))
		})
		t.Run("encrypted in band", func(t *testing.T) {
			client, server, b := inbandPair(t, sweeps)
			// The test itself accepts in band at the server.
			run(t, client, []*testPod{client}, b.behind(t, server.ip))
		})
		t.Run("plaintext", func(t *testing.T) {
			client := newPod(t, newAuthority(t), func(o *Options) { permissive(o); sweeps(o) })
			run(t, client, []*testPod{client}, listen(t, netip.AddrPortFrom(podAddress(), 0)))
		})
	}
	both := func(t *testing.T, near, far net.Conn) {
		t.Helper()
		write(t, near, "to the far end")
		expect(t, far, "to the far end")
		write(t, far, "and back")
		expect(t, near, "and back")
	}
	parkable(t, func(t *testing.T, client *testPod, pods []*testPod, l net.Listener) {
		destination, accept := collectAt(t, l)
		near := client.dial(destination)
		far := accept()
		for range 3 {
			both(t, near, far)
			awaitParked(t, pods...)
		}
		must.Do(t, near.CloseWrite())
		expectEOF(t, far)
		write(t, far, "still open")
		expect(t, near, "still open")
		end(t, far)
		expectEOF(t, near)
		for _, pod := range pods {
			pod.settled()
		}
		for _, who := range []string{"near", "far"} {
			near := client.dial(destination)
			far := accept()
			both(t, near, far)
			awaitParked(t, pods...)
			if who == "near" {
				near, far = far, near
			}
			reset(far)
			expectReset(t, near)
		}
		for _, pod := range pods {
			pod.settled()
		}
	})
}

// TestParkedConnectionsEnd: what ends connections from within the gateway reaches those that are parked.
func TestParkedConnectionsEnd(t *testing.T) {
	client, server := pair(t, sweeps)
	destination, accept := collect(t, server.ip)
	near := client.dial(destination)
	far := accept()
	bothWays(t, near, far)
	awaitParked(t, client, server)
	client.stop()
	expectReset(t, near)
	expectReset(t, far)
}

// TestIdleCarriersPark: a carrier that is parked carries the next connection, and goes away when it is
// asked to.
func TestIdleCarriersPark(t *testing.T) {
	client, server := pair(t, sweeps)
	destination := application(t, server.ip, echo)
	parked := func(p *pool) (n int) {
		for k := range p.all {
			if isParked(k.conn) {
				n++
			}
		}
		return n
	}
	for range 3 {
		visitAndWait(t, client, server, destination)
		eventually(t, "the carrier to park", func() bool { return client.count(parked) == 1 && server.count(parked) == 1 })
	}
	if got := client.settled().Outbound; got.Encrypted != 3 || got.Reused != 2 {
		t.Errorf("counted %+v", got)
	}
	server.proxy.carriers.drop()
	all := func(p *pool) int { return len(p.all) }
	eventually(t, "the carrier to end", func() bool { return client.count(all)+server.count(all) == 0 })
}

// TestDeadlineOvertakesParking: a reader that is asked to park and gets a deadline has the deadline.
func TestDeadlineOvertakesParking(t *testing.T) {
	l := newLot()
	defer l.close()
	listener := listen(t, netip.MustParseAddrPort("127.0.0.1:0")).(*net.TCPListener)
	dial := func() *bareSocket {
		none := func(int) error { return nil }
		return must.Get(connectFrom(t.Context(), netip.AddrPort{}, addrPort(listener.Addr()), patienceForTests, none))(t)
	}
	s := dial()
	defer s.Close()
	raw := must.Get(s.SyscallConn())(t)
	never := func(uintptr) bool { return false }

	s.ask(l)
	must.Do(t, s.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if err := awaitReadable(s, raw, never); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a deadline: %v", err)
	}
	must.Do(t, s.SetReadDeadline(time.Now().Add(time.Hour)))
	s.ask(l)
	must.Do(t, s.SetReadDeadline(time.Time{}))
	s.ask(l)
	if err := awaitReadable(s, raw, never); err != errParked {
		t.Errorf("without one: %v", err)
	}
	for name, wake := range map[string]func(s stream) error{
		"a deadline": func(s stream) error { return s.SetReadDeadline(time.Time{}) },
		"the end":    func(s stream) error { return s.Close() },
	} {
		s := dial()
		defer s.Close()
		s.ask(l)
		if err := awaitReadable(s, must.Get(s.SyscallConn())(t), never); err != errParked {
			t.Fatal(err)
		}
		resumed := make(chan struct{})
		s.park(func() { close(resumed) })
		if !isParked(s) {
			t.Errorf("%s: not parked before", name)
		}
		must.Do(t, wake(s))
		<-resumed
	}
}

// TestGiveUpBuffers: this Go has the buffers that are given up, and TLS goes on without them.
func TestGiveUpBuffers(t *testing.T) {
	certificate := newAuthority(t).issue(t, []netip.Addr{podAddress()}, nil)
	l := listen(t, netip.MustParseAddrPort("127.0.0.1:0"))
	large := strings.Repeat("x", 100_000)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}), large+large)
	}()
	conn := must.Get(net.Dial("tcp", l.Addr().String()))(t)
	defer conn.Close()
	secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	expect(t, secured, large[:20_000])
	giveUpBuffers(secured)
	if in := fieldOf[bytes.Reader](secured, tlsFields().input); in.Len() == 0 {
		t.Errorf("what has not been read is gone: %v", in)
	}
	expect(t, secured, large[20_000:]+large)
	giveUpBuffers(secured)
	if in := fieldOf[bytes.Reader](secured, tlsFields().input); in.Size() > 0 {
		t.Errorf("the TLS connection holds %v", in)
	}
	for _, field := range []uintptr{tlsFields().raw, tlsFields().hand} {
		if b := fieldOf[bytes.Buffer](secured, field); b.Cap() > 0 {
			t.Errorf("the TLS connection holds %v", b)
		}
	}
	if *fieldOf[exporter](secured, tlsFields().ekm) != nil {
		t.Error("the TLS connection holds the secret of ExportKeyingMaterial")
	}
	if _, err := secured.Read(make([]byte, 1)); err == nil {
		t.Error("no end")
	}
}

// TestParkedGiveBack: when many idle connections have parked, memory is given back while they are open.
func TestParkedGiveBack(t *testing.T) {
	a, rested, quiet := newAuthority(t), make(chan struct{}), make(chan struct{})
	client := newPod(t, a, func(o *Options) {
		sweeps(o)
		o.Resting = func() {
			select {
			case rested <- struct{}{}:
			case <-t.Context().Done():
			}
		}
		o.Quiet = func() {
			select {
			case quiet <- struct{}{}:
			default:
			}
		}
	})
	server := newPod(t, a, sweeps)
	<-rested
	destination, accept := collect(t, server.ip)
	for range manyParked / 2 { // each has two readers
		near := client.dial(destination)
		bothWays(t, near, accept())
	}
	// While a connection is open the sweeper does not rest otherwise. Each of its rounds goes on without the program's pages.
	for i, given := range []chan struct{}{rested, quiet} {
		select {
		case <-given:
		case <-time.After(patienceForTests):
			t.Fatalf("%s is not given back", []string{"what parked connections leave behind", "the program"}[i])
		}
	}
}

// TestCrowdParks: where many connections begin, idle ones do not wait for the sweeper's next round.
func TestCrowdParks(t *testing.T) {
	seldom := func(o *Options) { o.sweep = time.Hour }
	client, server := pair(t, seldom)
	destination, accept := collect(t, server.ip)
	parked := func(pod *testPod) (n int) {
		for _, c := range pod.proxy.live.snapshot() {
			c.mu.Lock()
			if slices.ContainsFunc(c.sockets[:], isParked) {
				n++
			}
			c.mu.Unlock()
		}
		return n
	}
	for range 10 * crowdSize {
		bothWays(t, client.dial(destination), accept())
		if parked(client) > 0 && parked(server) > 0 {
			return
		}
	}
	t.Errorf("of %d connections %d and %d have parked", 10*crowdSize, parked(client), parked(server))
}

// TestParkedSocketsHaveNoFile: a socket is nothing to Go's runtime while its reader is parked, and is written to, given a
// deadline and closed like others.
func TestParkedSocketsHaveNoFile(t *testing.T) {
	l := newLot()
	defer l.close()
	listener := listen(t, netip.MustParseAddrPort("127.0.0.1:0"))
	never := func(uintptr) bool { return false }
	parkedSocket := func(resume func()) (s *bareSocket, far net.Conn) {
		t.Helper()
		none := func(int) error { return nil }
		s = must.Get(connectFrom(t.Context(), netip.AddrPort{}, addrPort(listener.Addr()), patienceForTests, none))(t)
		far = must.Get(listener.Accept())(t)
		t.Cleanup(func() { _, _ = s.Close(), far.Close() })
		must.Do(t, far.SetDeadline(time.Now().Add(patienceForTests)))
		s.ask(l)
		if err := awaitReadable(s, must.Get(s.SyscallConn())(t), never); err != errParked {
			t.Fatal(err)
		}
		s.park(resume)
		if s.descriptor.file.Load() != nil {
			t.Fatal("a parked socket has a file")
		}
		return s, far
	}

	s, far := parkedSocket(func() {})
	if hasError(s) || s.descriptor.file.Load() != nil {
		t.Error("a look at its options makes a file")
	}
	write(t, s, "to the far end")
	expect(t, far, "to the far end")
	write(t, far, "and back")
	expect(t, s, "and back")

	// Whoever writes goes on with the next file.
	s, far = parkedSocket(func() {})
	large, written := strings.Repeat("x", 16<<20), make(chan error, 1)
	go func() {
		_, err := io.WriteString(s, large)
		written <- err
	}()
	must.Get(io.CopyN(io.Discard, far, 1<<20))(t)
	s.descriptor.giveUp(func(int) {})
	must.Get(io.CopyN(io.Discard, far, int64(len(large))-1<<20))(t)
	must.Do(t, <-written)

	resumed := make(chan struct{})
	s, far = parkedSocket(func() { close(resumed) })
	must.Do(t, s.Close())
	<-resumed
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("a parked socket stays open")
	}
	if _, err := s.Write([]byte("x")); err != net.ErrClosed {
		t.Errorf("writing to a closed socket: %v", err)
	}
	if err := onSocket(s, func(int) error { return nil }); err != net.ErrClosed {
		t.Errorf("looking at a closed socket: %v", err)
	}
	if err := s.Close(); err == nil {
		t.Error("a socket is closed twice")
	}
}

// TestSweeperRests: when all connections and what they leave behind have ended, nothing is done any more, and memory is given
// back, until the next connection.
func TestSweeperRests(t *testing.T) {
	a, rests := newAuthority(t), make(map[*testPod]chan struct{})
	pod := func() *testPod {
		rested := make(chan struct{}, 1)
		p := newPod(t, a, func(o *Options) {
			sweeps(o)
			o.Resting = func() {
				select {
				case rested <- struct{}{}:
				default:
				}
			}
		})
		rests[p] = rested
		return p
	}
	client, server := pod(), pod()
	destination, accept := collect(t, server.ip)
	for range 3 {
		for _, rested := range rests {
			select {
			case <-rested:
			case <-time.After(patienceForTests):
				t.Fatal("a sweeper does not rest")
			}
		}
		near := client.dial(destination)
		far := accept()
		bothWays(t, near, far)
		// Only a sweeper that was woken has connections park.
		awaitParked(t, client, server)
		// It may have rested once more after the connection before.
		for _, rested := range rests {
			select {
			case <-rested:
			default:
			}
		}
		must.Do(t, near.Close())
		end(t, far)
		all := func(p *pool) int { return len(p.all) }
		eventually(t, "the carriers to end", func() bool {
			client.proxy.carriers.drop()
			return client.count(all)+server.count(all) == 0
		})
	}
}
