//go:build linux

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
)

// Options say what a supervisor runs with.
type Options struct {
	// Material is the file that Seal made.
	Material *os.File
	// WorkerCommand starts a worker, in a process of its own.
	WorkerCommand []string
	// ExporterCommand starts an exporter, in a process of its own.
	ExporterCommand []string
	// SocketPath is where the control socket is opened.
	SocketPath string
	Version    string
	Log        *slog.Logger
	// Terminate is closed when the container is asked to end (SIGTERM).
	Terminate <-chan struct{}
	// CertificateTimeout is how long a gateway without a certificate waits for
	// its first one. The default is the constant of that name.
	CertificateTimeout time.Duration
}

const (
	// abortGrace is how long a worker may take to abort what is left.
	abortGrace = 5 * time.Second
	// readyTimeout bounds a worker's start.
	readyTimeout = 10 * time.Second
)

// supervisor is the state that the control socket reports.
type supervisor struct {
	Options
	programs  *bpf.Programs
	pod, own  bpf.Cgroup
	traffic   *proxy.Counters
	counters  *os.File
	listeners *Listeners
	settings  settings
	keys      pendingKeys
	existing  existingConnections
	end       *ending
	closing   sync.Once
	// stopExporter ends the serving of metrics, once, and returns when nothing of it
	// is left.
	stopExporter func()

	mu     sync.Mutex
	status api.Status // all but the counters
	// changed is closed and replaced whenever the state changes.
	changed chan struct{}
}

// Run is the life of a gateway: it returns nil when ctx is done, or Terminate is
// closed and the application has ended, ErrDisabled when the gateway was disabled,
// or the reason why it cannot work.
func Run(ctx context.Context, o Options) error {
	s := &supervisor{Options: o, changed: make(chan struct{}), end: newEnding()}
	if err := s.describe(); err != nil {
		return err
	}
	defer s.settings.close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ln, err := control.Listen(o.SocketPath)
	if err != nil {
		return err
	}
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() {
		if err := control.Serve(ctx, ln, s.answer); err != nil {
			o.Log.Error("the control socket failed", "error", err)
		}
	})
	return s.end.conclude(s.live(ctx))
}

// live sets everything up, serves, and takes it down again.
func (s *supervisor) live(ctx context.Context) error {
	if certified, err := s.awaitCertificate(ctx); !certified {
		return err
	}
	var err error
	if s.listeners, err = Listen(ctx); err != nil {
		return err
	}
	defer s.listeners.Close()
	metrics, err := listenMetrics(ctx, s.settings.config.MetricsAddr)
	if err != nil {
		return err
	}
	defer metrics.Close()
	if err := s.listeners.ListenEdges(EdgesPath(s.SocketPath)); err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return err
	}
	defer s.closePrograms()
	if err := s.listeners.ListenInband(ctx); err != nil {
		return err
	}
	if s.counters, err = createCounters(); err != nil {
		return err
	}
	defer s.counters.Close()
	if s.traffic, err = proxy.MapCounters(s.counters); err != nil {
		return err
	}
	s.stopExporter = s.startExporter(metrics)
	defer s.stopExporter()
	// Loading leaves garbage of several times the size of what stays.
	debug.FreeOSMemory()

	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() {
		select {
		case <-ctx.Done():
		case <-s.Terminate:
			s.Log.Info("asked to end: serving as long as the application runs")
			waitForApplication(ctx, s.pod.Path, s.own.Path)
			s.end.terminate()
		}
	})
	return s.serveUntilEnd(ctx)
}

