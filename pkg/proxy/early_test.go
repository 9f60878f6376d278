//go:build linux

package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// waitingInband starts two pods with gateways. What applications of the client connect to goes in band, and they wait.
func waitingInband(t *testing.T, change func(*Options)) (client, server *testPod, gate *testGate, b *testBand) {
	t.Helper()
	a := newAuthority(t)
	b = newBand()
	server = newPod(t, a, func(o *Options) {
		inBand(o, b)
		if change != nil {
			change(o)
		}
	})
	client, gate = waitingPod(t, a, func(o *Options) {
		o.Sockets.(*testSockets).band = b
		if change != nil {
			o.Config.Mode = server.options.Config.Mode
		}
	})
	return client, server, gate, b
}

// In band, too, connect(2) fails where the other gateway does not let the client in, or nobody listens there.
func TestEarlyRefusal(t *testing.T) {
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		for name, c := range map[string]struct {
			rules  api.Rules
			closed bool
			reason traffic.Reason
		}{
			"identity":    {api.Rules{Deny: []string{"ns/default/sa/*"}}, false, traffic.PeerNotAllowed},
			"closed port": {api.Rules{}, true, traffic.ApplicationRefused},
		} {
			t.Run(string(mode)+"/"+name, func(t *testing.T) {
				client, server, gate, b := waitingInband(t, func(o *Options) { o.Config.Mode, o.Config.Rules = mode, c.rules })
				l := b.behind(t, server.ip)
				destination := addrPort(l.Addr())
				if c.closed {
					// The programs have seen a listener that is gone when the gateway dials it.
					destination = closedPort(t, server.ip)
					b.forward(t, listen(t, destination))
					b.steered.Store(destination, nil)
					server.sockets.presentErr.Store(refusing())
				}
				client.connect(gate, destination, false).refused(syscall.ECONNREFUSED)
				if gate.noted(destination) {
					t.Error("the destination counts as one that works")
				}
				line := client.logged("the refusal", func(l api.Connection) bool { return l.Destination == destination })
				if line.Reason != c.reason.String() || line.Wire != api.WireInband || line.Sent != 0 {
					t.Errorf("logged %+v", line)
				}
				if got := client.settled().Outbound; got.Plaintext != 0 || got.Sent != 0 {
					t.Errorf("counted %+v", got)
				}
			})
		}
	}
}

func refusing() *error {
	err := error(syscall.ECONNREFUSED)
	return &err
}

// A full backlog gives no answer, and the application's kernel asks again.
func TestEarlyFullBacklog(t *testing.T) {
	client, server, gate, b := waitingInband(t, func(o *Options) { permissive(o); o.LocalTimeout = 200 * time.Millisecond })
	l := b.behind(t, server.ip)
	fill(t, l)
	a := client.connect(gate, addrPort(l.Addr()), false)
	line := client.logged("the first try", func(api.Connection) bool { return true })
	if line.Reason != traffic.PeerApplicationUnreachable.String() || line.Wire != api.WireInband {
		t.Errorf("logged %+v", line)
	}
	eventually(t, "the end of the first try", func() bool { return client.proxy.waiters.count.Load() == 0 })
	select {
	case o := <-a.ended:
		t.Fatalf("connect: %v", o.err)
	default:
	}
	applicationAt(t, l, echo)
	for len(a.ended) == 0 {
		refused := server.settled().Inbound.Refused
		a.send()
		eventually(t, "the end of a try", func() bool {
			return len(a.ended) > 0 || server.proxy.Traffic().Inbound.Refused > refused && client.proxy.waiters.count.Load() == 0
		})
	}
	conn := a.connected()
	exchange(t, conn, "hello")
	end(t, conn)
	if got := client.settled().Outbound; got.Plaintext != 0 || got.Sent != 5 || got.Received != 5 {
		t.Errorf("counted %+v", got)
	}
}

