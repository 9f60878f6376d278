//go:build linux

package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// lingers returns the SO_LINGER of the sockets of the only connection of a pod.
func lingers(t *testing.T, pod *testPod) (all []unix.Linger) {
	t.Helper()
	open := pod.proxy.live.snapshot()
	if len(open) != 1 {
		t.Fatalf("%d connections are open", len(open))
	}
	open[0].mu.Lock()
	defer open[0].mu.Unlock()
	for _, socket := range open[0].sockets {
		raw, err := socket.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := control(raw, func(fd int) error {
			linger, err := unix.GetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER)
			if err == nil {
				all = append(all, *linger)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestDeathIsAReset: while a connection is relayed, the kernel would reset both of
// its sockets if the process died.
func TestDeathIsAReset(t *testing.T) {
	want := []unix.Linger{{Onoff: 1}, {Onoff: 1}}
	check := func(t *testing.T, pods ...*testPod) {
		t.Helper()
		for _, pod := range pods {
			if got := lingers(t, pod); !slices.Equal(got, want) {
				t.Errorf("SO_LINGER is %+v", got)
			}
		}
	}
	t.Run("encrypted", func(t *testing.T) {
		client, server := pair(t, nil)
		conn := client.dial(application(t, server.ip, echo))
		exchange(t, conn, "x")
		check(t, client, server)
	})
	t.Run("encrypted in band", func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		conn := client.dial(applicationAt(t, b.behind(t, server.ip), echo))
		exchange(t, conn, "x")
		// The test itself accepts in band at the server.
		check(t, client)
	})
	t.Run("plaintext", func(t *testing.T) {
		client := newPod(t, newAuthority(t), permissive)
		conn := client.dial(application(t, podAddress(), echo))
		exchange(t, conn, "x")
		check(t, client)
	})
}

// TestUnreadDataSurvivesTheEnd: what an application has not read when both ends
// are done reaches it all the same, and so does the end.
func TestUnreadDataSurvivesTheEnd(t *testing.T) {
	relays(t, func(t *testing.T, client *testPod, far func() net.Listener) {
		// More than the far application's receive buffer takes at once.
		data := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
		destination, accept := collectAt(t, far())
		near := client.dial(destination)
		server := accept()
		if err := server.SetReadBuffer(32 << 10); err != nil {
			t.Fatal(err)
		}
		if err := server.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectEOF(t, near)
		write(t, near, string(data))
		hangUp(t, near)
		client.logged("the end", func(c api.Connection) bool { return c.Direction == api.Outbound && c.Error == "" })
		got, err := io.ReadAll(server)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Errorf("%d of %d bytes arrived: %v", len(got), len(data), err)
		}
	})
}

// resetting runs a peer that resets TLS handshakes once they have begun, as one that is full does,
// and counts them. It closes its listener after so many; 0 is never.
func resetting(t *testing.T, ip netip.Addr, atMost int64) *atomic.Int64 {
	var count atomic.Int64
	l := listen(t, netip.AddrPortFrom(ip, api.PeerPort))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n := count.Add(1)
			_, _ = conn.Read(make([]byte, 1))
			if n == atMost {
				_ = l.Close()
			}
			reset(conn.(*net.TCPConn))
		}
	}()
	return &count
}

// TestPeerEndsInTheHandshake: a gateway that ends resets what waits at its listener. Nothing of
// the application's has been sent by then, so a permissive gateway asks again, learns that there
// is none any more, and goes on in plaintext.
func TestPeerEndsInTheHandshake(t *testing.T) {
	ip := podAddress()
	resetting(t, ip, 1)
	client := newPod(t, newAuthority(t), permissive)
	destination := application(t, ip, echo)
	client.visit(destination)
	if line := client.unencrypted(destination, traffic.PeerRefused); line.Error != "" {
		t.Errorf("logged %+v", line)
	}
}

