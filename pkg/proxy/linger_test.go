//go:build linux

package proxy

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
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

// TestPeerEndsInTheHandshake: a peer whose listener closes resets what waits there.
// Nothing of the application's has been sent by then, so a permissive gateway goes
// on in plaintext, and asks the peer again soon.
func TestPeerEndsInTheHandshake(t *testing.T) {
	ip := podAddress()
	l := listen(t, netip.AddrPortFrom(ip, api.PeerPort))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// Once the handshake has begun.
			_, _ = conn.Read(make([]byte, 1))
			reset(conn.(*net.TCPConn))
		}
	}()
	a := newAuthority(t)
	client := newPod(t, a, permissive)
	destination := application(t, ip, echo)
	client.visit(destination)
	if line := client.unencrypted(destination, traffic.PeerReset); line.Error != "" {
		t.Errorf("logged %+v", line)
	}
	peer := client.proxy.peers.acquire(netip.AddrPortFrom(ip, api.PeerPort))
	defer client.proxy.peers.release(peer)
	client.proxy.peers.mu.Lock()
	defer client.proxy.peers.mu.Unlock()
	if left := time.Until(peer.until); left > rememberRefused {
		t.Errorf("the peer is not asked again for %v", left)
	}
}