// fill leaves l no room in its backlog until somebody accepts.
func fill(t *testing.T, l net.Listener) {
	t.Helper()
	if err := onSocket(l.(*net.TCPListener), func(fd int) error { return unix.Listen(fd, 0) }); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		if err := unix.Connect(fd, toSockaddr(addrPort(l.Addr()))); err != nil && err != unix.EINPROGRESS {
			t.Fatal(err)
		}
	}
}

// connect(2) of an application that the other end speaks to first succeeds with what it says.
func TestEarlyAnswerTakesDataAlong(t *testing.T) {
	client, server, gate, b := waitingInband(t, nil)
	silent, talkative := applicationAt(t, b.behind(t, server.ip), echo), applicationAt(t, b.behind(t, server.ip), welcome)
	for range 2 {
		conn := client.connect(gate, silent, false).connected()
		exchange(t, conn, "hello")
		end(t, conn)
		conn = client.connect(gate, talkative, false).connected()
		expect(t, conn, "welcome")
		exchange(t, conn, "hello")
		end(t, conn)
	}
	got := client.settled().Outbound
	if got.Encrypted != 4 || got.Inband != 4 || got.Refused != 0 || got.Sent != 20 || got.Received != 34 {
		t.Errorf("counted %+v", got)
	}
	if !gate.noted(silent) || !gate.noted(talkative) {
		t.Error("the destinations do not count as ones that work")
	}
}

// A gateway of the last release answers with the application's first data, and is not waited for.
func TestEarlyPeerIsOld(t *testing.T) {
	a, ip := newAuthority(t), podAddress()
	client, gate := waitingPod(t, a, func(o *Options) {
		o.Sockets.(*testSockets).band = newBand()
		o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
	})
	var asked atomic.Bool
	destination := inbandImpostor(t, a, client, ip, nil, func(c *tls.Conn, raw *net.TCPConn) {
		b := make([]byte, 1024)
		n, _ := c.Read(b)
		h, size, err := parseHeader(b[:n])
		asked.Store(err != nil || h.Waits)
		for rest := n - size; rest < len("hello"); rest += n {
			if n, err = c.Read(b); err != nil {
				return
			}
		}
		_, _ = c.Write(append([]byte{byte(statusOK)}, "world"...))
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	conn := client.connect(gate, destination, false).connected()
	write(t, conn, "hello")
	expect(t, conn, "world")
	end(t, conn)
	if got := client.settled().Outbound; got.Inband != 1 || got.Refused != 0 || asked.Load() {
		t.Errorf("counted %+v, asked: %v", got, asked.Load())
	}
}

// A client that does not wait, as none of the last release does, gets its answer with the application's first data, in
// one record.
func TestEarlyClientDoesNotWait(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) { inBand(o, b) })
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	for _, protocols := range [][]string{{api.ALPN}, {api.ALPNFrames, api.ALPN}} {
		s := newStranger(t, a, server)
		s.from, s.at, s.config.NextProtos = b.mark, destination, protocols
		conn := tls.Client(s.dial(server), s.config)
		write(t, conn, string(appendHeader(nil, header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)})))
		eventually(t, "the connection", func() bool { return server.proxy.Traffic().Inbound.Active == 1 })
		said := "hello"
		if protocols[0] == api.ALPNFrames {
			said = string(appendFrame(nil, frameData, []byte("hello")))
		}
		write(t, conn, said)
		var got [64]byte
		if n, err := conn.Read(got[:]); err != nil || string(got[:n]) != string(rune(statusOK))+said {
			t.Errorf("%v: read %q, %v", protocols, got[:n], err)
		}
		if got := conn.ConnectionState().NegotiatedProtocol; got != protocols[0] {
			t.Errorf("negotiated %s of %v", got, protocols)
		}
		hangUp(t, conn)
		server.settled()
	}
}

