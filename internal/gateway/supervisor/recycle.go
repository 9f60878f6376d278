//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// Go's runtime never gives back the metadata and the spans of a burst, and little of its stacks. So a worker that has grown, and
// carries nothing, wishes for a fresh one in its place:
//
//  1. The fresh one is started and waits. It has the same listeners and raw sockets, and accepts nothing.
//  2. The settings stay as they are from here on. The worker is asked to quiesce: it accepts no more, unless a connection is
//     open. Then it goes on, and the fresh one ends.
//  3. What comes now waits in the backlogs, for milliseconds. The worker's edges are kept, and it ends.
//  4. The fresh one is told to serve.
//
// Until step 2 nothing has changed for the worker, and from there on it has nothing to lose. No connection is ever in both.

const (
	// RecycleInterval is the least time between two fresh workers: where each burst is followed by a pause, their starts take less
	// than a ten-thousandth of a processor.
	RecycleInterval = 10 * time.Minute
	// workerMemory is how much the pod must have left for another worker, in bytes: what one takes while it starts.
	workerMemory = 16 << 20
	// quietEnd is how long a worker that has quiesced may take to write its last lines and end.
	quietEnd = 2 * time.Second
)

// errChanged is why a fresh worker is not used.
var errChanged = errors.New("the gateway changes at the same time")

// untilRecycling is how long a wish for a fresh worker must wait.
func (s *supervisor) untilRecycling() time.Duration {
	return max(0, time.Until(s.recycled.Add(s.RecycleInterval)))
}

// recycle has a fresh worker serve in w's place, and returns it. It returns nil if w goes on, or has ended.
func (s *supervisor) recycle(ctx context.Context, w *worker) *worker {
	// However it ends: a worker decides how often it wishes.
	s.recycled = time.Now()
	if t := s.traffic.Traffic(); t.Outbound.Active+t.Inbound.Active > 0 {
		return nil // it wishes again when it is idle again
	}
	fresh, err := s.startFresh(ctx)
	if err == nil {
		err = s.handToFresh(w, fresh)
		if err != nil {
			err = errors.Join(err, fresh.kill())
			fresh.channel.Close()
		}
	}
	if err != nil {
		if ctx.Err() == nil && !closed(w.done) {
			s.Log.Info("the worker goes on, although it has grown", "reason", err.Error())
		}
		s.rest.Reset(restAfter)
		return nil
	}
	s.Log.Info("a fresh worker serves, as the one before had grown and was idle")
	return fresh
}

// startFresh starts a worker that waits for w's end.
func (s *supervisor) startFresh(ctx context.Context) (*worker, error) {
	if !s.memory.hasRoom(workerMemory) {
		return nil, errors.New("the pod has no memory for two")
	}
	fresh, err := s.startWorker(handoff.SharedAll)
	if err != nil {
		return nil, err
	}
	if err := fresh.awaitReady(ctx); err != nil {
		fresh.channel.Close()
		return nil, err
	}
	return fresh, nil
}

// handToFresh ends w if it is idle, and has fresh serve. After an error w goes on, or has ended.
func (s *supervisor) handToFresh(w, fresh *worker) error {
	s.settings.Lock()
	defer s.settings.Unlock()
	if s.settings.draining || s.settings.handing || s.settings.worker != w || s.settings.material != fresh.material {
		return errChanged
	}
	if err := s.quiesce(w); err != nil {
		return err
	}
	if s.settings.worker != w { // it has died
		return w.reason()
	}
	s.keepEdges()
	s.settings.worker = fresh
	quiet, cancel := context.WithTimeout(context.Background(), quietEnd)
	defer cancel()
	if err := w.drain(quiet, syscall.SIGTERM); err != nil {
		s.Log.Warn("the worker that had grown did not end by itself", "error", err)
	}
	w.channel.Close()
	// What they share is the fresh one's from here on.
	s.spool.Rest(func(lines []byte) { _, _ = os.Stdout.Write(lines) })
	_ = handoff.FreeSpool(s.counters) // it is empty anyway
	if err := fresh.signal(handoff.TakenOver); err != nil {
		// It is started again as any that has died.
		s.Log.Error("the fresh worker does not serve", "error", errors.Join(err, fresh.kill()))
	}
	st, _ := s.snapshot()
	s.serves(fresh, st.Worker.Restarts)
	// The timer of the question wakes this process once more.
	s.rest.Reset(applyTimeout + restAfter)
	return nil
}

// quiesce has w accept no more. An error means that w goes on, or is killed.
func (s *supervisor) quiesce(w *worker) error {
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return err
	}
	m.Quiesce = true
	ask, err := m.Seal()
	if err != nil {
		return err
	}
	defer ask.Close()
	return s.updateWorker(ask)
}

// keepEdges adds the edges of the worker that ends to those of the gateways before.
func (s *supervisor) keepEdges() {
	ctx, cancel := context.WithTimeout(s.life, edgesTimeout)
	defer cancel()
	edges, err := handoff.ReadEdges(ctx, s.listeners.edgesPath)
	if err != nil {
		s.Log.Warn("the edges until now are lost", "error", fmt.Errorf("asking the worker that ends: %w", err))
		return
	}
	s.inherited.keep(edges)
	s.handover.mu.Lock()
	defer s.handover.mu.Unlock()
	s.ownEdges = nil
}

// keep adds the edges of a worker that has ended.
func (i *inherited) keep(edges *api.Edges) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.workers = api.MergeEdges(i.workers, edges)
}
