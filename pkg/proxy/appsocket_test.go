//go:build linux

package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// keepingPair returns two pods whose sweeper leaves what is kept for other connections.
func keepingPair(t *testing.T, change func(*Options)) (client, server *testPod) {
	t.Helper()
	return pair(t, func(o *Options) {
		o.sweep = time.Hour
		if change != nil {
			change(o)
		}
	})
}

// keptSockets returns the IPv4 sockets that p keeps for other connections.
func keptSockets(p *Proxy) []*bareSocket {
	p.used.mu.Lock()
	defer p.used.mu.Unlock()
	return slices.Clone(p.used.sockets[kindIPv4])
}

// appSocket returns what leads to the application of the only connection of a pod.
func appSocket(t *testing.T, pod *testPod) *bareSocket {
	t.Helper()
	var app *bareSocket
	eventually(t, "the connection to be carried", func() bool {
		open := pod.proxy.live.snapshot()
		if len(open) != 1 {
			return false
		}
		open[0].mu.Lock()
		defer open[0].mu.Unlock()
		app, _ = open[0].sockets[1].(*bareSocket)
		return app != nil
	})
	return app
}

// carry sends much from one end of a connection to the other.
func carry(t *testing.T, from, to net.Conn, data string) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(from, data)
		sent <- err
	}()
	expect(t, to, data)
	must.Do(t, <-sent)
}

// TestSocketsAreUsedAgain: connections that end in good order, whoever ends first, hand their socket on to the next one, and bytes and
// ends arrive as on a new one.
func TestSocketsAreUsedAgain(t *testing.T) {
	client, server := keepingPair(t, nil)
	destination, accept := collect(t, server.ip)
	large := strings.Repeat("0123456789abcdef", 20_000)
	var file *openSocket
	for n, c := range []struct {
		name         string
		request, say string
		serverFirst  bool
	}{
		{"the application ends first", "x", "y", true},
		{"the client ends first", "x", "y", false},
		{"a large request", large, "y", true},
		{"a large answer", "x", large, false},
		{"nothing is said", "", "", true},
	} {
		near, far := client.dial(destination), accept()
		app := appSocket(t, server)
		if f := app.descriptor.file.Load(); n == 0 {
			file = f
		} else if f != file {
			t.Errorf("%s: it has another socket than the one before", c.name)
		}
		if left := keptSockets(server.proxy); len(left) != 0 {
			t.Errorf("%s: %d sockets are kept beside it", c.name, len(left))
		}
		carry(t, near, far, c.request)
		carry(t, far, near, c.say)
		first, second := near, far
		if c.serverFirst {
			first, second = far, near
		}
		must.Do(t, first.CloseWrite())
		expectEOF(t, second)
		must.Do(t, second.CloseWrite())
		expectEOF(t, first)
		server.settled()
		if left := keptSockets(server.proxy); len(left) != 1 || left[0] == app {
			t.Fatalf("%s: %d sockets are kept afterwards", c.name, len(left))
		}
	}
}

// TestSocketsOfBadEndsAreNotUsedAgain: a connection that did not end in good order leaves no socket.
func TestSocketsOfBadEndsAreNotUsedAgain(t *testing.T) {
	client, server := keepingPair(t, nil)
	destination, accept := collect(t, server.ip)
	for name, ends := range map[string]func(near, far *net.TCPConn){
		"the client resets":      func(near, far *net.TCPConn) { reset(near); expectReset(t, far) },
		"the application resets": func(near, far *net.TCPConn) { reset(far); expectReset(t, near) },
		"the application leaves before it has read everything": func(near, far *net.TCPConn) {
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
			hangUp(t, far)
			write(t, near, "y")
		},
		"the gateway ends it": func(near, far *net.TCPConn) {
			for _, c := range server.proxy.live.snapshot() {
				c.abort(errStopping)
			}
			expectReset(t, near)
			expectReset(t, far)
		},
		"a reader has parked": func(near, far *net.TCPConn) {
			app := appSocket(t, server)
			if !app.ask(server.proxy.lot) {
				t.Error("it does not park")
			}
			eventually(t, "the reader to park", func() bool { return app.descriptor.file.Load() == nil })
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
			end(t, near)
		},
		"somebody is at the socket": func(near, far *net.TCPConn) {
			app := appSocket(t, server)
			there, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(left)
				_ = onSocket(app, func(int) error { close(there); <-leave; return nil })
			}()
			<-there
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
			must.Do(t, near.CloseWrite())
			// Closing it waits for them.
			eventually(t, "the end", func() bool { return app.descriptor.closed.Load() })
			close(leave)
			<-left
		},
	} {
		near, far := client.dial(destination), accept()
		bothWays(t, near, far)
		ends(near, far)
		_, _ = near.Close(), far.Close()
		server.settled()
		if n := len(keptSockets(server.proxy)); n != 0 {
			t.Errorf("%s: %d sockets are kept", name, n)
			server.proxy.closeEnded()
		}
	}
}

