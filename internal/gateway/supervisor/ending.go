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
	// handedOver means that another gateway has taken over.
	handedOver bool
	// drain is how long connections may go on.
	drain time.Duration
	// hasten shortens the drain under way, nil if there is none.
	hasten func(time.Duration)
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

// disable begins the end of a gateway that is disabled, or joins the one under way. If that is
// because another gateway has taken over, connections may go on for drain at most.
func (e *ending) disable(drain time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.disabled = true
	switch {
	case !closed(e.begun):
		e.drain = drain
		close(e.begun)
	case e.handedOver && e.hasten != nil:
		e.hasten(drain)
	case e.handedOver:
		e.drain = min(e.drain, drain)
	}
}

// handOver begins the end of a gateway that another one replaces. It returns false if another end has
// begun.
func (e *ending) handOver(drain time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if closed(e.begun) {
		return false
	}
	e.disabled, e.handedOver, e.drain = true, true, drain
	close(e.begun)
	return true
}

// isHandedOver reports whether a gateway that ends has been replaced.
func (e *ending) isHandedOver() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.handedOver
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
	e.hasten = func(drain time.Duration) { time.AfterFunc(drain, cancel) }
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
	case err == nil && e.isHandedOver():
		err = ErrHandedOver
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
