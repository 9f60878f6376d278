//go:build linux

package proxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// framed is one end of a carrier, by hand.
type framed struct {
	t testing.TB
	*tls.Conn
	raw    *net.TCPConn
	frames frames
	b      []byte
	// anyGoAway means that next leaves out go-away, which may come at any time.
	anyGoAway bool
}

// send writes frames as one record.
func (f *framed) send(all ...frame) {
	f.t.Helper()
	var b []byte
	for _, one := range all {
		b = appendFrame(b, one.kind, one.payload)
	}
	if _, err := f.Write(b); err != nil {
		f.t.Error(err)
	}
}

// next returns the next frame, or what ended the carrier.
func (f *framed) next() (frame, error) {
	for {
		got, n, err := f.frames.next(f.b)
		if err == nil {
			got.payload = bytes.Clone(got.payload)
			f.b = f.b[n:]
			if got.kind == frameGoAway && f.anyGoAway {
				continue
			}
			return got, nil
		}
		if !errors.Is(err, errShortFrame) {
			return frame{}, err
		}
		more := make([]byte, 4096)
		m, err := f.Read(more)
		if f.b = append(f.b, more[:m]...); m == 0 && err != nil {
			return frame{}, err
		}
	}
}

// want reads frames, which must be these.
func (f *framed) want(all ...frame) {
	f.t.Helper()
	for _, want := range all {
		got, err := f.next()
		if err != nil || got.kind != want.kind || !bytes.Equal(got.payload, want.payload) {
			f.t.Fatalf("got %v %q, %v; want %v %q", got.kind, got.payload, err, want.kind, want.payload)
		}
	}
}

func data(text string) frame     { return frame{frameData, []byte(text)} }
func answered(s status) frame    { return frame{frameStatus, []byte{byte(s)}} }
func headed(h header) frame      { return frame{frameHeader, appendHeader(nil, h)} }
func ending() frame              { return frame{frameEnd, nil} }
func reusing(config *tls.Config) { config.NextProtos = []string{api.ALPNReuse} }
func (pod *testPod) idle() (n int) {
	return pod.count(func(p *pool) int { return p.dialled.order.Len() })
}
func (pod *testPod) waits() (n int) {
	return pod.count(func(p *pool) int { return p.awaiting.order.Len() })
}

func (pod *testPod) count(of func(*pool) int) int {
	p := pod.proxy.carriers
	p.mu.Lock()
	defer p.mu.Unlock()
	return of(p)
}

// visitAndWait visits, and waits until the connection is over for the gateways, so that the next one finds
// what it leaves.
func visitAndWait(t testing.TB, client, server *testPod, destination netip.AddrPort) {
	t.Helper()
	client.visit(destination)
	eventually(t, "the connection to end", func() bool {
		return len(client.proxy.live.snapshot())+len(server.proxy.live.snapshot()) == 0
	})
}

// TestReuse: one connection after the other takes one handshake, and each is counted and logged.
func TestReuse(t *testing.T) {
	client, server := pair(t, nil)
	destination := application(t, server.ip, echo)
	const count = 5
	for range count {
		visitAndWait(t, client, server, destination)
	}
	for name, n := range map[string]api.Direction{"client": client.settled().Outbound, "server": server.settled().Inbound} {
		if n.Encrypted != count || n.Reused != count-1 || n.Refused != 0 {
			t.Errorf("%s counts %+v", name, n)
		}
	}
	eventually(t, "the log", func() bool { return len(client.log.connections(t)) == count })
	var ends []api.TLS
	for i, line := range client.log.connections(t) {
		if line.TLS.Reused != (i > 0) || line.Peer == "" || line.Wire != api.WirePort || line.Sent != 4 {
			t.Errorf("line %d: %+v", i, line)
		}
		ends = append(ends, api.TLS{Local: line.TLS.Local, Remote: line.TLS.Remote})
	}
	if len(ends) != count || len(slices.Compact(ends)) != 1 {
		t.Errorf("the connections were %v", ends)
	}
	if client.idle() != 1 || server.waits() != 1 {
		t.Errorf("%d are idle, %d wait", client.idle(), server.waits())
	}
}

