//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// A process of its own serves metrics over TCP, and only if a port is configured: the
// supervisor has all privileges, the worker has the key, and neither should parse what
// strangers send to such a port.

// exporterGrace is how long an exporter may take to end.
const exporterGrace = 3 * time.Second

// listenMetrics opens the listener for metrics, nil if there is to be none. The empty
// address of addr is the dual-stack wildcard.
func listenMetrics(ctx context.Context, addr string) (*os.File, error) {
	if addr == "" {
		return nil, nil
	}
	at, err := api.ParseMetricsAddr(addr)
	if err != nil {
		return nil, err
	}
	address := ":" + strconv.Itoa(int(at.Port()))
	if at.Addr().IsValid() {
		address = at.String()
	}
	f, err := listen(ctx, address)
	if err != nil {
		err = fmt.Errorf("serving metrics: %w", err)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = api.WithHint(err, "a container of this pod uses the port, or another gateway still runs there: give another one to --metrics-addr")
	}
	return f, err
}

// startExporter keeps an exporter running on the listener until the function that it
// returns is called, which returns when exporter and listener are gone. Without an
// address there is nothing to do. A gateway that takes over exports nothing before: its totals
// are not complete. Without a listener it opens its own then.
func (s *supervisor) startExporter(listener *os.File) (stop func()) {
	if s.settings.config.MetricsAddr == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() {
		defer func() { listener.Close() }()
		if s.settings.config.Replaces != "" {
			select {
			case <-s.serving:
			case <-ctx.Done():
				return
			}
		}
		if listener == nil {
			if listener = s.awaitMetrics(ctx); listener == nil {
				return
			}
		}
		s.keepExporter(ctx, listener)
	})
	return sync.OnceFunc(func() {
		cancel()
		keeping.Wait()
	})
}

// awaitMetrics opens the listener for metrics once the gateway before has closed its own. It returns
// nil when ctx is done.
func (s *supervisor) awaitMetrics(ctx context.Context) *os.File {
	var backoff backoff
	for {
		started := time.Now()
		f, err := listenMetrics(ctx, s.settings.config.MetricsAddr)
		if err == nil {
			return f
		}
		if !backoff.pause(ctx, started) {
			return nil
		}
		s.Log.Error("metrics are not served yet", "error", err)
	}
}

// keepExporter runs one exporter after the other until ctx is done. Connections wait
// in the listener's backlog for the next one. No traffic depends on it.
func (s *supervisor) keepExporter(ctx context.Context, listener *os.File) {
	var backoff backoff
	for {
		started := time.Now()
		err := s.runExporter(ctx, listener)
		if ctx.Err() != nil {
			return
		}
		s.Log.Error("the exporter of metrics ended and is started again", "error", err)
		if !backoff.pause(ctx, started) {
			return
		}
	}
}

// runExporter runs one exporter until it ends or ctx is done.
func (s *supervisor) runExporter(ctx context.Context, listener *os.File) error {
	questions, start, err := handoff.ForExporter(listener)
	if err != nil {
		return err
	}
	defer questions.Close()
	c, err := startChild("exporter", s.ExporterCommand, api.ExporterID, start.Files, nil, s.oom)
	start.Close()
	if err != nil {
		return err
	}
	answered := make(chan error, 1)
	go func() { answered <- questions.Answer(ctx, s.statusNow) }()
	select {
	case <-c.done:
		return c.reason()
	case err := <-answered:
		if err != nil {
			// An exporter of this build sends nothing else than questions.
			return errors.Join(err, c.kill())
		}
	case <-ctx.Done():
	}
	// The exporter ends with its socket.
	questions.Close()
	select {
	case <-c.done:
		return c.reason()
	case <-time.After(exporterGrace):
		return errors.Join(fmt.Errorf("the exporter did not end within %v", exporterGrace), c.kill())
	}
}

// statusNow returns the answer to a request for the status, nil if there is none.
func (s *supervisor) statusNow() *api.Status {
	status, err := s.describeNow()
	if err != nil {
		s.Log.Error("there is no status for the exporter of metrics", "error", err)
		return nil
	}
	return status
}
