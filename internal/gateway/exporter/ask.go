package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// asker asks the supervisor over a packet socket. Whoever comes while a question is
// under way gets its answer: the supervisor decides when it answers, and a status is
// read then and not before.
type asker struct {
	conn net.Conn

	mu sync.Mutex
	// pending is the question under way, nil if there is none.
	pending *question
	// ended is why nothing can be asked any more.
	ended error
}

type question struct {
	// answered is closed when status or err is set.
	answered chan struct{}
	status   *api.Status
	err      error
}

// ask returns a status, or an error when ctx is done before there is one.
func (a *asker) ask(ctx context.Context) (*api.Status, error) {
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
func (a *asker) join() (*question, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended != nil {
		return nil, a.ended
	}
	if a.pending != nil {
		return a.pending, nil
	}
	// It cannot block: the other end has read all that came before it answered.
	if _, err := a.conn.Write([]byte{Question}); err != nil {
		return nil, fmt.Errorf("asking for a status: %w", err)
	}
	a.pending = &question{answered: make(chan struct{})}
	return a.pending, nil
}

// listen hands out answers until the connection ends. It returns nil if the other end
// has closed it.
func (a *asker) listen() error {
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

func (a *asker) answer(status *api.Status, err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == nil {
		return errors.New("an answer came to no question")
	}
	a.pending.status, a.pending.err = status, err
	close(a.pending.answered)
	a.pending = nil
	return nil
}

// end fails the question under way, and all that follow.
func (a *asker) end(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = err
	if a.pending != nil {
		a.pending.err = err
		close(a.pending.answered)
		a.pending = nil
	}
}