// TestOldStreamsAreDead: what somebody still does to the stream of a connection that has ended does not reach the one that has its socket.
func TestOldStreamsAreDead(t *testing.T) {
	client, server := keepingPair(t, nil)
	destination, accept := collect(t, server.ip)
	near, far := client.dial(destination), accept()
	old := appSocket(t, server)
	// A deadline of the first connection is none of the second.
	must.Do(t, old.SetWriteDeadline(past()))
	must.Do(t, far.CloseWrite())
	end(t, near)
	server.settled()

	near, far = client.dial(destination), accept()
	if app := appSocket(t, server); app == old || app.descriptor.fd != old.descriptor.fd {
		t.Fatal("the second connection does not have the first one's socket")
	}
	if _, err := old.Write([]byte("z")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to the old stream: %v", err)
	}
	for name, err := range map[string]error{
		"a deadline": old.SetDeadline(past()), "a look": onSocket(old, func(int) error { return nil }), "closing": old.Close(),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s at the old stream: %v", name, err)
		}
	}
	if old.ask(server.proxy.lot) {
		t.Error("the old stream's reader parks")
	}
	reset(old)
	server.proxy.close(old)
	bothWays(t, near, far)
	must.Do(t, far.CloseWrite())
	end(t, near)
}

// TestOptionsDoNotLeak: a used socket has the options of a new one, but for those that the next connection is told of.
func TestOptionsDoNotLeak(t *testing.T) {
	client, server := keepingPair(t, nil)
	destination, accept := collect(t, server.ip)
	type options struct {
		Numbers    map[string]int
		Linger     unix.Linger
		Congestion string
	}
	look := func(s *bareSocket) (o options, inline, noDelay bool) {
		t.Helper()
		o.Numbers = make(map[string]int)
		must.Do(t, onSocket(s, func(fd int) (err error) {
			number := func(level, name int) int {
				n, err := unix.GetsockoptInt(fd, level, name)
				if err != nil {
					t.Error(err)
				}
				return n
			}
			for name, option := range map[string][2]int{
				"keepalive": {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, "keepidle": {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
				"user timeout": {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}, "cork": {unix.IPPROTO_TCP, unix.TCP_CORK},
				"TOS": {unix.IPPROTO_IP, unix.IP_TOS}, "TTL": {unix.IPPROTO_IP, unix.IP_TTL},
				"priority": {unix.SOL_SOCKET, unix.SO_PRIORITY}, "mark": {unix.SOL_SOCKET, unix.SO_MARK},
				"segment": {unix.IPPROTO_TCP, unix.TCP_MAXSEG}, "reuse": {unix.SOL_SOCKET, unix.SO_REUSEADDR},
				"bind without port": {unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT}, "error": {unix.SOL_SOCKET, unix.SO_ERROR},
				"interface": {unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX},
			} {
				o.Numbers[name] = number(option[0], option[1])
			}
			inline = number(unix.SOL_SOCKET, unix.SO_OOBINLINE) == 1
			noDelay = number(unix.IPPROTO_TCP, unix.TCP_NODELAY) == 1
			linger, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
			o.Linger = *linger
			if err == nil {
				o.Congestion, err = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			}
			return err
		}))
		return o, inline, noDelay
	}
	// More than one segment for sure, twice: the kernel holds back nothing of this one.
	large := strings.Repeat("x", 2*maxAlone)
	near, far := client.dial(destination), accept()
	bothWays(t, near, far)
	first, _, noDelay := look(appSocket(t, server))
	if noDelay {
		t.Error("a new socket holds back nothing")
	}
	write(t, near, large)
	expect(t, far, large)
	must.Do(t, far.CloseWrite())
	end(t, near)
	server.settled()

	near, far = client.dial(destination), accept()
	bothWays(t, near, far)
	again := appSocket(t, server)
	second, inline, noDelay := look(again)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("a used socket is unlike a new one (-new +used):\n%s", diff)
	}
	if o := again.outfit; !inline || !noDelay || o.inline != inline || o.noDelay != noDelay {
		t.Errorf("urgent data inline %t, no delay %t; the connection knows of %+v", inline, noDelay, o)
	}
	must.Do(t, far.CloseWrite())
	end(t, near)
	server.settled()

	// A connection that does not look for urgent data has the kernel take it out of the stream.
	used := keptSockets(server.proxy)[0]
	c := &connection{proxy: server.proxy, app: used}
	source := must.Get(c.reader())(t)
	source.findUrgent(false)
	if _, inline, _ := look(used); inline || c.toApp.nagle {
		t.Errorf("urgent data inline %t, nagle %t", inline, c.toApp.nagle)
	}
}

// settles makes a connection between two sockets, and returns what settled says of the first.
func settles(t *testing.T, happens func(near *bareSocket, far *net.TCPConn)) error {
	t.Helper()
	destination, accept := collect(t, podAddress())
	near := must.Get(connectFrom(t.Context(), netip.AddrPort{}, destination, patienceForTests, lingerZero))(t)
	t.Cleanup(func() { _ = near.Close() })
	happens(near, accept())
	return onSocket(near, settled)
}

// TestSocketSettles: a socket is used again only if both FINs have been acknowledged.
func TestSocketSettles(t *testing.T) {
	fin := func(near *bareSocket) { must.Do(t, onSocket(near, shutdownWrite)) }
	for name, c := range map[string]struct {
		happens func(near *bareSocket, far *net.TCPConn)
		want    bool
	}{
		"open": {func(*bareSocket, *net.TCPConn) {}, false},
		"ended here": {func(near *bareSocket, far *net.TCPConn) {
			fin(near)
			expectEOF(t, far)
		}, false},
		"ended there": {func(near *bareSocket, far *net.TCPConn) {
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
		}, false},
		"ended there, then here": {func(near *bareSocket, far *net.TCPConn) {
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
			fin(near)
		}, true},
		"ended here, then there": {func(near *bareSocket, far *net.TCPConn) {
			fin(near)
			expectEOF(t, far)
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
		}, true},
		"reset after the end": {func(near *bareSocket, far *net.TCPConn) {
			fin(near)
			expectEOF(t, far)
			// It acknowledges the FIN with that.
			write(t, far, "y")
			expect(t, near, "y")
			reset(far)
		}, false},
		"the other end has not got the FIN": {func(near *bareSocket, far *net.TCPConn) {
			must.Do(t, far.CloseWrite())
			expectEOF(t, near)
			deafen(t, far)
			fin(near)
		}, false},
	} {
		if err := settles(t, c.happens); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// deafen has a socket get nothing any more.
func deafen(t *testing.T, s syscall.Conn) {
	t.Helper()
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	must.Do(t, onSocket(s, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	}))
}

// TestUsedSocketsAreFew: as many sockets are kept as are allowed, and until the next sweep.
func TestUsedSocketsAreFew(t *testing.T) {
	var u used
	sockets := make([]*bareSocket, maxUsed+1)
	for n := range sockets {
		s := must.Get(newSocket(netip.IPv6Loopback()))(t)
		s.outfit = outfit{kind: kindIPv6, fits: uint32(n / maxUsed)}
		t.Cleanup(func() { _ = s.Close() })
		if sockets[n] = s; u.put(s) != (n < maxUsed) {
			t.Errorf("socket %d: kept %t", n, n >= maxUsed)
		}
	}
	if s := u.take(outfit{kind: kindFreebind}); s != nil {
		t.Error("a socket stands in for one of another kind")
	}
	if s := u.take(outfit{kind: kindIPv6}); s != sockets[maxUsed-1] {
		t.Error("the last one is not the first to be taken")
	}
	if s := u.take(outfit{kind: kindIPv6, fits: 1}); s != nil || u.any() || sockets[0].Close() == nil {
		t.Error("sockets with other buffers are not closed")
	}

	client, server := pair(t, func(o *Options) { o.sweep = 20 * time.Millisecond })
	client.visit(application(t, server.ip, echo))
	server.settled()
	eventually(t, "the socket to be closed", func() bool { return !server.proxy.used.any() })
}

// TestUsedSocketsAndMemory: sockets whose buffers are bounded, and others, do not stand in for each other.
func TestUsedSocketsAndMemory(t *testing.T) {
	m := newTestMemory(t)
	client, server := keepingPair(t, m.budget)
	destination, accept := collect(t, server.ip)
	finish := func(near, far *net.TCPConn) {
		must.Do(t, far.CloseWrite())
		end(t, near)
	}
	for step, change := range []func(){func() { m.left(20 * mebi) }, m.lift} {
		near, far := client.dial(destination), accept()
		other, otherFar := client.dial(destination), accept()
		finish(other, otherFar)
		eventually(t, "a socket to be kept", func() bool { return len(keptSockets(server.proxy)) == 1 })
		change()
		server.proxy.FitMemory()
		if n := len(keptSockets(server.proxy)); n != 0 {
			t.Errorf("change %d: %d sockets are kept at once", step, n)
		}
		finish(near, far)
		server.settled()
		if n := len(keptSockets(server.proxy)); n != 0 {
			t.Errorf("change %d: %d sockets are kept afterwards", step, n)
		}
	}
}
