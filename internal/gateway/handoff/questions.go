//go:build linux

package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// answerInterval is the least time between two answers, after the first answerBurst of
	// them: each reads all sockets of the pod, and any client of the port may cause it.
	answerInterval = time.Second
	answerBurst    = 4
	// answerTimeout bounds the writing of an answer, to a socket that has room for it.
	answerTimeout = 2 * time.Second
)

// Questions is the supervisor's end of the socket to an exporter.
type Questions struct {
	conn *net.UnixConn
	// limit bounds how often there is an answer.
	limit *rate.Limiter
}

// ForExporter returns what an exporter is started with, and the socket for its questions.
func ForExporter(listener *os.File) (*Questions, *Start, error) {
	ours, theirs, err := packetSocket("exporter")
	if err != nil {
		return nil, nil, err
	}
	return newQuestions(ours), &Start{Files: []*os.File{theirs, listener}, end: theirs}, nil
}

func newQuestions(conn *net.UnixConn) *Questions {
	return &Questions{conn: conn, limit: rate.NewLimiter(rate.Every(answerInterval), answerBurst)}
}

// Close closes the supervisor's end, which ends the exporter.
func (q *Questions) Close() { q.conn.Close() }

// Answer answers questions with what read returns, nil for no status. It returns nil when ctx
// is done or one of the ends is closed.
func (q *Questions) Answer(ctx context.Context, read func() *api.Status) error {
	for {
		// One byte more than a question has, to detect longer packets. The kernel closes
		// files that come along, as there is no buffer for them.
		var b [2]byte
		n, err := q.conn.Read(b[:])
		switch {
		case ctx.Err() != nil, ended(err):
			return nil
		case err != nil:
			return fmt.Errorf("reading the exporter's question: %w", err)
		case n != 1 || b[0] != question:
			return errors.New("the exporter asks for something else than a status")
		}
		if q.limit.Wait(ctx) != nil {
			return nil
		}
		packet, err := encodeAnswer(read())
		if err != nil {
			return err
		}
		if err := q.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
			return fmt.Errorf("answering the exporter: %w", err)
		}
		if _, err = q.conn.Write(packet); ctx.Err() != nil || ended(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answering the exporter: %w", err)
		}
	}
}

// ended reports whether err says that one of the two ends was closed.
func ended(err error) bool {
	for _, e := range []error{io.EOF, unix.ECONNRESET, unix.EPIPE, net.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
