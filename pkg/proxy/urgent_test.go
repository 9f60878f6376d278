//go:build linux

package proxy

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// sayUrgent has an application send data with a mark.
func sayUrgent(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	write(t, conn, "before")
	if err := writeUrgent(conn, []byte("!")); err != nil {
		t.Fatal(err)
	}
	write(t, conn, "behind")
}

// inline has the application's socket keep urgent data in the stream.
func inline(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := onSocket(conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) }); err != nil {
		t.Fatal(err)
	}
}

func marked(t *testing.T, conn *net.TCPConn) (at bool) {
	t.Helper()
	if err := onSocket(conn, func(fd int) error { at = atMark(uintptr(fd)); return nil }); err != nil {
		t.Fatal(err)
	}
	return at
}

// bothWires runs a test with a pair of pods and a server of the second one.
func bothWires(t *testing.T, test func(t *testing.T, client, server *testPod, destination netip.AddrPort, accept func() *net.TCPConn)) {
	t.Run(string(api.WirePort), func(t *testing.T) {
		client, server := pair(t, nil)
		destination, accept := collect(t, server.ip)
		test(t, client, server, destination, accept)
	})
	t.Run(string(api.WireInband), func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		destination, accept := collectAt(t, b.behind(t, server.ip))
		test(t, client, server, destination, accept)
	})
}

// bothEnds runs a test with the two ends of a connection, as sender and receiver, twice: the second connection
// may reuse what carried the first.
func bothEnds(t *testing.T, test func(t *testing.T, from, to *net.TCPConn), older ...string) {
	bothWires(t, func(t *testing.T, client, server *testPod, destination netip.AddrPort, accept func() *net.TCPConn) {
		if o := server.options; older != nil {
			s, err := newSettings(o.Config, o.Certificate, o.Roots, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			s.loopbackPods = true
			s.server.NextProtos, s.inbandServer.NextProtos = older, older
			server.proxy.settings.Store(s)
		}
		for range 2 {
			conn := client.dial(destination)
			far := accept()
			test(t, conn, far)
			test(t, far, conn)
			hangUp(t, conn)
			expectEOF(t, far)
			hangUp(t, far)
			client.settled()
			server.settled()
		}
	})
}

// TestUrgentData arrives with its mark.
func TestUrgentData(t *testing.T) {
	bothEnds(t, func(t *testing.T, from, to *net.TCPConn) {
		inline(t, to)
		sayUrgent(t, from)
		expect(t, to, "before")
		eventually(t, "the mark", func() bool { return marked(t, to) })
		expect(t, to, "!behind")
	})
}

// TestUrgentDataFirst is the first thing that an application sends, and all that it does.
func TestUrgentDataFirst(t *testing.T) {
	bothWires(t, func(t *testing.T, client, _ *testPod, destination netip.AddrPort, accept func() *net.TCPConn) {
		conn := client.dial(destination)
		if err := writeUrgent(conn, []byte("!")); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		far := accept()
		inline(t, far)
		eventually(t, "the mark", func() bool { return marked(t, far) })
		expect(t, far, "!")
		expectEOF(t, far)
	})
}

// TestUrgentDataBesideTheStream goes to an application that does not want it in the stream.
func TestUrgentDataBesideTheStream(t *testing.T) {
	bothEnds(t, func(t *testing.T, from, to *net.TCPConn) {
		sayUrgent(t, from)
		b := make([]byte, 1)
		eventually(t, "urgent data", func() bool {
			return onSocket(to, func(fd int) error {
				_, _, err := unix.Recvfrom(fd, b, unix.MSG_OOB)
				return err
			}) == nil
		})
		if string(b) != "!" {
			t.Errorf("urgent: %q", b)
		}
		expect(t, to, "beforebehind")
	})
}

// TestUrgentDataToAnOlderPeer: the byte is not taken for data.
func TestUrgentDataToAnOlderPeer(t *testing.T) {
	for _, protocol := range []string{api.ALPN, api.ALPNReuse} {
		bothEnds(t, func(t *testing.T, from, to *net.TCPConn) {
			inline(t, to)
			sayUrgent(t, from)
			expect(t, to, "beforebehind")
		}, protocol, api.ALPN)
	}
}

// TestUrgentDataMeanwhile comes at any moment of a read.
func TestUrgentDataMeanwhile(t *testing.T) {
	near, far := sockets(t)
	r := must.Get(newPlainReader(near, new(bufferPools), new(atomic.Bool)))(t)
	r.findUrgent(true)
	const times = 5_000
	next := make(chan struct{})
	go func() {
		for range next {
			if writeUrgent(far, []byte("!")) != nil {
				return
			}
		}
	}()
	defer close(next)
	for i := range times {
		next <- struct{}{}
		for start := time.Now(); time.Since(start) < time.Duration(i%50)*time.Microsecond; {
		}
		b, size, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if got := string(b.b[:size]); got != "!" || !r.urgent {
			t.Fatalf("after %d: read %q, urgent: %t", i, got, r.urgent)
		}
		r.pools.put(b)
	}
}

// TestUrgentDataThatIsKept is sent again as it was.
func TestUrgentDataThatIsKept(t *testing.T) {
	destination, accept := collect(t, podAddress())
	conn, err := net.Dial("tcp", destination.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far := accept()
	r, err := newPlainReader(far, new(bufferPools), new(atomic.Bool))
	if err != nil {
		t.Fatal(err)
	}
	read := func(marks bool, want ...string) {
		t.Helper()
		r.findUrgent(marks)
		var got []string
		for range want {
			b, size, err := r.next()
			if err != nil {
				t.Fatal(err)
			}
			text := string(b.b[:size])
			if r.urgent {
				text += " (urgent)"
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read (-want +got):\n%s", diff)
		}
	}
	sayUrgent(t, conn.(*net.TCPConn))
	eventually(t, "all of it", func() bool { n, err := queuedBytes(r); return err == nil && n >= len("before") })
	r.keep()
	read(true, "before", "! (urgent)")
	eventually(t, "the rest", func() bool { n, err := queuedBytes(r); return err == nil && n == len("behind") })
	read(true, "behind")
	r.rewind()
	read(true, "before", "! (urgent)", "behind")

	// To a peer that does not know such data.
	write(t, conn, "more")
	eventually(t, "more", func() bool { n, err := queuedBytes(r); return err == nil && n == len("more") })
	if err := writeUrgent(conn.(*net.TCPConn), []byte("?")); err != nil {
		t.Fatal(err)
	}
	r.keep()
	read(true, "more", "? (urgent)")
	r.rewind()
	write(t, conn, "last")
	read(false, "more", "last")
}