// Where the other gateway ends before its answer, connect(2) gets none, and the next try succeeds. What is said before an
// answer is nothing, so that nothing is said twice or in plaintext.
func TestEarlyPeerIsLost(t *testing.T) {
	for name, leave := range map[string]func(*tls.Conn, *net.TCPConn){
		"RST":          func(_ *tls.Conn, raw *net.TCPConn) { reset(raw) },
		"FIN":          func(_ *tls.Conn, raw *net.TCPConn) { _ = raw.CloseWrite() },
		"close_notify": func(c *tls.Conn, _ *net.TCPConn) { _ = c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			a, ip := newAuthority(t), podAddress()
			client, gate := waitingPod(t, a, func(o *Options) {
				permissive(o)
				o.Sockets.(*testSockets).band = newBand()
				o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
			})
			var tries atomic.Int64
			early := func(c *tls.Config) { c.NextProtos = []string{api.ALPNFrames} }
			destination := inbandImpostor(t, a, client, ip, early, func(c *tls.Conn, raw *net.TCPConn) {
				b := make([]byte, 1024)
				n, _ := c.Read(b)
				if h, size, err := parseHeader(b[:n]); err != nil || !h.Waits || size != n {
					t.Errorf("got %x, %v", b[:n], err)
				}
				if tries.Add(1) == 1 {
					leave(c, raw)
					_, _ = io.Copy(io.Discard, raw)
					return
				}
				_, _ = c.Write([]byte{byte(statusOK)})
				_, _ = io.Copy(c, c)
				_ = c.CloseWrite()
				_, _ = io.Copy(io.Discard, raw)
			})
			attempt := client.connect(gate, destination, false)
			client.logged("the first try", func(l api.Connection) bool { return l.Wire == api.WireInband && l.Error != "" })
			eventually(t, "the end of the first try", func() bool { return client.proxy.waiters.count.Load() == 0 })
			attempt.send()
			conn := attempt.connected()
			exchange(t, conn, "hello")
			end(t, conn)
			if got := client.settled().Outbound; got.Plaintext != 0 || got.Sent != 5 || got.Received != 5 || tries.Load() != 2 {
				t.Errorf("%d tries, counted %+v", tries.Load(), got)
			}
		})
	}
}

// What waits for an answer ends when the application has left, and leaves the server nothing.
func TestEarlyApplicationGivesUp(t *testing.T) {
	client, server, gate, b := waitingInband(t, func(o *Options) { o.LocalTimeout = patienceForTests })
	l := b.behind(t, server.ip)
	fill(t, l)
	a := client.connect(gate, addrPort(l.Addr()), false)
	eventually(t, "the header", func() bool { return len(held(client)) == 1 })
	a.gone.Store(true)
	line := client.logged("the end", func(api.Connection) bool { return true })
	if line.Error != "" || line.Wire != api.WireInband {
		t.Errorf("logged %+v", line)
	}
	client.settled()
	applicationAt(t, l, echo)
	server.settled()
}

// held returns the connections that have sent a header and wait.
func held(pod *testPod) []*connection {
	return slices.DeleteFunc(pod.proxy.live.snapshot(), func(c *connection) bool { return c.relaying.Load() != 1 })
}

// A destination that works is connected to at once, until it refuses a connection.
func TestEarlyRefusalEndsWhatWorks(t *testing.T) {
	client, server, gate, b := waitingInband(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	conn := client.connect(gate, destination, false).connected()
	exchange(t, conn, "hello")
	end(t, conn)
	if !gate.noted(destination) {
		t.Fatal("the destination does not count as one that works")
	}
	server.rule(api.Rules{Deny: []string{"ns/default/sa/*"}})
	client.sockets.services = []netip.AddrPort{destination}
	client.dialReset(destination)
	line := client.logged("the refusal", func(l api.Connection) bool { return strings.Contains(l.Reason, traffic.PeerNotAllowed.String()) })
	if line.Wire != api.WireInband {
		t.Errorf("logged %+v", line)
	}
	client.settled()
	if gate.noted(destination) {
		t.Error("the destination still counts as one that works")
	}
}
