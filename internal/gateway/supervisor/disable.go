//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// ErrDisabled ends a gateway that was disabled and left nothing in the kernel. Its text is
// the termination message.
var ErrDisabled = errors.New(api.DisabledMessage)

// ErrHandedOver is ErrDisabled of a gateway that has handed over to another one.
var ErrHandedOver = errors.New(api.HandedOverMessage)

// leftTimeout bounds the wait for the kernel to free what was removed.
const leftTimeout = 10 * time.Second

// disable ends the gateway and returns a report. It goes on when ctx is done: a gateway
// cannot be half disabled.
func (s *supervisor) disable(ctx context.Context, drain time.Duration) (*api.DisableReport, error) {
	if drain < 0 {
		return nil, fmt.Errorf("drain timeout %v is negative", drain)
	}
	s.end.disable(drain)
	select {
	case <-s.end.over:
	case <-ctx.Done():
		// The end of the gateway cancels all requests, but only after over is closed.
		if !closed(s.end.over) {
			return nil, ctx.Err()
		}
	}
	if s.end.err != nil {
		return nil, s.end.err
	}
	return &s.end.report, nil
}

// errEnding answers a request that comes too late.
var errEnding = api.WithHint(errors.New("the gateway is being disabled"), "enable the pod again once it has ended")

// serveUntilEnd keeps a worker running until the end begins, and carries out the end. It
// returns an error if the gateway cannot work.
func (s *supervisor) serveUntilEnd(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	kept := make(chan error, 1)
	go func() { kept <- s.keepWorker(ctx) }()
	select {
	case err := <-kept:
		return err
	case <-s.end.begun:
	}
	// Only a worker can serve the connections in the backlogs. If one has just ended, the next
	// one is awaited.
	s.await(context.Background(), readyTimeout, api.Degraded)
	ended := s.traffic.Ended.Load()
	traces, err := s.withdraw()
	if err != nil {
		// The report names what stays.
		s.Log.Error("withdrawing from the pod failed", "error", err)
	}
	close(s.withdrawn)
	stop()
	err = <-kept
	s.end.report.Drained, s.end.report.Aborted = s.drained(ended)
	if !s.end.isDisabled() {
		return err
	}
	if s.end.isHandedOver() {
		s.lastTotals, _ = s.totals(false)
	}
	s.stopExporter()
	s.stopFollowing()
	s.end.report.Left = s.remove(traces)
	s.Log.Info("disabled", "drained", s.end.report.Drained, "aborted", s.end.report.Aborted, "left", s.end.report.Left)
	return nil
}

// withdraw takes the gateway out of the way of new connections. First it detaches what
// sends connections to the gateway, then it closes the supervisor's listeners. The worker
// has the same ones and serves what was sent there before.
//
// Where the whole pod ends, a gateway that fails closed stays closed.
func (s *supervisor) withdraw() (*bpf.Traces, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	s.settings.draining = true
	if s.end.isHandedOver() {
		return s.retire()
	}
	s.update(func(st *api.Status) { st.State, st.Reason = api.Draining, "" })
	traces, err := s.programs.Traces()
	if s.end.isDisabled() || s.settings.config.OnFailure == api.FailOpen {
		s.Log.Info("capture stopped, connections may end", "within", s.end.drain.Seconds())
		err = errors.Join(err, s.programs.StopCapture(), s.programs.StopInbound())
		s.update(func(st *api.Status) { st.Capture.Programs = s.programs.Attached() })
	}
	s.listeners.close()
	return traces, err
}

// drained returns how many connections ended by themselves after the first ended ones, and
// how many did not, including those of a worker that died meanwhile.
func (s *supervisor) drained(ended uint64) (drained, aborted uint64) {
	total, aborted := s.traffic.Ended.Load(), s.traffic.Aborted.Load()
	t := s.traffic.Traffic()
	// The worker writes these numbers: they may be anything.
	drained = total - min(total, ended)
	drained -= min(drained, aborted)
	return drained, aborted + uint64(max(0, t.Outbound.Active)) + uint64(max(0, t.Inbound.Active))
}

// remove removes everything from the kernel and returns what stays there.
func (s *supervisor) remove(traces *bpf.Traces) []string {
	if err := s.programs.Detach(); err != nil {
		s.Log.Error("detaching the eBPF programs failed", "error", err)
	}
	return s.free(traces)
}

// free frees the programs and returns what stays in the kernel.
func (s *supervisor) free(traces *bpf.Traces) []string {
	s.closePrograms()
	if traces == nil {
		return []string{"unknown: what the gateway had in the kernel could not be listed"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), leftTimeout)
	defer cancel()
	left, err := traces.Left(ctx)
	if err != nil {
		left = append(left, "unknown: "+api.OneLine(err.Error()))
	}
	return left
}