// TestReuseOfEveryKind: whoever speaks first or ends first, and with either end half open, the
// next connection gets its own bytes and no others.
func TestReuseOfEveryKind(t *testing.T) {
	client, server := pair(t, nil)
	destination, accept := collect(t, server.ip)
	kinds := []func(near, far *net.TCPConn){
		func(near, far *net.TCPConn) { // the client ends first
			write(t, near, "one")
			must.Do(t, near.CloseWrite())
			expect(t, far, "one")
			expectEOF(t, far)
			write(t, far, "two")
			hangUp(t, far)
			expect(t, near, "two")
			expectEOF(t, near)
		},
		func(near, far *net.TCPConn) { // the server speaks and ends first
			write(t, far, "three")
			hangUp(t, far)
			expect(t, near, "three")
			expectEOF(t, near)
		},
		func(near, far *net.TCPConn) { // nobody says anything
			must.Do(t, near.CloseWrite())
			expectEOF(t, far)
			hangUp(t, far)
			expectEOF(t, near)
		},
		func(near, far *net.TCPConn) { // much, both ways
			var sending sync.WaitGroup
			for _, end := range []*net.TCPConn{near, far} {
				sending.Go(func() {
					_, err := io.Copy(end, patternReader(7, 3<<20+5))
					if err != nil || end.CloseWrite() != nil {
						t.Error(err)
					}
				})
			}
			for _, end := range []*net.TCPConn{near, far} {
				got, want := must.Get(io.ReadAll(end))(t), must.Get(io.ReadAll(patternReader(7, 3<<20+5)))(t)
				if !bytes.Equal(got, want) {
					t.Errorf("%d bytes came, not those that were sent", len(got))
				}
			}
			sending.Wait()
		},
	}
	for range 3 {
		for _, kind := range kinds {
			near := client.dial(destination)
			far := accept()
			kind(near, far)
			hangUp(t, near)
			_ = far.Close()
			eventually(t, "the connection to end", func() bool {
				return len(client.proxy.live.snapshot())+len(server.proxy.live.snapshot()) == 0
			})
		}
	}
	if n := client.settled().Outbound; n.Reused != uint64(3*len(kinds)-1) {
		t.Errorf("counted %+v", n)
	}
}

// TestAbortEndsCarrier: a RST of the application reaches the other one, and the next connection does not
// see anything of it.
func TestAbortEndsCarrier(t *testing.T) {
	client, server := pair(t, nil)
	destination, accept := collect(t, server.ip)
	for range 5 {
		for _, who := range []int{0, 1} {
			near := client.dial(destination)
			ends := []*net.TCPConn{near, accept()}
			write(t, near, "x")
			expect(t, ends[1], "x")
			reset(ends[who])
			expectReset(t, ends[1-who])
		}
	}
	eventually(t, "the connections to end", func() bool { return len(client.proxy.live.snapshot()) == 0 })
	if n := client.settled().Outbound; n.Encrypted != 10 || n.Reused != 0 {
		t.Errorf("counted %+v", n)
	}
}

// reusingPeer is a gateway by hand at ip, which serves each carrier.
func reusingPeer(t testing.TB, a *authority, ip netip.Addr, serve func(number int, f *framed)) *atomic.Int64 {
	t.Helper()
	config := &tls.Config{
		Certificates: []tls.Certificate{a.issue(t, []netip.Addr{ip}, nil)},
		ClientCAs:    a.pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{api.ALPNReuse},
	}
	var carriers atomic.Int64
	applicationAt(t, listen(t, netip.AddrPortFrom(ip, api.PeerPort)), func(conn *net.TCPConn) {
		_ = conn.SetDeadline(time.Now().Add(patienceForTests))
		serve(int(carriers.Add(1)), &framed{t: t, Conn: tls.Server(conn, config), raw: conn})
	})
	return &carriers
}

// answerOne serves a connection that says ping and ends.
func (f *framed) answerOne() {
	if got, err := f.next(); err != nil || got.kind != frameHeader {
		f.t.Errorf("got %v, %v", got.kind, err)
		return
	}
	f.send(answered(statusOK))
	f.want(data("ping"))
	f.send(data("pong"))
	f.want(ending())
	f.send(ending())
}

// pong asks for what answerOne says.
func (pod *testPod) pong(destination netip.AddrPort) {
	pod.t.Helper()
	conn := pod.dial(destination)
	write(pod.t, conn, "ping")
	expect(pod.t, conn, "pong")
	end(pod.t, conn)
	hangUp(pod.t, conn)
	eventually(pod.t, "the connection to end", func() bool { return len(pod.proxy.live.snapshot()) == 0 })
}