// describe reads the material and fills in what a status says of it.
func (s *supervisor) describe() error {
	m, err := ReadMaterial(s.Material)
	if err != nil {
		return err
	}
	config, err := api.ParseConfig(m.Config)
	if err != nil {
		return err
	}
	s.settings.material, s.settings.config = s.Material, config
	s.status = api.Status{
		Version: s.Version, State: api.Starting, StartedAt: time.Now(),
		Pod: config.Pod, PodIPs: config.PodIPs, Mode: config.Mode, OnFailure: config.OnFailure,
		Wire: config.Wire, Allow: config.Allow, MetricsAddr: config.MetricsAddr,
		Capture: api.Capture{
			Ranges: config.Capture, Services: config.Services,
			Exclude: config.Exclude, ExcludePorts: config.ExcludePorts,
			Nodes: config.Nodes, NodePorts: config.NodePorts,
			PlaintextFrom: config.PlaintextFrom, BlockUDP: config.BlockUDP,
		},
	}
	if !m.certified() {
		own := identity.ID{TrustDomain: config.TrustDomain, Namespace: config.Pod.Namespace, ServiceAccount: config.Pod.ServiceAccount}
		if err := own.Validate(); err != nil {
			return fmt.Errorf("the pod's identity: %w", err)
		}
		s.status.State, s.status.Identity = api.Uncertified, own.String()
		return nil
	}
	chain, err := parseCertificates("gateway's certificate", string(m.Cert), maxChain)
	if err != nil {
		return err
	}
	roots, err := parseBundle(string(m.CA))
	if err != nil {
		return err
	}
	id, err := identity.FromCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("the gateway's certificate: %w", err)
	}
	s.status.Cert, s.status.Identity = describeCertificate(chain, roots), id.String()
	return nil
}

// load finds the pod's cgroup and attaches everything but the capture. What a
// gateway that died left there stays until StartCapture takes over from it, so
// that nothing leaves in plaintext meanwhile.
func (s *supervisor) load() error {
	var err error
	config := s.settings.config
	if s.pod, s.own, err = bpf.PodCgroup(config.Pod.UID); err != nil {
		return fmt.Errorf("finding the pod's cgroup: %w", err)
	}
	plaintextFrom := slices.Clone(config.PlaintextFrom)
	node, err := nodeSide(config.Capture)
	if err != nil {
		s.Log.Warn("the node's side of the pod's network is not known: its probes may be refused in strict mode", "error", err)
	}
	for _, r := range node {
		if !slices.Contains(plaintextFrom, r) {
			plaintextFrom = append(plaintextFrom, r)
		}
	}
	s.programs, err = bpf.Load(bpf.Options{
		Pod: s.pod, Own: s.own, PodIPs: config.PodIPs,
		Capture: config.Capture, Services: config.Services,
		Exclude: config.Exclude, ExcludePorts: config.ExcludePorts,
		InbandServices: config.Wire != api.WirePort,
		Nodes:          config.Nodes, NodePorts: config.NodePorts,
		PlaintextFrom: plaintextFrom, BlockUDP: config.BlockUDP,
		Strict:     config.Mode == api.Strict,
		KeepOnExit: config.OnFailure == api.FailClosed,
	})
	if err != nil {
		return fmt.Errorf("loading the eBPF programs: %w", err)
	}
	if err := s.programs.AttachSockets(); err != nil {
		s.closePrograms()
		return fmt.Errorf("attaching the eBPF programs: %w", err)
	}
	s.update(func(st *api.Status) { st.Capture.Cgroup, st.Capture.PlaintextFrom = s.pod.Rel, plaintextFrom })
	return nil
}

// closePrograms detaches and frees the programs, once.
func (s *supervisor) closePrograms() {
	s.closing.Do(func() {
		if err := s.programs.Close(); err != nil {
			s.Log.Error("detaching the eBPF programs failed", "error", err)
		}
	})
}

