//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Options say what a supervisor runs with.
type Options struct {
	// Material is the file that handoff.Material.Seal made.
	Material *os.File
	// LoaderCommand loads the eBPF programs, in a process of its own.
	LoaderCommand []string
	// WorkerCommand starts a worker, in a process of its own.
	WorkerCommand []string
	// ExporterCommand starts an exporter, in a process of its own.
	ExporterCommand []string
	// SocketPath is where the control socket is opened.
	SocketPath string
	// StatusPort is that of an api.StatusPort, 0 for none.
	StatusPort uint16
	Version    string
	Log        *slog.Logger
	// Refusals logs connections that are refused at their SYN. Budget bounds it and Log.
	Refusals *slog.Logger
	Budget   *journal.Budget
	// Terminate is closed when the container is asked to end (SIGTERM).
	Terminate <-chan struct{}
	// CertificateTimeout is how long a gateway without a certificate waits for
	// its first one. The default is the constant of that name.
	CertificateTimeout time.Duration
	// PortTimeout is how long a gateway waits for a port that another socket of the pod
	// holds.
	PortTimeout time.Duration
	// RecycleInterval is the least time between two fresh workers in the place of idle ones that have grown; 0 is never.
	RecycleInterval time.Duration
}

// supervisor is a gateway, seen from its privileged half.
type supervisor struct {
	Options
	state
	settings settings
	keys     pendingKeys
	existing existingConnections
	refused  refusedStrangers
	end      *ending
	oom      protection
	handover
	inherited inherited

	// recycled is when a fresh worker was last started in the place of an idle one. It belongs to keepWorker.
	recycled time.Time

	// rest gives memory back once nothing has happened for restAfter.
	rest *time.Timer

	// life ends when the gateway does, and background is waited for then.
	life       context.Context
	background sync.WaitGroup
	// takeovers has what a gateway in standby is told.
	takeovers chan *predecessor
	// serving is closed when the gateway serves.
	serving chan struct{}

	// These are set by live.

	programs  *bpf.Programs
	pod, own  bpf.Cgroup
	closing   sync.Once // of programs
	memory    podMemory
	listeners listeners
	// metrics is the listener for metrics, nil without one.
	metrics *os.File
	// predecessor is the gateway that this one takes over from, nil if there is none.
	predecessor *predecessor
	// traffic and spool lie in the file counters, which workers map.
	traffic  *traffic.Counters
	spool    *journal.Spool
	counters *os.File
	// stopExporter ends the exporter, once, and waits until it has ended.
	stopExporter func()
	// stopFollowing ends follow, once, and waits until it has ended.
	stopFollowing func()
}

// Run runs a gateway. It returns nil when ctx is done, or when Terminate is closed and the
// application has ended; ErrDisabled when the gateway was disabled, and ErrHandedOver when another one
// has taken over; otherwise the reason why it cannot work, which is ErrUnserved if it has left nothing.
func Run(ctx context.Context, o Options) error {
	s := &supervisor{
		Options: o, state: state{changed: make(chan struct{})}, end: newEnding(),
		handover:  handover{withdrawn: make(chan struct{})},
		takeovers: make(chan *predecessor), serving: make(chan struct{}),
	}
	if err := s.describe(); err != nil {
		return err
	}
	defer func() { s.settings.material.Close() }()
	if s.oom = protect(); s.oom.missing != nil {
		// A status says so where the pod has a limit.
		o.Log.Info("the gateway may end where the pod's memory is used up", "error", s.oom.missing)
	}

	program := memory.OwnProgram()
	s.rest = time.AfterFunc(restAfter, func() {
		// While it starts there would be dozens of collections.
		debug.SetGCPercent(GCPercent)
		program.Tidy()
	})
	defer s.rest.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ln, err := control.Listen(o.SocketPath)
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	before := s.startedBefore()
	isIdle := s.settings.config.Sidecar && errors.Is(before, ErrDisabled)
	if before != nil && !isIdle {
		ln.Close()
		return before
	}
	if isIdle {
		s.update(func(st *api.Status) { st.State = api.Disabled })
	}
	s.life = ctx
	defer s.background.Wait()
	defer cancel()
	s.background.Go(func() {
		if err := control.Serve(ctx, ln, s.answer); err != nil {
			o.Log.Error("the control socket failed", "error", err)
		}
	})
	if isIdle {
		return s.idle(ctx)
	}
	podUID := s.settings.config.Pod.UID
	s.background.Go(func() { s.serveReaders(ctx, podUID) })
	err = s.live(ctx)
	if errors.Is(err, errEndedMeanwhile) {
		err = nil
	}
	if err != nil && s.programs == nil {
		err = unserved{err}
	}
	if err == nil {
		err = s.sweep()
	}
	if err == nil && s.end.isDisabled() && len(s.end.report.Left) == 0 {
		s.noteEnded(s.settings.config.Number)
	}
	return s.end.conclude(err)
}

