//go:build linux

package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// heard is an application that tells what it reads, and does with the connection what the test says.
type heard struct {
	conn *net.TCPConn
	data chan string
}

func hearing(t *testing.T, server *testPod) (netip.AddrPort, chan heard) {
	all := make(chan heard, 1)
	return application(t, server.ip, func(conn *net.TCPConn) {
		h := heard{conn, make(chan string)}
		all <- h
		defer close(h.data)
		for b := make([]byte, 64); ; {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			h.data <- string(b[:n])
		}
	}), all
}

// TestAnswerTravels: the answer to a header that comes with data travels with the application's first data, and is sent alone only
// where something else waits for it, or nothing comes.
func TestAnswerTravels(t *testing.T) {
	for name, c := range map[string]struct {
		within time.Duration
		waits  bool
		first  []frame
		// then is what happens once the application has read the data of first.
		then func(t *testing.T, f *framed, app heard)
	}{
		"with data": {within: time.Hour, first: []frame{data("ping")}, then: func(t *testing.T, f *framed, app heard) {
			if !quietStream(t, f.raw) {
				t.Error("the answer has come before the data that it is to travel with")
			}
			write(t, app.conn, "pong")
			f.want(answered(statusOK), data("pong"))
		}},
		"with the end": {within: time.Hour, first: []frame{data("ping")}, then: func(t *testing.T, f *framed, app heard) {
			must.Do(t, app.conn.CloseWrite())
			f.want(answered(statusOK), ending())
		}},
		"before a reset": {within: time.Hour, first: []frame{data("ping")}, then: func(t *testing.T, f *framed, app heard) {
			reset(app.conn)
			f.want(answered(statusOK))
			if got, err := f.next(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, %v", got.kind, err)
			}
		}},
		"when the peer says more": {within: time.Hour, first: []frame{data("ping")}, then: func(_ *testing.T, f *framed, _ heard) {
			f.send(data("more"))
			f.want(answered(statusOK))
		}},
		"when the peer has said more":        {within: time.Hour, first: []frame{data("ping"), ending()}, then: wantAnswer},
		"after a while":                      {within: time.Nanosecond, first: []frame{data("ping")}, then: wantAnswer},
		"at once to a header alone":          {within: time.Hour, then: wantAnswer},
		"at once where an application waits": {within: time.Hour, waits: true, first: []frame{data("ping")}, then: wantAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			server := newPod(t, a, func(o *Options) { o.answerWithin = c.within })
			s := newStranger(t, a, server)
			f := s.framed(server)
			destination, accepted := hearing(t, server)
			// The second one meets what the first one leaves.
			for range 2 {
				f.send(append([]frame{headed(header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000), Waits: c.waits})}, c.first...)...)
				app := <-accepted
				if len(c.first) > 0 {
					if got := <-app.data; got != "ping" {
						t.Errorf("the application reads %q", got)
					}
				}
				go func() {
					for range app.data {
					}
				}()
				c.then(t, f, app)
				if name == "before a reset" {
					return
				}
				if name != "when the peer has said more" {
					f.send(ending())
				}
				_ = app.conn.CloseWrite()
				if name != "with the end" {
					f.want(ending())
				}
				eventually(t, "the carrier to wait", func() bool { return server.waits() == 1 })
			}
		})
	}
}

func wantAnswer(_ *testing.T, f *framed, _ heard) { f.want(answered(statusOK)) }

// quietStream reports whether nothing has come.
func quietStream(t *testing.T, s stream) (quiet bool) {
	must.Do(t, onSocket(s, func(fd int) error {
		quiet = nothingToRead(fd)
		return nil
	}))
	return quiet
}

// TestAcknowledge: what a carrier has read is acknowledged before the application gets it, and if more has come, nothing is said to be.
func TestAcknowledge(t *testing.T) {
	near, far := sockets(t)
	k := &carrier{records: must.Get(newRecordConn(near, new(bufferPools)))(t)}
	b := make([]byte, 1)
	for tries := 0; ; tries++ {
		write(t, far, "a")
		must.Get(near.Read(b))(t)
		before := sentSegments(t, near)
		if !k.acknowledge() {
			t.Fatal("what has been read is not acknowledged")
		}
		if sentSegments(t, near) == before+1 {
			break
		}
		if tries == 100 {
			t.Fatal("no acknowledgement has been sent by the call")
		}
		// Acknowledgements wait for data once there are answers.
		write(t, near, "b")
		expect(t, far, "b")
	}
	write(t, far, "b")
	eventually(t, "the data", func() bool { return !quietStream(t, near) })
	if k.acknowledge() {
		t.Error("what has not been read is said to be acknowledged")
	}
}

func sentSegments(t *testing.T, s stream) (n uint32) {
	must.Do(t, onSocket(s, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Segs_out
		}
		return err
	}))
	return n
}

// TestEndTravels: an application gets the last data and the end as one segment.
func TestEndTravels(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	s := newStranger(t, a, server)
	got := make(chan uint32, 1)
	destination := application(t, server.ip, func(conn *net.TCPConn) {
		if text, err := io.ReadAll(conn); err != nil || string(text) != "ping" {
			t.Errorf("the application reads %q, %v", text, err)
		}
		_ = onSocket(conn, func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Error(err)
			}
			got <- info.Segs_in
			return nil
		})
	})
	f := s.framed(server)
	f.send(headed(header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}), data("ping"), ending())
	f.want(answered(statusOK), ending())
	// The first two are of the handshake.
	if n := <-got; n != 3 {
		t.Errorf("%d segments have come to the application", n)
	}
}