// keepWorker runs one worker after the other until ctx is done. A first worker
// that does not come up is the gateway's end; later ones are tried for ever.
func (s *supervisor) keepWorker(ctx context.Context) error {
	var backoff backoff
	for restarts := 0; ; restarts++ {
		started := time.Now()
		err := s.runWorker(ctx, restarts)
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

// runWorker runs one worker until it ends, and says why it did. When ctx is done,
// the worker lets its connections end first, as long as the end has patience.
func (s *supervisor) runWorker(ctx context.Context, restarts int) error {
	w, err := s.startWorker()
	if err != nil {
		return err
	}
	defer w.channel.close()
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case err := <-w.ready:
		if err != nil {
			return errors.Join(err, w.kill())
		}
	case <-w.done:
		return w.reason()
	case <-timeout.C:
		return errors.Join(fmt.Errorf("the worker was not ready within %v", readyTimeout), w.kill())
	case <-ctx.Done():
		return w.kill()
	}
	if err := s.serving(w, restarts); err != nil {
		return errors.Join(err, w.kill())
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		patience, cancel := s.end.patience()
		defer cancel()
		if err := w.drain(patience); err != nil {
			return err
		}
	}
	s.settings.leave(w)
	return w.reason()
}

// serving starts the capture, once there is somebody to capture for. From then
// on the worker is told of new settings.
func (s *supervisor) serving(w *worker, restarts int) error {
	s.settings.Lock()
	defer s.settings.Unlock()
	if s.settings.draining {
		return errDraining
	}
	if err := s.settings.enter(w); err != nil {
		return err
	}
	if !s.capturing() {
		if err := s.attach(); err != nil {
			return err
		}
		s.startExisting(s.settings.config.Existing)
		s.Log.Info("ready", "identity", s.status.Identity, "mode", s.status.Mode, "cgroup", s.pod.Rel)
	}
	s.update(func(st *api.Status) {
		st.State, st.Reason = api.Ready, ""
		st.Worker = api.Worker{PID: w.process.Pid, StartedAt: w.started, Restarts: restarts}
		st.Capture.Programs = s.programs.Attached()
	})
	return nil
}

// attach sends connections to a worker that is ready: inbound ones first, since
// a strict gateway that cannot guard them must not start.
func (s *supervisor) attach() error {
	if err := s.programs.AttachInbound(); err != nil {
		if s.settings.config.Mode == api.Strict {
			return api.WithHint(fmt.Errorf("guarding inbound connections: %w", err),
				"only permissive mode works without: 'kubectl gateway enable --mode=permissive'")
		}
		s.settings.unguarded = err
		s.Log.Warn("inbound connections cannot be steered", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "in-band wire and strict mode for inbound connections: "+oneLine(err.Error()))
		})
	}
	if err := s.programs.StartCapture(); err != nil {
		err = fmt.Errorf("starting the capture: %w", err)
		// What closed gateways leave behind would block the pod for good.
		if detachErr := s.programs.Detach(); detachErr != nil {
			err = errors.Join(err, detachErr)
		}
		return err
	}
	return nil
}

// capturing reports whether a worker has ever been ready.
func (s *supervisor) capturing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.State != api.Starting && s.status.State != api.Uncertified
}

func (s *supervisor) update(change func(*api.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

// snapshot returns the status as it is and a channel that is closed when the
// state changes.
func (s *supervisor) snapshot() (api.Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Capture.Programs, st.Missing = slices.Clone(st.Capture.Programs), slices.Clone(st.Missing)
	return st, s.changed
}

// answer serves the control socket.
func (s *supervisor) answer(ctx context.Context, r control.Request) (any, error) {
	if err := s.checkEnding(r); err != nil {
		return nil, err
	}
	switch r.Op {
	case control.OpStatus:
	case control.OpMode, control.OpAllow:
		if err := s.change(r); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpCSR:
		return s.requestCertificate()
	case control.OpCertificate:
		if err := s.takeCertificate(r.Issued); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpTrust:
		if err := s.takeTrust(r.Trust); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpReset:
		if err := s.resetExisting(); err != nil {
			return nil, err
		}
	case control.OpDisable:
		return s.disable(ctx, r.DrainTimeout)
	default:
		return nil, api.WithHint(fmt.Errorf("unknown request %q", r.Op), "use the plugin and the gateway image of one release")
	}
	timeout := time.After(r.Wait)
	for {
		st, changed := s.snapshot()
		// One without a certificate waits for whoever asks.
		if st.State == api.Ready || st.State == api.Uncertified || st.State == api.Draining || r.Wait <= 0 {
			return s.withCounters(st)
		}
		select {
		case <-changed:
		case <-timeout:
			r.Wait = 0
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// withCounters completes a status. Before the programs are loaded there is
// nothing to count.
func (s *supervisor) withCounters(st api.Status) (*api.Status, error) {
	st.Time = time.Now()
	if st.State == api.Starting || st.State == api.Uncertified {
		return &st, nil
	}
	c, err := s.programs.Counters()
	if err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	st.Capture.Captured, st.Capture.NoListener = c.Captured, c.NoListener
	st.Capture.ServicePassed, st.Capture.ServiceRefused = c.ServicePassed, c.ServiceRefused
	st.Capture.Uncapturable = c.Uncapturable
	st.Capture.UDP, st.Capture.UDPRefused = c.UDP, c.UDPRefused
	st.Capture.Steered = c.Steered
	st.Capture.PlaintextAllowed, st.Capture.PlaintextRefused = c.PlaintextAllowed, c.PlaintextRefused
	st.Traffic, st.Unencrypted = s.traffic.Traffic(), s.traffic.Unencrypted()
	s.withExisting(&st)
	return &st, nil
}
