// Package packets receives the packets of a pod from its gateway, which records them.
package packets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

// Default bounds of a recording.
const (
	DefaultDuration = time.Hour
	DefaultMaxBytes = 1 << 30
	// endTimeout bounds the wait for the rest of a recording that was asked to end.
	endTimeout = 10 * time.Second
	// A gateway that was taken over may heed no bound. A recording may be larger by slack, for its last packet and what
	// stands behind that, in bytes, and later by patience, for the start of the command.
	slack    = 1 << 20
	patience = time.Minute
)

// ErrUnbounded says that a recording goes on beyond its bounds.
var ErrUnbounded = errors.New("the recording goes on beyond its bounds")

// Options say what to record.
type Options struct {
	// Interface is the only interface to record, all if empty.
	Interface string
	// Ports are those of TCP and UDP, all traffic if empty.
	Ports []uint16
	// SnapLen is how many bytes of a packet to keep, all if 0.
	SnapLen int
	// Duration and MaxBytes end the recording, by default DefaultDuration and
	// DefaultMaxBytes.
	Duration time.Duration
	MaxBytes int64
}

func (o *Options) command() []string {
	command := []string{"packets"}
	if o.Interface != "" {
		command = append(command, "--interface="+o.Interface)
	}
	for _, port := range o.Ports {
		command = append(command, "--port="+strconv.Itoa(int(port)))
	}
	if o.SnapLen > 0 {
		command = append(command, "--snaplen="+strconv.Itoa(o.SnapLen))
	}
	return append(command, "--duration="+cmp.Or(o.Duration, DefaultDuration).String(), "--max-bytes="+strconv.FormatInt(cmp.Or(o.MaxBytes, DefaultMaxBytes), 10))
}

// Summary counts what was recorded.
type Summary struct {
	Packets, Bytes uint64
	// Dropped counts packets that the kernel had no room for. It is known only if
	// Complete.
	Dropped uint64
	// Complete reports whether the recording has its end.
	Complete bool
}

// Run records in the pod of a gateway until ctx is done or one of the bounds is
// met, and hands each block to take, which must not keep it. The recording has begun
// when the first block arrives. A ctx that is done is not an error.
func Run(ctx context.Context, g *remote.Conn, o Options, take func(*pcapng.Reader, *pcapng.Block) error) (Summary, error) {
	execCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	hold, letGo := io.Pipe()
	// The streams' library reads from it until it is closed.
	defer letGo.Close()
	defer context.AfterFunc(ctx, func() {
		// A word and then the end: not every protocol can say the latter.
		go func() {
			_, _ = letGo.Write([]byte("end\n"))
			letGo.Close()
		}()
		time.AfterFunc(endTimeout, func() { cancel(errors.New("the recording does not end")) })
	})()

	late := time.AfterFunc(cmp.Or(o.Duration, DefaultDuration)+patience, func() { cancel(ErrUnbounded) })
	defer late.Stop()

	stream, out := io.Pipe()
	var summary Summary
	read := make(chan error, 1)
	go func() {
		err := summary.read(stream, uint64(cmp.Or(o.MaxBytes, DefaultMaxBytes))+slack, take)
		if err != nil {
			cancel(err)
		}
		// The command must not hang in a write.
		stream.CloseWithError(err)
		read <- err
	}()
	err := g.Run(execCtx, hold, out, o.command()...)
	out.Close()
	readErr := <-read
	switch {
	case err != nil && context.Cause(execCtx) == nil:
		return summary, explain(g.Ref(), err)
	case readErr != nil:
		return summary, fmt.Errorf("reading the packets of pod %s/%s: %w", g.Ref().Namespace, g.Ref().Pod, readErr)
	}
	return summary, err
}

// explain adds what to do if the gateway is too old to know the command.
func explain(g remote.Ref, err error) error {
	var exit *remote.ExitError
	if errors.As(err, &exit) && exit.Code == 1 && api.Hint(err) == "" {
		return api.WithHint(fmt.Errorf("recording in pod %s/%s: %w", g.Namespace, g.Pod, err),
			"a gateway of an older version cannot record: compare 'kubectl gateway version' with the image of the container")
	}
	return err
}

// read reads a recording of at most so many bytes to its end.
func (s *Summary) read(r io.Reader, most uint64, take func(*pcapng.Reader, *pcapng.Block) error) error {
	in := pcapng.NewReader(r)
	for {
		block, err := in.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		if s.Bytes += uint64(len(block.Raw)); s.Bytes > most {
			return ErrUnbounded
		}
		if block.Packet != nil {
			s.Packets++
		}
		if block.Statistics != nil {
			s.Dropped += block.Statistics.Dropped
			s.Complete = true
		}
		if err := take(in, block); err != nil {
			return err
		}
	}
}
