//go:build linux

package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// again returns a listener of the same socket, as another process has it.
func again(t *testing.T, l net.Listener) net.Listener {
	t.Helper()
	f := must.Get(l.(*net.TCPListener).File())(t)
	defer f.Close()
	return must.Get(net.FileListener(f))(t)
}

// becomeIdle waits until nothing is kept of connections that have ended.
func (pod *testPod) becomeIdle() {
	pod.t.Helper()
	for deadline := time.Now().Add(patienceForTests); !pod.proxy.Idle(); time.Sleep(time.Millisecond) {
		pod.proxy.carriers.drop()
		if time.Now().After(deadline) {
			pod.t.Fatal("the proxy does not become idle")
		}
	}
}

// TestQuiesceIdle: what comes to a proxy that has quiesced waits for the one that has the same listeners and gates.
func TestQuiesceIdle(t *testing.T) {
	a := newAuthority(t)
	fast := func(o *Options) { o.sweep = 10 * time.Millisecond }
	server := newPod(t, a, fast)
	client, gate := waitingPod(t, a, fast)
	to := application(t, server.ip, echo)
	client.visit(to)
	for _, pod := range []*testPod{client, server} {
		client.becomeIdle() // or the server's carriers stay
		pod.becomeIdle()
		capture, peer, options := again(t, pod.options.Capture[0]), again(t, pod.options.Peer), pod.options
		before := pod.proxy.Traffic()
		for range 2 {
			if !pod.proxy.Quiesce() {
				t.Fatal("an idle proxy does not quiesce")
			}
		}
		conn := client.dial(to)
		write(t, conn, "early")
		pod.stop()
		if diff := cmp.Diff(before, pod.proxy.Traffic()); diff != "" {
			t.Errorf("a proxy that has quiesced carries (-want +got):\n%s", diff)
		}
		must.Do(t, gate.SetReadDeadline(time.Time{}))
		next := newPod(t, a, func(o *Options) {
			log := o.Log
			*o = options
			o.Log, o.Capture, o.Peer = log, []net.Listener{capture}, peer
		})
		if pod == client {
			next.ip, next.sockets, next.capture = pod.ip, pod.sockets, pod.capture
			client = next
		}
		expect(t, conn, "early")
		hangUp(t, conn)
		conn = client.connect(gate, to, true).connected()
		exchange(t, conn, "hello")
		hangUp(t, conn)
	}
}

// TestQuiesceBusy: a proxy goes on while a connection is open, be it one that waits, or a carrier is there.
func TestQuiesceBusy(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	client, gate := waitingPod(t, a, nil)
	to := application(t, server.ip, echo)
	busy := func(what string, pods ...*testPod) {
		t.Helper()
		for _, pod := range pods {
			if pod.proxy.Quiesce() {
				t.Fatalf("%s: a proxy quiesces", what)
			}
		}
		client.visit(to)
		conn := client.connect(gate, to, true).connected()
		ping(t, conn)
		hangUp(t, conn)
	}
	conn := client.dial(to)
	ping(t, conn)
	busy("a connection is open", client, server)
	ping(t, conn)
	hangUp(t, conn)
	client.settled()
	busy("a carrier is idle", client, server)
	// Nobody accepts there.
	silent := listen(t, netip.AddrPortFrom(podAddress(), api.PeerPort))
	client.connect(gate, netip.AddrPortFrom(addrPort(silent.Addr()).Addr(), 80), true)
	busy("a connection waits", client)
}