// TestGoAway: the dialling side closes an idle carrier when it is asked to, and one in use after its
// connection. The next connection gets another one.
func TestGoAway(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	ip := podAddress()
	carriers := reusingPeer(t, a, ip, func(number int, f *framed) {
		if number == 2 {
			got, err := f.next()
			if err != nil || got.kind != frameHeader {
				t.Errorf("got %v, %v", got.kind, err)
			}
			f.send(frame{frameGoAway, nil})
			f.send(answered(statusOK))
			f.want(data("ping"))
			f.send(data("pong"))
			f.want(ending())
			f.send(ending())
		} else {
			f.answerOne()
		}
		if number == 1 {
			f.send(frame{frameGoAway, nil})
		}
		if number < 3 {
			if got, err := f.next(); err != io.EOF {
				t.Errorf("carrier %d: got %v, %v; want its end", number, got.kind, err)
			}
			return
		}
		f.answerOne()
		_, _ = f.next()
	})
	destination := netip.AddrPortFrom(ip, 80)
	client.pong(destination)
	eventually(t, "the carrier to end", func() bool { return client.idle() == 0 })
	client.pong(destination)
	client.pong(destination)
	client.pong(destination)
	eventually(t, "the second carrier to end", func() bool { return client.count(func(p *pool) int { return len(p.all) }) <= 1 })
	if n := carriers.Load(); n != 3 {
		t.Errorf("%d carriers", n)
	}
	if n := client.settled().Outbound; n.Encrypted != 4 || n.Reused != 1 || n.Refused != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestPeerAsksForAnotherTry: what the peer says that it has not started is carried by a connection of
// its own, with all that the application has sent, its end included.
func TestPeerAsksForAnotherTry(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	ip := podAddress()
	carriers := reusingPeer(t, a, ip, func(number int, f *framed) {
		f.answerOne()
		if number == 1 {
			if got, err := f.next(); err != nil || got.kind != frameHeader {
				t.Errorf("got %v, %v", got.kind, err)
			}
			f.want(data("ping"), ending())
			f.send(answered(statusAgain))
			_ = f.CloseWrite()
		}
		// It is the other side that closes.
		_, _ = io.Copy(io.Discard, f.raw)
	})
	destination := netip.AddrPortFrom(ip, 80)
	client.pong(destination)
	conn := client.dial(destination)
	write(t, conn, "ping")
	must.Do(t, conn.CloseWrite())
	expect(t, conn, "pong")
	expectEOF(t, conn)
	hangUp(t, conn)
	line := client.logged("the connection", func(c api.Connection) bool { return c.Source == addrPort(conn.LocalAddr()) })
	if !line.Encrypted || line.TLS.Reused || line.Reason != "" || line.Error != "" || line.Sent != 4 || line.Received != 4 {
		t.Errorf("logged %+v", line)
	}
	if n := client.settled().Outbound; carriers.Load() != 2 || n.Encrypted != 2 || n.Reused != 0 || n.Sent != 8 || n.Refused != 0 {
		t.Errorf("%d carriers, counted %+v", carriers.Load(), n)
	}
}

// TestPeerAsksForeverIsRefused: there is an end to asking, and no plaintext.
func TestPeerAsksForeverIsRefused(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	ip := podAddress()
	carriers := reusingPeer(t, a, ip, func(_ int, f *framed) {
		if _, err := f.next(); err == nil {
			f.send(answered(statusAgain))
			_ = f.CloseWrite()
		}
		_, _ = io.Copy(io.Discard, f.raw)
	})
	destination := netip.AddrPortFrom(ip, 80)
	client.dialReset(destination)
	client.unencrypted(destination, traffic.PeerReset)
	if n := client.settled().Outbound; carriers.Load() != maxAttempts+1 || n.Refused != 1 || n.Encrypted+n.Plaintext != 0 {
		t.Errorf("%d carriers, counted %+v", carriers.Load(), n)
	}
}

// TestHeardIsNotRepeated: a peer that has got the header and ends may have acted on it, and the
// application is told.
func TestHeardIsNotRepeated(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	ip := podAddress()
	var headers atomic.Int64
	carriers := reusingPeer(t, a, ip, func(_ int, f *framed) {
		f.answerOne()
		if _, err := f.next(); err == nil {
			headers.Add(1)
		}
		// What was read is acknowledged at the latest after the delay of an ACK.
		eventually(t, "the ACK", func() bool { return unackedBy(t, client) == 0 })
		reset(f.raw)
	})
	destination := netip.AddrPortFrom(ip, 80)
	client.pong(destination)
	conn := client.dial(destination)
	write(t, conn, "ping")
	expectReset(t, conn)
	client.logged("the connection", func(c api.Connection) bool { return strings.Contains(c.Error, "reset by peer") && c.TLS.Reused })
	if carriers.Load() != 1 || headers.Load() != 1 {
		t.Errorf("%d carriers, %d headers", carriers.Load(), headers.Load())
	}
}

// unackedBy returns how much of the connections to peers is unacknowledged.
func unackedBy(t testing.TB, pod *testPod) (n uint64) {
	for _, c := range pod.proxy.live.snapshot() {
		if k := c.carrier.Load(); k != nil {
			n += 1 + k.records.written() - must.Get(ackedBytes(k.conn))(t)
		}
	}
	return n
}

// TestUnexpectedFrames: a peer that does not keep to the protocol ends the connection, on either side.
func TestUnexpectedFrames(t *testing.T) {
	for name, all := range map[string][]frame{
		"data before the status": {data("x")},
		"end before the status":  {ending()},
		"two statuses":           {answered(statusOK), answered(statusOK)},
		"data after the end":     {answered(statusOK), ending(), data("x")},
		"a header":               {headed(sixHeader())},
		"a status of its own":    {answered(statusOK), ending(), answered(statusOK)},
	} {
		t.Run("from the accepting side: "+name, func(t *testing.T) {
			a := newAuthority(t)
			client := newPod(t, a, nil)
			ip := podAddress()
			reusingPeer(t, a, ip, func(_ int, f *framed) {
				if _, err := f.next(); err == nil {
					f.send(all...)
				}
				_, _ = io.Copy(io.Discard, f.raw)
			})
			conn, err := client.tryDial(netip.AddrPortFrom(ip, 80))
			if err == nil {
				defer conn.Close()
				_, err = io.Copy(io.Discard, conn)
			}
			clean := slices.ContainsFunc(all, func(f frame) bool { return f.kind == frameEnd }) && all[0].kind == frameStatus
			if !clean && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v; want a RST", err)
			}
			client.logged("the error", func(c api.Connection) bool { return strings.Contains(c.Error, errUnexpected.Error()) })
		})
	}
	a := newAuthority(t)
	server := newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	for name, first := range map[string][]frame{
		"data first":    {data("x")},
		"an end first":  {ending()},
		"a status":      {answered(statusOK)},
		"two headers":   nil,
		"broken header": {{frameHeader, []byte{0, 1, 1}}},
	} {
		t.Run("from the dialling side: "+name, func(t *testing.T) {
			s := newStranger(t, a, server)
			f := s.framed(server)
			h := headed(header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)})
			if first == nil {
				first = []frame{h, h}
			}
			f.send(first...)
			for {
				if got, err := f.next(); err != nil {
					break
				} else if got.kind == frameData {
					t.Errorf("got %q", got.payload)
				}
			}
		})
	}
}