// TestFullPeer: a peer that resets every handshake is full, which is no reason for plaintext.
// Others do not wait for the first connection to it, and nothing about it is remembered.
func TestFullPeer(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		ip := podAddress()
		count := resetting(t, ip, 0)
		client := newPod(t, newAuthority(t), func(o *Options) { o.Config.Mode = mode })
		var reached atomic.Int64
		destination := application(t, ip, func(*net.TCPConn) { reached.Add(1) })
		for n := range int64(2) {
			client.dialReset(destination)
			if got := count.Load(); got != 5*(n+1) {
				t.Errorf("%s: the peer was asked %d times by %d connections", mode, got, n+1)
			}
		}
		client.unencrypted(destination, traffic.PeerReset)
		if got := client.settled().Outbound; got.Refused != 2 || got.Plaintext != 0 || reached.Load() != 0 {
			t.Errorf("%s: counted %+v, the application was reached %d times", mode, got, reached.Load())
		}
	}
}

// fullAtFirst is a listener whose gateway has no room for the first connections.
type fullAtFirst struct {
	*net.TCPListener
	left atomic.Int64
}

func (l *fullAtFirst) Accept() (net.Conn, error) {
	for {
		conn, err := l.TCPListener.Accept()
		if err != nil || l.left.Add(-1) < 0 {
			return conn, err
		}
		_, _ = conn.Read(make([]byte, 1))
		reset(conn.(*net.TCPConn))
	}
}

// TestPeerHasRoomAgain: a connection that meets a full peer is encrypted once that has room.
func TestPeerHasRoomAgain(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	server := newPod(t, a, func(o *Options) {
		l := &fullAtFirst{TCPListener: listen(t, netip.AddrPortFrom(o.Config.PodIPs[0], api.PeerPort)).(*net.TCPListener)}
		l.left.Store(2)
		o.Peer = l
	})
	client.visit(application(t, server.ip, echo))
	if got := client.settled().Outbound; got.Encrypted != 1 || got.Plaintext+got.Refused != 0 {
		t.Errorf("counted %+v", got)
	}
}

// TestCloseAtOnce: the other end gets the FIN or the RST at once, and the descriptors are closed together with others later.
func TestCloseAtOnce(t *testing.T) {
	p := newPod(t, newAuthority(t), permissive).proxy
	destination, accept := collect(t, podAddress())
	dial := func() (*bareSocket, *net.TCPConn) {
		near, err := connectFrom(t.Context(), netip.AddrPort{}, destination, patienceForTests, func(int) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		return near, accept()
	}
	open := func(s stream) bool { return onSocket(s, func(int) error { return nil }) == nil }

	first, far := dial()
	p.closeAtOnce(first, false)
	expectEOF(t, far)
	reset, far := dial()
	p.closeAtOnce(reset, true)
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the other end reads %v", err)
	}
	if !open(first) || !open(reset) {
		t.Fatal("each descriptor is closed by itself")
	}
	for range maxSpent - 2 {
		near, _ := dial()
		p.closeAtOnce(near, false)
	}
	if open(first) || open(reset) {
		t.Errorf("%d descriptors are not closed", maxSpent)
	}
	last, _ := dial()
	p.closeAtOnce(last, false)
	p.spent.close()
	if open(last) {
		t.Error("the sweeper does not close what is left")
	}
}

// exhausted is a listener that has no descriptor when it is first asked.
type exhausted struct {
	*net.TCPListener
	ask   chan struct{}
	asked atomic.Bool
}

func (l *exhausted) Accept() (net.Conn, error) {
	<-l.ask
	if !l.asked.Swap(true) {
		return nil, unix.EMFILE
	}
	return l.TCPListener.Accept()
}

// TestDescriptorsAreMissing: the descriptors of what has ended are closed where accept(2) has none.
func TestDescriptorsAreMissing(t *testing.T) {
	full := &exhausted{ask: make(chan struct{})}
	p := newPod(t, newAuthority(t), func(o *Options) {
		full.TCPListener = listen(t, netip.AddrPortFrom(o.Config.PodIPs[0], api.PeerPort)).(*net.TCPListener)
		o.Peer, o.sweep = full, time.Hour
	}).proxy
	destination, accept := collect(t, podAddress())
	near, err := connectFrom(t.Context(), netip.AddrPort{}, destination, patienceForTests, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	p.closeAtOnce(near, false)
	expectEOF(t, accept())
	used := must.Get(newSocket(destination.Addr()))(t)
	p.used.put(used)
	close(full.ask)
	for _, s := range []*bareSocket{near, used} {
		eventually(t, "the descriptor is closed", func() bool { return onSocket(s, func(int) error { return nil }) != nil })
	}
}
