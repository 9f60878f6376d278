//go:build linux

package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func sinkTo(t *testing.T) (*sink, *net.TCPConn) {
	t.Helper()
	l := listen(t, netip.MustParseAddrPort("127.0.0.1:0"))
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	raw, err := near.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return newSink(raw), far.(*net.TCPConn)
}

// More than socket buffers hold arrives complete and in order, in pieces of
// both kinds of system call.
func TestSinkWaits(t *testing.T) {
	s, far := sinkTo(t)
	const size = 16 << 20
	want, err := io.ReadAll(patternReader(1, size))
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		for rest, piece := want, 1; len(rest) > 0; piece = piece*2 + 1 {
			p := rest[:min(piece, len(rest))]
			if n, err := s.write(p); err != nil || n != len(p) {
				written <- errors.Join(err, io.ErrShortWrite)
				return
			}
			rest = rest[len(p):]
		}
		written <- nil
	}()
	got := make([]byte, size)
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what arrived is not what was sent")
	}
}

// TestSinkHurries: only a first short write does without TCP_NODELAY, which is never missing where something may be held back.
func TestSinkHurries(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []int
		want   bool
	}{
		{"a short one", []int{maxAlone}, false},
		{"a long one", []int{maxAlone + 1}, true},
		{"two short ones", []int{1, 1}, true},
	} {
		s, _ := sinkTo(t)
		s.nagle = true
		must.Do(t, control(s.raw, func(fd int) error { return setOption(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 0) }))
		for _, size := range c.writes {
			must.Get(s.write(make([]byte, size)))(t)
		}
		must.Do(t, control(s.raw, func(fd int) error {
			if got := must.Get(unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY))(t) == 1; got != c.want {
				t.Errorf("%s: TCP_NODELAY is %t", c.name, got)
			}
			return nil
		}))
	}
}

func TestSinkReportsReset(t *testing.T) {
	s, far := sinkTo(t)
	reset(far)
	for {
		// What the kernel accepts before it has seen the RST is no error.
		n, err := s.write([]byte("hello"))
		if err == nil {
			continue
		}
		if n != 0 || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %d, %v", n, err)
		}
		return
	}
}
