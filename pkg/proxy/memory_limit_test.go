//go:build linux

package proxy

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const mebi = 1 << 20

// testMemory is the memory of a pod, of which the test says how much is left.
type testMemory struct {
	t   *testing.T
	dir string
}

func newTestMemory(t *testing.T) *testMemory {
	m := &testMemory{t, t.TempDir()}
	m.write("memory.stat", "anon 1\n")
	m.lift()
	return m
}

func (m *testMemory) write(file, text string) {
	m.t.Helper()
	must.Do(m.t, os.WriteFile(filepath.Join(m.dir, file), []byte(text), 0o600))
}

// left says how much is left of a gibibyte.
func (m *testMemory) left(bytes int) {
	m.t.Helper()
	m.write("memory.max", fmt.Sprint(1<<30))
	m.write("memory.current", fmt.Sprint(1<<30-bytes))
}

func (m *testMemory) lift() {
	m.t.Helper()
	m.write("memory.current", "0")
	m.write("memory.max", "max")
}

// budget gives a gateway the memory. The test's own heap is bounded, too, until it is lifted.
func (m *testMemory) budget(o *Options) {
	m.t.Helper()
	gauge := must.Get(memory.Open(m.dir))(m.t)
	m.t.Cleanup(gauge.Close)
	o.Memory = memory.NewBudget(gauge)
}

// TestNoMemory: at either end connections are refused while there is no memory for them, in either
// mode, and carried again when there is.
func TestNoMemory(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		t.Run(string(mode), func(t *testing.T) {
			near, far := newTestMemory(t), newTestMemory(t)
			a := newAuthority(t)
			client := newPod(t, a, func(o *Options) { o.Config.Mode = mode; near.budget(o) })
			server := newPod(t, a, func(o *Options) { o.Config.Mode = mode; far.budget(o) })
			var reached atomic.Int64
			destination := application(t, server.ip, func(conn *net.TCPConn) { reached.Add(1); echo(conn) })
			client.visit(destination)

			near.left(8 * mebi)
			client.proxy.FitMemory()
			client.dialReset(destination)
			line := client.logged("the refusal", func(c api.Connection) bool { return c.Reason != "" })
			if line.Reason != traffic.NoMemory.String() || line.Destination != destination || line.Source.Addr() != client.ip {
				t.Errorf("logged %+v", line)
			}
			near.lift()
			client.visit(destination)

			far.left(8 * mebi)
			server.proxy.FitMemory()
			client.dialReset(destination)
			client.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.PeerReset.String() })
			server.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.NoMemory.String() })
			far.lift()
			client.visit(destination)

			if n := reached.Load(); n != 3 {
				t.Errorf("the application was reached %d times", n)
			}
			for name, pod := range map[string]*testPod{"client": client, "server": server} {
				if s := pod.proxy.Traffic(); s.Outbound.Plaintext+s.Inbound.Plaintext > 0 {
					t.Errorf("%s: plaintext: %+v", name, s)
				}
			}
		})
	}
}

// TestSettled: what was admitted is settled, however it went on, or a gateway would think in time that
// there is no memory.
func TestSettled(t *testing.T) {
	// There is memory for three connections that are being set up.
	m := newTestMemory(t)
	m.left(8*mebi + 3*memory.ConnectionCost)
	client, server := pair(t, m.budget)
	destination := application(t, server.ip, echo)
	closed := listen(t, netip.AddrPortFrom(server.ip, 0))
	hangUp(t, closed)
	for range 10 {
		client.visit(destination)
		client.dialReset(addrPort(closed.Addr()))
	}
	if n := client.log.count(traffic.NoMemory.String()); n > 0 {
		t.Errorf("%d connections were refused", n)
	}
	m.lift()
	client.proxy.FitMemory()
}

// buffersOf returns the buffers of the sockets of open connections, in the kernel's bytes.
func buffersOf(t *testing.T, p *Proxy) (all []int) {
	t.Helper()
	for _, c := range p.live.snapshot() {
		c.mu.Lock()
		sockets := c.sockets
		c.mu.Unlock()
		for _, socket := range sockets {
			must.Do(t, onSocket(socket, func(fd int) error {
				for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
					n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
					if err != nil {
						return err
					}
					all = append(all, n)
				}
				return nil
			}))
		}
	}
	return all
}

// exchangeBulk sends much to an application that sends it back.
func exchangeBulk(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	const size = 4 * mebi
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, patternReader(1, size))
		sent <- err
	}()
	want, got := sha256.New(), sha256.New()
	must.Get(io.Copy(want, patternReader(1, size)))(t)
	must.Get(io.CopyN(got, conn, size))(t)
	must.Do(t, <-sent)
	if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// echoing returns what conn brings.
func echoing(conn *net.TCPConn) {
	go func() {
		echo(conn)
		_ = conn.Close()
	}()
}

func sendBuffer(t *testing.T, conn *net.TCPConn) (n int) {
	t.Helper()
	must.Do(t, onSocket(conn, func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		return err
	}))
	return n
}

// TestFitMemory: the buffers of sockets follow what is left, those of open connections as well.
func TestFitMemory(t *testing.T) {
	m := newTestMemory(t)
	client, server := pair(t, m.budget)
	destination, accept := collect(t, server.ip)
	open := client.dial(destination)
	accepted := accept()
	echoing(accepted)
	ping(t, open)
	usual := buffersOf(t, client.proxy)
	m.left(20 * mebi) // 32 KiB, which the kernel doubles
	client.proxy.FitMemory()
	server.proxy.FitMemory()
	another := client.dial(destination)
	acceptedLater := accept()
	echoing(acceptedLater)
	ping(t, another)
	bounded := buffersOf(t, client.proxy)
	if want := slices.Repeat([]int{64 << 10}, 2*len(usual)); !slices.Equal(bounded, want) || slices.Max(usual) <= 64<<10 {
		t.Errorf("the buffers have %d bytes, before %d", bounded, usual)
	}
	if n := client.proxy.pools.less.Load(); n != 2 {
		t.Errorf("%d classes of buffers are left out", n)
	}
	// The applications' own send buffers, at either end.
	for _, conn := range []*net.TCPConn{another, acceptedLater} {
		if before, after := sendBuffer(t, accepted), sendBuffer(t, conn); before < mebi || after > mebi/4 {
			t.Errorf("the application's send buffer has %d bytes, before %d", after, before)
		}
	}
	// Bulk passes through small buffers.
	exchangeBulk(t, open)
	m.lift()
	client.proxy.FitMemory()
	server.proxy.FitMemory()
	if n := client.proxy.pools.less.Load(); n != 0 {
		t.Errorf("%d classes of buffers are left out", n)
	}
	exchangeBulk(t, another)
	if grown := buffersOf(t, client.proxy); slices.Max(grown) <= 64<<10 {
		t.Errorf("the kernel does not size the buffers again: %d", grown)
	}
	hangUp(t, open)
	hangUp(t, another)
}
