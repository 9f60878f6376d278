//go:build linux

package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Asker is the exporter's end of the socket for questions. Concurrent calls share one question:
// the supervisor decides when it answers, and reads the status then and not before.
type Asker struct {
	conn net.Conn

	mu sync.Mutex
	// pending is the question under way, nil if there is none.
	pending *pending
	// ended is why no question can be asked.
	ended error
}

// InheritExporter takes over what ForExporter returned: the listener for metrics and the
// socket for questions.
func InheritExporter() (net.Listener, *Asker, error) {
	var files inherited
	asker, err := NewAsker(files.file("supervisor"))
	if err != nil {
		return nil, nil, err
	}
	ln, err := files.listener("listener for metrics")
	if err != nil {
		asker.Close()
		return nil, nil, err
	}
	return ln, asker, nil
}

// NewAsker returns an Asker over a packet socket, and closes the file.
func NewAsker(socket *os.File) (*Asker, error) {
	conn, err := unixConn(socket)
	if err != nil {
		return nil, err
	}
	return &Asker{conn: conn}, nil
}

// Close closes the exporter's end.
func (a *Asker) Close() { a.conn.Close() }

// pending is a question under way.
type pending struct {
	// answered is closed when status or err is set.
	answered chan struct{}
	status   *api.Status
	err      error
}

// Ask returns a status, or an error when ctx is done before there is one.
func (a *Asker) Ask(ctx context.Context) (*api.Status, error) {
	q, err := a.join()
	if err != nil {
		return nil, err
	}
	select {
	case <-q.answered:
		return q.status, q.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for a status: %w", context.Cause(ctx))
	}
}

// join returns the question under way, after asking it if there was none.
func (a *Asker) join() (*pending, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended != nil {
		return nil, a.ended
	}
	if a.pending != nil {
		return a.pending, nil
	}
	// It does not block: the supervisor has read all earlier questions before it answered.
	if _, err := a.conn.Write([]byte{question}); err != nil {
		return nil, fmt.Errorf("asking for a status: %w", err)
	}
	a.pending = &pending{answered: make(chan struct{})}
	return a.pending, nil
}

// Listen receives answers until one of the ends is closed. It returns nil if that is the
// supervisor's.
func (a *Asker) Listen() error {
	packet := make([]byte, maxAnswer+1)
	for {
		n, err := a.conn.Read(packet)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			a.end(errors.New("the gateway is ending"))
			return err
		}
		status, err := parseAnswer(packet[:n])
		if err == nil || errors.Is(err, errNoStatus) {
			err = a.answer(status, err)
		}
		if err != nil {
			a.end(err)
			return err
		}
	}
}

func (a *Asker) answer(status *api.Status, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == nil {
		return errors.New("an answer came without a question")
	}
	a.pending.status, a.pending.err = status, err
	close(a.pending.answered)
	a.pending = nil
	return nil
}

// end fails the question under way and all later ones.
func (a *Asker) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = err
	if a.pending != nil {
		a.pending.err = err
		close(a.pending.answered)
		a.pending = nil
	}
}