// framed opens a carrier to the gateway of server.
func (s *stranger) framed(server *testPod) *framed {
	s.t.Helper()
	reusing(s.config)
	raw := s.dial(server)
	return &framed{t: s.t, Conn: tls.Client(raw, s.config), raw: raw}
}

// TestEveryHeaderIsChecked: what has changed since the peer connected counts for the next header,
// without a new handshake.
func TestEveryHeaderIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, server *testPod, c *clock)
		// head changes the header.
		head   func(*header)
		answer status
		reason traffic.Reason
	}{
		"nothing": {answer: statusOK},
		"a rule": {answer: statusNotAllowed, reason: traffic.IdentityNotAllowed, change: func(t *testing.T, server *testPod, _ *clock) {
			config := *server.options.Config
			config.Rules = api.Rules{Deny: []string{"ns/default/sa/app"}}
			must.Do(t, server.proxy.Update(&config, server.options.Certificate, server.options.Roots))
		}},
		"a rule that allows": {answer: statusOK, change: func(t *testing.T, server *testPod, _ *clock) {
			config := *server.options.Config
			config.Rules = api.Rules{Allow: []string{"ns/default/sa/app"}}
			must.Do(t, server.proxy.Update(&config, server.options.Certificate, server.options.Roots))
		}},
		"the trust": {answer: statusAgain, reason: traffic.NoHandshake, change: func(t *testing.T, server *testPod, _ *clock) {
			must.Do(t, server.proxy.Update(server.options.Config, server.options.Certificate, newAuthority(t).pool))
		}},
		"the time": {answer: statusAgain, reason: traffic.ClientExpired, change: func(_ *testing.T, _ *testPod, c *clock) { c.advance(2 * time.Hour) }},
		"the client": {answer: statusNotAllowed, reason: traffic.Forbidden, head: func(h *header) {
			h.Client = netip.AddrPortFrom(podAddress(), 4000)
		}},
		"the pod": {answer: statusNotAllowed, reason: traffic.Forbidden, head: func(h *header) {
			h.Destination = netip.AddrPortFrom(podAddress(), h.Destination.Port())
		}},
		"the gateway": {answer: statusNotAllowed, reason: traffic.Forbidden, head: func(h *header) {
			h.Destination = netip.AddrPortFrom(h.Destination.Addr(), api.PeerPort)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a, clock := newAuthority(t), &clock{}
			server := newPod(t, a, func(o *Options) { o.now = clock.now })
			s := newStranger(t, a, server)
			h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}
			f := s.framed(server)
			f.send(headed(h), data("ping"), ending())
			f.want(answered(statusOK), data("ping"), ending())
			eventually(t, "the carrier to wait", func() bool { return server.waits() == 1 })
			if c.change != nil {
				c.change(t, server, clock)
			}
			if c.head != nil {
				c.head(&h)
			}
			f.send(headed(h), data("ping"), ending())
			f.anyGoAway = true
			f.want(answered(c.answer))
			if c.answer == statusOK {
				f.want(data("ping"), ending())
				return
			}
			if got, err := f.next(); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, %v after the refusal", got.kind, err)
			}
			server.logged("the refusal", func(l api.Connection) bool { return l.Reason == c.reason.String() })
			if n := server.settled().Inbound; n.Encrypted != 1 || n.Refused != 1 {
				t.Errorf("counted %+v", n)
			}
		})
	}
}

