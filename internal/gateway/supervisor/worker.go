//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

const (
	// abortGrace is how long a worker may take to abort what is left.
	abortGrace = 5 * time.Second
	// readyTimeout bounds a worker's start.
	readyTimeout = 10 * time.Second
)

// keepWorker runs one worker after the other until ctx is done. A first worker
// that does not become ready ends the gateway; later ones are tried forever.
func (s *supervisor) keepWorker(ctx context.Context) error {
	var backoff backoff
	for restarts := 0; ; restarts++ {
		started := time.Now()
		err := s.memory.explain(s.runWorker(ctx, restarts))
		// What it has not written goes before the lines about its end.
		s.spool.Rest(func(lines []byte) { _, _ = os.Stdout.Write(lines) })
		if ctx.Err() != nil {
			return nil
		}
		if !s.capturing() {
			return err
		}
		s.Log.Error("the worker ended and is started again", "error", err)
		s.update(func(st *api.Status) {
			if st.State != api.Draining {
				st.State, st.Reason = api.Degraded, err.Error()
			}
		})
		s.traffic.ResetActive()
		if !backoff.pause(ctx, started) {
			return nil
		}
	}
}

// runWorker runs one worker until it ends, or fresh ones in its place, and says why the last one did. When ctx is done,
// the worker lets its connections end first, as long as the end has patience.
func (s *supervisor) runWorker(ctx context.Context, restarts int) error {
	w, err := s.startWorker(s.listeners.Shared)
	if err != nil {
		return err
	}
	defer func() { w.channel.Close() }()
	if err := w.awaitReady(ctx); err != nil {
		return err
	}
	if err := s.startServing(w, restarts); err != nil {
		return errors.Join(err, w.kill())
	}
	// due is when a fresh worker is started. Meanwhile further wishes change nothing.
	var due <-chan time.Time
	for {
		wishes := w.wishes
		if due != nil || s.RecycleInterval <= 0 {
			wishes = nil
		}
		select {
		case <-wishes:
			due = time.After(s.untilRecycling())
			continue
		case <-due:
			due = nil
			if fresh := s.recycle(ctx, w); fresh != nil {
				w = fresh
			}
			continue
		case <-w.done:
		case <-ctx.Done():
			patience, cancel := s.end.patience()
			defer cancel()
			first := syscall.SIGTERM
			if s.end.isHandedOver() {
				first = handoff.HandedOver
			}
			if err := w.drain(patience, first); err != nil {
				return err
			}
		}
		s.settings.Lock()
		defer s.settings.Unlock()
		if s.settings.worker == w {
			s.settings.worker = nil
		}
		return w.reason()
	}
}

// startServing starts the capture for a worker that is ready. From then on the worker gets
// new settings.
func (s *supervisor) startServing(w *worker, restarts int) error {
	s.settings.Lock()
	defer s.settings.Unlock()
	if s.settings.draining {
		return errDraining
	}
	if w.material != s.settings.material {
		if err := w.channel.Apply(s.settings.material, applyTimeout); err != nil {
			return fmt.Errorf("bringing a new worker up to date: %w", err)
		}
	}
	s.settings.worker = w
	if !s.capturing() {
		if err := s.takeOverBy(w, s.attach); err != nil {
			return err
		}
		s.noteEnded(s.settings.config.Number - 1)
		s.startExisting(s.settings.config.Existing)
		s.Log.Info("ready", "identity", s.status.Identity, "mode", s.status.Mode, "cgroup", s.pod.Rel)
	}
	s.serves(w, restarts)
	if !closed(s.serving) {
		close(s.serving)
	}
	return nil
}

// serves has the status name w.
func (s *supervisor) serves(w *worker, restarts int) {
	s.update(func(st *api.Status) {
		st.State, st.Reason = api.Ready, ""
		st.Worker = api.Worker{PID: w.process.Pid, StartedAt: w.started, Restarts: restarts, Confinement: w.confinement}
		st.Capture.Programs = s.programs.Attached()
	})
	s.rest.Reset(restAfter)
}

// worker is one run of the unprivileged process that carries the traffic.
type worker struct {
	*child
	// material is what it was started with.
	material *os.File
	channel  *handoff.Channel
	// ready gets nil once the worker serves, or an error if it sends anything else. confinement is known
	// then.
	ready       chan error
	confinement api.Confinement
	// wishes has a value for each wish of the worker for a fresh one in its place.
	wishes chan struct{}
}

// startWorker starts a worker with the newest material, beside others that serve what is shared.
func (s *supervisor) startWorker(shared handoff.Shared) (*worker, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	if s.settings.draining {
		return nil, errDraining
	}
	listeners := s.listeners.Listeners
	listeners.Shared = shared
	channel, start, err := handoff.ForWorker(s.settings.material, s.counters, &listeners, s.memory.gauge)
	if err != nil {
		return nil, err
	}
	defer start.Close()
	c, err := startChild("worker", slices.Concat(s.WorkerCommand, start.Args), api.WorkerID, start.Files, os.Stdout, s.oom)
	if err != nil {
		channel.Close()
		return nil, err
	}
	w := &worker{child: c, material: s.settings.material, channel: channel, ready: make(chan error, 1), wishes: make(chan struct{})}
	go func() {
		var err error
		// How a worker has ended is in child.
		if w.confinement, err = channel.AwaitReady(); !errors.Is(err, io.EOF) {
			w.ready <- err
		}
		for err == nil && channel.AwaitWish() == nil {
			select {
			case w.wishes <- struct{}{}:
			case <-w.done:
			}
		}
	}()
	return w, nil
}

// awaitReady waits until the worker is ready. After an error it has ended.
func (w *worker) awaitReady(ctx context.Context) error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case err := <-w.ready:
		if err != nil {
			return errors.Join(err, w.kill())
		}
		return nil
	case <-w.done:
		return w.reason()
	case <-timeout.C:
		return errors.Join(fmt.Errorf("the worker was not ready within %v", readyTimeout), w.kill())
	case <-ctx.Done():
		return errors.Join(ctx.Err(), w.kill())
	}
}

// drain has the worker let its connections end, by the first signal, and abort the rest when patience
// is done. It waits until the worker has ended.
func (w *worker) drain(patience context.Context, first os.Signal) error {
	if err := w.signal(first); err != nil {
		return errors.Join(err, w.kill())
	}
	select {
	case <-w.done:
		return nil
	case <-patience.Done():
	}
	// The second signal differs from the first: the kernel may merge two of a kind.
	if err := w.signal(os.Interrupt); err != nil {
		return errors.Join(err, w.kill())
	}
	select {
	case <-w.done:
		return nil
	case <-time.After(abortGrace):
		return errors.Join(fmt.Errorf("the worker did not end within %v", abortGrace), w.kill())
	}
}
