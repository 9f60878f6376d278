//go:build linux

package supervisor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// terminationDrain is how long connections may go on after the application has ended, when
// the pod ends, too.
const terminationDrain = 5 * time.Second

// ending is the orderly end of a gateway. It begins once: when the gateway is disabled, or
// when its pod ends.
type ending struct {
	mu sync.Mutex
	// disabled means that nothing may stay in the kernel, not even with api.FailClosed.
	disabled bool
	// drain is how long connections may go on.
	drain time.Duration
	// begun is closed when the end begins, over when report and err are set.
	begun, over chan struct{}
	report      api.DisableReport
	err         error
	// hurried is closed when connections may go on for terminationDrain at most.
	hurried chan struct{}
}

func newEnding() *ending {
	return &ending{begun: make(chan struct{}), over: make(chan struct{}), hurried: make(chan struct{})}
}

// disable begins the end of a gateway that is disabled, or joins the one under way.
func (e *ending) disable(drain time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disabled = true
	if !closed(e.begun) {
		e.drain = drain
		close(e.begun)
	}
}

// terminate begins the end of a gateway whose pod ends, or shortens the one under way.
func (e *ending) terminate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !closed(e.begun) {
		e.drain = terminationDrain
		close(e.begun)
	}
	if !closed(e.hurried) {
		close(e.hurried)
	}
}

// isDisabled reports whether a gateway that ends was disabled.
func (e *ending) isDisabled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.disabled
}

// patience returns a context that is done when the rest is to be aborted.
func (e *ending) patience() (context.Context, context.CancelFunc) {
	e.mu.Lock()
	ctx, cancel := context.WithTimeout(context.Background(), e.drain)
	e.mu.Unlock()
	go func() {
		select {
		case <-ctx.Done():
			return
		case <-e.hurried:
		}
		select {
		case <-ctx.Done():
		case <-time.After(terminationDrain):
			cancel()
		}
	}()
	return ctx, cancel
}

// conclude answers the requests for the end. The report is complete by then.
func (e *ending) conclude(err error) error {
	switch {
	case err == nil && e.isDisabled() && len(e.report.Left) > 0:
		err = api.WithHint(fmt.Errorf("the gateway was disabled, but is still in the kernel: %s", strings.Join(e.report.Left, ", ")),
			"'kubectl gateway disable' again removes what a gateway that has ended left")
	case err == nil && e.isDisabled():
		err = ErrDisabled
	default:
		e.err = err
	}
	close(e.over)
	return err
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