// TestOneHeaderMayCross: after go-away the accepting side serves a header that was under way, and no
// other.
func TestOneHeaderMayCross(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.DrainTimeout = patienceForTests })
	s := newStranger(t, a, server)
	h := headed(header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)})
	f := s.framed(server)
	f.send(h, data("ping"), ending())
	f.want(answered(statusOK), data("ping"), ending())
	eventually(t, "the carrier to wait", func() bool { return server.waits() == 1 })
	stopped := make(chan struct{})
	go func() { server.stop(); close(stopped) }()
	f.want(frame{frameGoAway, nil})
	f.send(h, data("ping"))
	f.want(answered(statusOK), data("ping"))
	// It may take as long as it likes.
	time.Sleep(goAwayTimeout + 100*time.Millisecond)
	f.send(data("more"), ending())
	f.want(data("more"), ending())
	// There is an end to it.
	for range 3 {
		if _, err := f.Write(appendFrame(appendFrame(nil, h.kind, h.payload), frameEnd, nil)); err != nil {
			break
		}
	}
	served := 2
	for got, err := f.next(); err == nil; got, err = f.next() {
		if got.kind == frameStatus {
			served++
		}
	}
	<-stopped
	if n := server.proxy.options.Counters; served > 4 || n.Ended.Load() != uint64(served) || n.Aborted.Load() != 0 {
		t.Errorf("%d served, %d ended, %d aborted", served, n.Ended.Load(), n.Aborted.Load())
	}
}

// TestDrainDoesNotWaitForever: a peer that does not react to go-away cannot hold up the end.
func TestDrainDoesNotWaitForever(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.DrainTimeout = time.Hour })
	s := newStranger(t, a, server)
	f := s.framed(server)
	f.send(headed(header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4000)}), ending())
	f.want(answered(statusOK), ending())
	eventually(t, "the carrier to wait", func() bool { return server.waits() == 1 })
	server.stop()
	f.want(frame{frameGoAway, nil})
	if got, err := f.next(); err != io.EOF {
		t.Errorf("got %v, %v; want the end", got.kind, err)
	}
}

// TestHandOverUnderTraffic: while connections come and go a gateway ends, and another one goes on at the
// same port. No connection notices, and none is repeated.
func TestHandOverUnderTraffic(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	ip := podAddress()
	certificate := a.issue(t, []netip.Addr{ip}, nil)
	start := func() *testPod {
		return newPodAt(t, a, ip, podAddress(), func(o *Options) {
			o.Peer, o.Certificate, o.DrainTimeout = listenShared(t, netip.AddrPortFrom(ip, api.PeerPort)), certificate, patienceForTests
		})
	}
	var reached, visits atomic.Int64
	destination := application(t, ip, func(conn *net.TCPConn) { reached.Add(1); echo(conn) })
	server := start()
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := tryPing(client, destination); err != nil {
					t.Errorf("connection %d: %v", visits.Load(), err)
					return
				}
				visits.Add(1)
			}
		})
	}
	rounds := 6
	if raceEnabled {
		rounds = 3
	}
	for range rounds {
		before := visits.Load()
		eventually(t, "traffic", func() bool { return visits.Load() > before+200 || t.Failed() })
		next := start()
		server.stop()
		if n := server.proxy.options.Counters; n.Aborted.Load() != 0 {
			t.Errorf("%d of %d were aborted", n.Aborted.Load(), n.Ended.Load())
		}
		server = next
	}
	close(stop)
	workers.Wait()
	n := client.settled().Outbound
	t.Logf("%d connections, %d reused", n.Encrypted, n.Reused)
	if reached.Load() != visits.Load() || n.Encrypted != uint64(visits.Load()) || n.Reused == 0 || n.Refused != 0 {
		t.Errorf("%d visits, the application was reached %d times, counted %+v", visits.Load(), reached.Load(), n)
	}
}

// tryPing is one short connection.
func tryPing(pod *testPod, destination netip.AddrPort) error {
	conn, err := pod.tryDial(destination)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
		return fmt.Errorf("%q: %w", got, err)
	}
	return nil
}