// live sets everything up, serves, and takes it down again.
func (s *supervisor) live(ctx context.Context) (err error) {
	if certified, err := s.awaitCertificate(ctx); !certified {
		return err
	}
	s.listeners.edgesPath, s.listeners.whenFree = handoff.EdgesPath(s.SocketPath), s.whenFree
	s.reserve(api.PeerPort)
	defer s.release()
	defer s.listeners.close()
	replaces := s.settings.config.Replaces != ""
	if !replaces {
		if err := s.listeners.awaitPeer(ctx); err != nil {
			return err
		}
	}
	if err := s.listeners.openEdges(); err != nil {
		return err
	}
	metrics, err := listenMetrics(ctx, s.settings.config.MetricsAddr)
	// The one that this gateway replaces has the port.
	if err != nil && !(replaces && errors.Is(err, unix.EADDRINUSE)) {
		return err
	}
	s.metrics = metrics
	defer func() { s.metrics.Close() }()
	if err := s.load(ctx); err != nil {
		return err
	}
	defer func() { err = s.unload(err) }()
	defer s.memory.gauge.Close()
	ports, err := s.listeners.openMarked(ctx)
	if err != nil {
		return err
	}
	if err := s.programs.SetListeners(ports); err != nil {
		return err
	}
	s.spread()
	s.routeSources()
	s.hold()
	s.watchUrgent()
	s.reserve(ports.Capture, ports.Inband)
	s.update(func(st *api.Status) { st.Listeners = ports })
	shared, counters, err := handoff.NewSharedMemory()
	if err != nil {
		return err
	}
	s.traffic, s.spool, s.counters = shared.Counters, shared.Spool, counters
	s.boundLog()
	defer s.counters.Close()
	if replaces {
		s.rest.Reset(restAfter)
		if goes, err := s.standBy(ctx); !goes {
			return err
		}
		if p := s.predecessor; p != nil {
			defer p.close()
			if s.metrics == nil {
				s.metrics = p.metrics
			}
		}
	}
	s.stopExporter = s.startExporter(s.metrics)
	defer s.stopExporter()
	s.stopFollowing = s.follow(ctx)
	defer s.stopFollowing()
	s.rest.Reset(restAfter)

	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() {
		select {
		case <-ctx.Done():
		case <-s.Terminate:
			s.Log.Info("asked to end: serving as long as the application runs")
			waitForApplication(ctx, s.pod.Path, s.own.Path, s.programs.Gateways)
			s.end.terminate()
		}
	})
	return s.serveUntilEnd(ctx)
}

// GCPercent keeps the heap of a process with little to do small (see runtime/debug.SetGCPercent).
const GCPercent = 20

// restAfter is for how long nothing must have happened until memory is given back, and restAfterMany that after what strangers
// can have happen as often as they like.
const (
	restAfter     = time.Second
	restAfterMany = 10 * time.Second
)
