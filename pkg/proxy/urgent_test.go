//go:build linux

package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
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

// looks is Options.Urgent that has been looked at so many times before it changes.
type looks struct{ left int }

func (l *looks) Load() uint32 {
	if l.left == 0 {
		return 1
	}
	l.left--
	return 0
}

// TestUrgentDataDuringARead is the first of all, and its programs tell so while a read is under way that begins with it, or does
// not.
func TestUrgentDataDuringARead(t *testing.T) {
	const never = 1 << 30
	for name, c := range map[string]struct {
		before string // sent before "!behind", of which "!" is urgent
		looks  int
		place  uint64
		twice  bool
		want   []string
	}{
		"first":                {"", 1, 1, false, []string{"! (urgent)", "behind"}},
		"behind data":          {"before", 3, 7, false, []string{"before", "! (urgent)", "behind"}},
		"in the second read":   {"before", 3, 7, true, []string{"before", "! (urgent)", "behind"}},
		"not in the read":      {"before", 1, 7, false, []string{"before", "! (urgent)", "behind"}},
		"not in either":        {"before", 1, 7, true, []string{"before", "! (urgent)", "behind"}},
		"of another socket":    {"before", 3, 0, false, []string{"before", "!behind"}},
		"known before":         {"before", 0, 0, false, []string{"before", "! (urgent)", "behind"}},
		"known before, twice":  {"before", 0, 0, true, []string{"before", "! (urgent)", "behind"}},
		"known between":        {"before", 2, 0, false, []string{"before", "! (urgent)", "behind"}},
		"nobody asks":          {"before", never, 7, false, []string{"before", "!behind"}},
		"nobody asks, at once": {"before", never, 7, true, []string{"before!behind"}},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := sockets(t)
			known := &testSockets{}
			known.urgentAt.Store(c.place)
			r := must.Get(newPlainReader(near, new(bufferPools), new(atomic.Bool)))(t)
			r.urgency = &Options{Urgent: &looks{c.looks}, Sockets: known}
			r.findUrgent(true)
			r.keep()
			r.reserve, r.tail, r.twice = 3, 5, c.twice
			if c.before != "" {
				write(t, far, c.before)
			}
			must.Do(t, writeUrgent(far, []byte("!")))
			write(t, far, "behind")
			eventually(t, "all of it", func() bool {
				return onSocket(near, func(fd int) error {
					_, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK)
					return err
				}) == nil && !pending(t, far)
			})
			var fresh int
			read := func() (got []string) {
				for size := 0; size < len(c.before)+len("!behind"); {
					b, n, err := r.next()
					must.Do(t, err)
					text := string(b.b[r.reserve:n])
					size += len(text)
					if r.urgent {
						text += " (urgent)"
					}
					got = append(got, text)
					fresh += r.fresh
					r.pools.put(b)
				}
				return got
			}
			if diff := cmp.Diff(c.want, read()); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			if want := len(c.before) + len("!behind"); fresh != want || r.taken != uint64(want) {
				t.Errorf("%d bytes counted, %d taken, want %d", fresh, r.taken, want)
			}
			r.rewind()
			again := c.want
			if !slices.Contains(c.want, "! (urgent)") {
				again = []string{c.before + "!behind"}
			}
			if diff := cmp.Diff(again, read()); diff != "" {
				t.Errorf("read again (-want +got):\n%s", diff)
			}
		})
	}
}

// pending reports whether the other end's kernel has not yet got all that was written.
func pending(t *testing.T, conn *net.TCPConn) (some bool) {
	t.Helper()
	must.Do(t, onSocket(conn, func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		some = n > 0
		return err
	}))
	return some
}

// TestUrgentDataUnknown: a connection ends whose programs do not say what was urgent.
func TestUrgentDataUnknown(t *testing.T) {
	near, far := sockets(t)
	r := must.Get(newPlainReader(near, new(bufferPools), new(atomic.Bool)))(t)
	r.urgency = &Options{Urgent: &looks{1}, Sockets: mute{}}
	r.findUrgent(true)
	write(t, far, "data")
	if _, size, err := r.next(); !errors.Is(err, unix.EPERM) || size > 0 {
		t.Errorf("read: %d bytes, %v", size, err)
	}
}

// mute does not answer.
type mute struct{ Sockets }

func (mute) UrgentAt(int) (uint64, error) { return 0, unix.EPERM }

// TestUrgentDataBehindSplicedData: what is moved within the kernel counts as well.
func TestUrgentDataBehindSplicedData(t *testing.T) {
	const size = 16 << 20
	near, far := sockets(t)
	to, end := sockets(t)
	p := new(Proxy)
	r := must.Get(newPlainReader(near, &p.pools, new(atomic.Bool)))(t)
	go func() {
		_, _ = far.Write(make([]byte, size))
		_ = far.CloseWrite()
	}()
	go func() { _, _ = io.Copy(io.Discard, end) }()
	var count atomic.Uint64
	must.Do(t, p.pass(to, r, new(atomic.Bool), &count))
	if r.taken != size || count.Load() != size {
		t.Errorf("%d bytes taken, %d counted, want %d", r.taken, count.Load(), size)
	}
}