// TestUpdatesUnderTraffic: settings change at both ends while connections come and go, and none notices.
func TestUpdatesUnderTraffic(t *testing.T) {
	client, server := pair(t, nil)
	destination := application(t, server.ip, echo)
	stop := make(chan struct{})
	var workers sync.WaitGroup
	var visits atomic.Int64
	for range 4 {
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := tryPing(client, destination); err != nil {
					t.Error(err)
					return
				}
				visits.Add(1)
			}
		})
	}
	for i := range 20 {
		before := visits.Load()
		eventually(t, "traffic", func() bool { return visits.Load() > before+20 || t.Failed() })
		pod := []*testPod{client, server}[i%2]
		must.Do(t, pod.proxy.Update(pod.options.Config, pod.options.Certificate, pod.options.Roots))
	}
	close(stop)
	workers.Wait()
	if n := client.settled().Outbound; n.Refused != 0 || n.Reused == 0 || n.Encrypted != uint64(visits.Load()) {
		t.Errorf("%d visits, counted %+v", visits.Load(), n)
	}
}

// TestSettingsEndCarriers: a change at either end ends what is idle.
func TestSettingsEndCarriers(t *testing.T) {
	client, server := pair(t, nil)
	destination := application(t, server.ip, echo)
	for _, pod := range []*testPod{client, server} {
		visitAndWait(t, client, server, destination)
		begin := time.Now()
		must.Do(t, pod.proxy.Update(pod.options.Config, pod.options.Certificate, pod.options.Roots))
		eventually(t, "the carrier to end at both ends", func() bool {
			all := func(p *pool) int { return len(p.all) }
			return client.count(all)+server.count(all) == 0
		})
		if took := time.Since(begin); took >= idleTimeout-sweepInterval {
			t.Errorf("the carrier ended after %v, because it was idle", took)
		}
	}
	visitAndWait(t, client, server, destination)
	if n := client.settled().Outbound; n.Encrypted != 3 || n.Reused != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestCertificateOfIdleCarrierExpires: a carrier is worth no more than the certificate of the peer.
func TestCertificateOfIdleCarrierExpires(t *testing.T) {
	c := &clock{}
	a := newAuthority(t)
	client := newPod(t, a, func(o *Options) {
		o.now = c.now
		o.Certificate = a.issue(t, o.Config.PodIPs, func(l *x509.Certificate) { l.NotAfter = time.Now().Add(100 * time.Hour) })
	})
	server := newPod(t, a, nil)
	destination := application(t, server.ip, echo)
	visitAndWait(t, client, server, destination)
	c.advance(2 * time.Hour)
	client.dialReset(destination)
	client.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.PeerExpired.String() })
	if client.idle() != 0 {
		t.Error("the carrier is still there")
	}
}

// TestCarriersGoFirst: where memory is scarce, idle carriers are given up at either end.
func TestCarriersGoFirst(t *testing.T) {
	near, far := newTestMemory(t), newTestMemory(t)
	for name, scarce := range map[string]*testMemory{"client": near, "server": far} {
		t.Run(name, func(t *testing.T) {
			near.lift()
			far.lift()
			a := newAuthority(t)
			client, server := newPod(t, a, near.budget), newPod(t, a, far.budget)
			destination := application(t, server.ip, echo)
			visitAndWait(t, client, server, destination)
			if client.idle() != 1 {
				t.Fatalf("%d are idle", client.idle())
			}
			scarce.left(8 * mebi)
			for _, pod := range []*testPod{client, server} {
				pod.proxy.FitMemory()
			}
			eventually(t, "the carrier to end at both ends", func() bool {
				all := func(p *pool) int { return len(p.all) }
				return client.count(all)+server.count(all) == 0
			})
			scarce.lift()
		})
	}
}

