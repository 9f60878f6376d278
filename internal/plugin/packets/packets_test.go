package packets

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// runner is a container that records one packet, and goes on until its input ends.
type runner struct {
	command []string
	// write replaces what the container does if not nil.
	write func(stdin io.Reader, stdout io.Writer) error
}

func (r *runner) Run(_ context.Context, _ remote.Ref, stdin io.Reader, stdout io.Writer, command ...string) error {
	r.command = command
	if r.write != nil {
		return r.write(stdin, stdout)
	}
	w, err := pcapng.NewWriter(stdout, "test")
	if err != nil {
		return err
	}
	if _, err := w.AddInterface(pcapng.Interface{Name: "lo", LinkType: pcapng.LinuxSLL2}); err != nil {
		return err
	}
	if err := w.WritePacket(0, time.Now(), 3, nil, []byte("abc")); err != nil {
		return err
	}
	if text, err := io.ReadAll(stdin); err != nil || string(text) != "end\n" {
		return errors.New("the input does not end as it should")
	}
	return w.WriteStatistics(pcapng.Statistics{Received: 3, Dropped: 2})
}

// of is the gateway in a container.
func of(r *runner) *remote.Conn {
	return (&remote.Client{Runner: r}).Gateway(&corev1.Pod{}, "kube-gateway")
}

func nothing(*pcapng.Reader, *pcapng.Block) error { return nil }

func TestEndsWhenAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var copied bytes.Buffer
	r := &runner{}
	s, err := Run(ctx, of(r), Options{Interface: "eth0", Ports: []uint16{1, 2}, SnapLen: 100, MaxBytes: 9}, func(_ *pcapng.Reader, b *pcapng.Block) error {
		if b.Packet != nil {
			cancel()
		}
		copied.Write(b.Raw)
		return nil
	})
	if err != nil || s != (Summary{Packets: 1, Bytes: uint64(copied.Len()), Dropped: 2, Complete: true}) {
		t.Errorf("%+v, %v", s, err)
	}
	want := []string{remote.GatewayProgram, "packets", "--interface=eth0", "--port=1", "--port=2", "--snaplen=100", "--duration=1h0m0s", "--max-bytes=9"}
	if !slices.Equal(r.command, want) {
		t.Errorf("command %q", r.command)
	}
}

func TestFailures(t *testing.T) {
	failed := errors.New("disk full")
	for name, c := range map[string]struct {
		write func(io.Reader, io.Writer) error
		take  func(*pcapng.Reader, *pcapng.Block) error
		want  func(error) bool
	}{
		"garbage": {
			write: func(_ io.Reader, w io.Writer) error {
				_, err := io.WriteString(w, strings.Repeat("garbage", 100))
				return err
			},
			want: func(err error) bool { return errors.Is(err, pcapng.ErrFormat) },
		},
		"an old gateway": {
			write: func(io.Reader, io.Writer) error {
				return &remote.ExitError{Command: "/kube-gateway", Code: 1, Stderr: "error: unknown command"}
			},
			want: func(err error) bool { return errors.As(err, new(*remote.ExitError)) && api.Hint(err) != "" },
		},
		"the file": {
			take: func(*pcapng.Reader, *pcapng.Block) error { return failed },
			want: func(err error) bool { return errors.Is(err, failed) },
		},
		"an end within": {
			write: func(_ io.Reader, w io.Writer) error {
				_, err := w.Write([]byte{0x0a, 0x0d, 0x0d})
				return err
			},
			want: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) },
		},
	} {
		take := c.take
		if take == nil {
			take = nothing
		}
		s, err := Run(t.Context(), of(&runner{write: c.write}), Options{}, take)
		if !c.want(err) || s.Complete {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
}

// endless is a container that records for as long as it is let.
type endless struct{ silent bool }

func (e endless) Run(ctx context.Context, _ remote.Ref, _ io.Reader, stdout io.Writer, _ ...string) error {
	w, err := pcapng.NewWriter(stdout, "test")
	if err == nil {
		_, err = w.AddInterface(pcapng.Interface{Name: "lo", LinkType: pcapng.LinuxSLL2})
	}
	for packet := make([]byte, pcapng.MaxPacket); err == nil && !e.silent && ctx.Err() == nil; {
		err = w.WritePacket(0, time.Now(), len(packet), nil, packet)
	}
	if err == nil {
		<-ctx.Done()
	}
	return context.Cause(ctx)
}

// TestBoundsHoldHere: a gateway that somebody has taken over heeds none.
func TestBoundsHoldHere(t *testing.T) {
	for name, e := range map[string]endless{"bytes": {}, "time": {silent: true}} {
		synctest.Test(t, func(t *testing.T) {
			written := 0
			s, err := Run(t.Context(), (&remote.Client{Runner: e}).Gateway(&corev1.Pod{}, "kube-gateway"), Options{MaxBytes: 1000},
				func(_ *pcapng.Reader, b *pcapng.Block) error {
					written += len(b.Raw)
					return nil
				})
			if !errors.Is(err, ErrUnbounded) || s.Complete || written > 1000+slack {
				t.Errorf("%s: %+v, %v, %d bytes", name, s, err, written)
			}
		})
	}
}