// TestIdleSet compares the set with a simple model.
func TestIdleSet(t *testing.T) {
	const total, perPeer = 7, 3
	s := newIdleSet(total, perPeer)
	now := time.Now()
	peers := make([]route, 4)
	for i := range peers {
		// Two to each address.
		peers[i].to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i / 2)}), 1)
		if i%2 == 1 {
			peers[i].from = netip.AddrFrom4([4]byte{10, 0, 1, 1})
		}
	}
	var model []*carrier // the oldest first
	of := func(peer route) (all []*carrier) {
		for _, k := range model {
			if k.route == peer {
				all = append(all, k)
			}
		}
		return all
	}
	drop := func(k *carrier) { model = slices.DeleteFunc(model, func(other *carrier) bool { return other == k }) }
	random := uint32(1)
	next := func(n int) int {
		random = random*1664525 + 1013904223
		return int(random>>16) % n
	}
	for i := range 20000 {
		now = now.Add(time.Second)
		peer := peers[next(len(peers))]
		switch next(6) {
		case 0:
			var want *carrier
			if own := of(peer); len(own) > 0 {
				want = own[len(own)-1]
				drop(want)
			}
			if got := s.latest(peer); got != want {
				t.Fatalf("step %d: the latest is %p, want %p", i, got, want)
			}
		case 1:
			if len(model) > 0 {
				k := model[next(len(model))]
				drop(k)
				if !s.remove(k) || s.remove(k) {
					t.Fatalf("step %d: removed nothing, or twice", i)
				}
			}
		case 2:
			limit := now.Add(-time.Duration(next(30)) * time.Second)
			var want []*carrier
			for len(model) > 0 && model[0].idleSince.Before(limit) {
				want = append(want, model[0])
				model = model[1:]
			}
			if got := s.before(limit); !slices.Equal(got, want) {
				t.Fatalf("step %d: %d were old, want %d", i, len(got), len(want))
			}
		default:
			k := &carrier{route: peer}
			model = append(model, k)
			var want []*carrier
			if own := of(peer); len(own) > perPeer {
				want = append(want, own[0])
				drop(own[0])
			}
			if len(model) > total {
				want = append(want, model[0])
				model = slices.Clone(model[1:])
			}
			if got := s.add(k, now); !slices.Equal(got, want) {
				t.Fatalf("step %d: %d must go, want %d", i, len(got), len(want))
			}
		}
		if s.order.Len() != len(model) {
			t.Fatalf("step %d: %d are held, want %d", i, s.order.Len(), len(model))
		}
	}
	s.clear()
	if s.order.Len() != 0 || len(s.peers) != 0 {
		t.Errorf("%d are left, of %d peers", s.order.Len(), len(s.peers))
	}
}

// TestIdleCarriersAreBounded: of many connections at a time, no more carriers stay than the bounds allow,
// at either end, and they go after a while.
func TestIdleCarriersAreBounded(t *testing.T) {
	client, server := pair(t, nil)
	destination, accept := collect(t, server.ip)
	const count = maxIdlePerPeer + 20
	var ends []*net.TCPConn
	for range count {
		ends = append(ends, client.dial(destination), accept())
	}
	for _, conn := range ends {
		must.Do(t, conn.CloseWrite())
	}
	for _, conn := range ends {
		expectEOF(t, conn)
		hangUp(t, conn)
	}
	eventually(t, "the rest to end at both ends", func() bool {
		all := func(p *pool) int { return len(p.all) }
		return client.count(all) == maxIdlePerPeer && server.count(all) == maxIdlePerPeer && client.idle() == maxIdlePerPeer
	})
	server.proxy.carriers.bound(10)
	eventually(t, "the bound of the accepting side", func() bool { return server.waits() == 10 && client.idle() == 10 })
	client.proxy.carriers.expire(time.Now().Add(idleTimeout + time.Second))
	eventually(t, "the end of what is idle for long", func() bool {
		all := func(p *pool) int { return len(p.all) }
		return client.count(all)+server.count(all) == 0
	})
	server.proxy.begun.mu.Lock()
	defer server.proxy.begun.mu.Unlock()
	if n := len(server.proxy.begun.by); n != 0 {
		t.Errorf("%d connections are remembered as begun", n)
	}
}

// TestIdlePeerIsAskedToClose: the accepting side does not keep idle carriers forever.
func TestIdlePeerIsAskedToClose(t *testing.T) {
	client, server := pair(t, nil)
	visitAndWait(t, client, server, application(t, server.ip, echo))
	server.proxy.carriers.expire(time.Now().Add(awaitTimeout + time.Second))
	eventually(t, "the carrier to end at both ends", func() bool {
		all := func(p *pool) int { return len(p.all) }
		return client.count(all)+server.count(all) == 0
	})
}

// inboundRules runs the test in a network namespace of its own, and returns there what changes its rules, of
// which the chain is "inet t in". It returns nil where the test has run by then.
func inboundRules(t *testing.T) (nft func(rules string)) {
	t.Helper()
	if os.Getenv("PROXY_TEST_CHILD") != t.Name() {
		runInNamespace(t, "nft")
		return nil
	}
	loopbackUp(t)
	nft = func(rules string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "nft", rules).CombinedOutput(); err != nil {
			t.Fatalf("nft: %v: %s", err, out)
		}
	}
	nft("add table inet t; add chain inet t in { type filter hook input priority 0; }")
	return nft
}

// TestSilentDeath runs in a network namespace of its own. The peer of an idle carrier is gone without a
// word, and another one has its address: the next connection finds that one, with the data that the application has sent,
// once.
func TestSilentDeath(t *testing.T) {
	nft := inboundRules(t)
	if nft == nil {
		return
	}
	t.Run("pod", func(t *testing.T) {
		client, server := pair(t, nil)
		var reached atomic.Int64
		silentDeath(t, nft, client, server, &reached, application(t, server.ip, func(conn *net.TCPConn) { reached.Add(1); echo(conn) }))
		if n := client.settled().Outbound; n.Refused+n.Plaintext != 0 || n.Encrypted != 4 {
			t.Errorf("counted %+v", n)
		}
	})
	// Another pod of a Service would not know what has been begun.
	t.Run("service", func(t *testing.T) {
		client, server, b := backendPair(t, nil)
		var reached atomic.Int64
		destination := applicationAt(t, b.behind(t, server.ip), func(conn *net.TCPConn) { reached.Add(1); echo(conn) })
		client.backendKnown(destination)
		silentDeath(t, nft, client, server, &reached, destination)
		if n := client.settled().Outbound; n.Refused+n.Plaintext != 0 || n.Encrypted != 5 || n.Inband != 1 {
			t.Errorf("counted %+v", n)
		}
	})
}

func silentDeath(t *testing.T, nft func(string), client, server *testPod, reached *atomic.Int64, destination netip.AddrPort) {
	t.Helper()
	// again makes a carrier, has something happen to it, and expects the next connection to work.
	again := func(happen func(port uint16)) {
		t.Helper()
		server.proxy.carriers.drop()
		eventually(t, "no carrier", func() bool { return client.count(func(p *pool) int { return len(p.all) }) == 0 })
		logged := len(client.log.connections(t))
		visitAndWait(t, client, server, destination)
		var all []api.Connection
		eventually(t, "the log", func() bool { all = client.log.connections(t); return len(all) > logged })
		before := reached.Load()
		happen(all[len(all)-1].TLS.Local.Port())
		conn := client.dial(destination)
		exchange(t, conn, "hello")
		end(t, conn)
		line := client.logged("the connection", func(c api.Connection) bool { return c.Source == addrPort(conn.LocalAddr()) })
		if line.TLS.Reused || line.Sent != 5 || line.Received != 5 || line.Reason+line.Error != "" {
			t.Errorf("logged %+v", line)
		}
		if n := reached.Load() - before; n != 1 {
			t.Errorf("the application was reached %d times", n)
		}
	}
	// Nothing of it arrives any more.
	again(func(port uint16) {
		nft(fmt.Sprintf("add rule inet t in tcp sport %d drop; add rule inet t in tcp dport %d drop", port, port))
	})
	nft("flush chain inet t in")
	// The peer's kernel does not know the connection, and says so.
	again(func(port uint16) {
		nft(fmt.Sprintf("add rule inet t in tcp dport %d drop", port))
		server.proxy.carriers.abort()
		eventually(t, "the peer's end to go", func() bool { return server.count(func(p *pool) int { return len(p.all) }) == 0 })
		nft("flush chain inet t in")
	})
}

// TestCarriedOnce runs in a network namespace of its own. A peer gets what is sent, and nothing that it
// says arrives: whether the way to it is broken for that connection alone or for all, no application gets
// the same data twice.
func TestCarriedOnce(t *testing.T) {
	nft := inboundRules(t)
	if nft == nil {
		return
	}
	for name, broken := range map[string]func(server *testPod, port uint16) string{
		"one connection": func(_ *testPod, port uint16) string {
			return fmt.Sprintf("add rule inet t in tcp sport %d tcp dport %d drop", api.PeerPort, port)
		},
		"all": func(server *testPod, _ uint16) string {
			return fmt.Sprintf("add rule inet t in ip saddr %v drop", server.ip)
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t, permissive)
			var reached atomic.Int64
			destination := application(t, server.ip, func(conn *net.TCPConn) {
				reached.Add(1)
				echo(conn)
			})
			visitAndWait(t, client, server, destination)
			var all []api.Connection
			eventually(t, "the log", func() bool { all = client.log.connections(t); return len(all) == 1 })
			reached.Store(0)
			nft(broken(server, all[0].TLS.Local.Port()))
			conn := client.dial(destination)
			t.Cleanup(func() { reset(conn) })
			write(t, conn, "hello")
			expectReset(t, conn)
			nft("flush chain inet t in")
			eventually(t, "the peer's end to go", func() bool { return server.proxy.Traffic().Inbound.Active == 0 })
			eventually(t, "the application to be reached", func() bool { return reached.Load() > 0 })
			if n := reached.Load(); n != 1 {
				t.Errorf("the application was reached %d times", n)
			}
			line := client.logged("the connection", func(c api.Connection) bool { return c.Source == addrPort(conn.LocalAddr()) })
			if line.Reason != traffic.PeerLost.String() || line.Received != 0 {
				t.Errorf("logged %+v", line)
			}
		})
	}
}
