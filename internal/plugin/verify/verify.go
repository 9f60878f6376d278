package verify

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/pcapng"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/packets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
)

const (
	// DefaultTimeout is how long one pair may take.
	DefaultTimeout = 30 * time.Second
	// settleTime is how long to wait for a canary that an application took, and
	// for the line of a connection in the log.
	settleTime = 5 * time.Second
	// captureBytes bounds a capture, and so the time that it takes.
	captureBytes = 256 << 20
)

var (
	// ErrNoGateway says that no gateway runs in the first pod: nothing can be
	// captured in it, and nothing is encrypted that it says.
	ErrNoGateway = errors.New("no gateway runs in the pod")
	// ErrNoPort says that the second pod has no gateway that could listen, and no
	// port that it is known to listen on.
	ErrNoPort = errors.New("no port is known to send to")
)

// Verifier verifies pairs of pods.
type Verifier struct {
	Gateways *remote.Client
	// Log reads the latest lines of a gateway's log.
	Log func(ctx context.Context, g remote.Ref, since time.Duration) ([]api.Connection, error)
	// Timeout is DefaultTimeout if zero.
	Timeout time.Duration
	// Port, unless 0, is a port of the second pod where an application listens.
	// The canary goes there then, and otherwise to a listener of Verify's own.
	Port uint16
}

// New returns a Verifier for a cluster.
func New(gateways *remote.Client) *Verifier {
	return &Verifier{Gateways: gateways, Log: func(ctx context.Context, g remote.Ref, since time.Duration) ([]api.Connection, error) {
		return readLog(ctx, gateways.Kube, g, since)
	}}
}

// Verify sends a canary from one pod to another and returns what was seen. An error
// means that this could not be tried.
func (v *Verifier) Verify(ctx context.Context, from, to *corev1.Pod) (*Result, error) {
	timeout := cmp.Or(v.Timeout, DefaultTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %s", timeout))
	defer cancel()
	switch {
	case !installed.Runs(from):
		return nil, api.WithHint(fmt.Errorf("%w %s/%s", ErrNoGateway, from.Namespace, from.Name),
			fmt.Sprintf("'kubectl gateway enable pod/%s -n %s' adds one", from.Name, from.Namespace))
	case from.UID == to.UID:
		return nil, api.WithHint(errors.New("a pod's connections to itself are on no network"), "name another pod")
	}
	ip, err := addressFor(from, to)
	if err != nil {
		return nil, err
	}
	run := &run{Verifier: v, started: time.Now(), from: v.gateway(ctx, from), to: v.gateway(ctx, to), ip: ip, port: v.Port,
		result: &Result{From: side(from), To: side(to), Canary: "kube-gateway-canary-" + rand.Text()}}
	if run.to == nil && run.port == 0 {
		if run.port = declaredPort(to); run.port == 0 {
			return nil, api.WithHint(fmt.Errorf("%w: pod %s/%s has neither a gateway nor a declared TCP port", ErrNoPort, to.Namespace, to.Name),
				"name a port where it listens: --port")
		}
	}
	return run.result, run.run(ctx)
}

func side(pod *corev1.Pod) Side {
	return Side{Namespace: pod.Namespace, Pod: pod.Name, Gateway: installed.Runs(pod)}
}

// gateway returns the gateway that runs in pod, nil if none does.
func (v *Verifier) gateway(ctx context.Context, pod *corev1.Pod) *remote.Conn {
	if !installed.Runs(pod) {
		return nil
	}
	g, _ := v.Gateways.Serving(ctx, pod)
	return v.Gateways.Gateway(pod, g.Name)
}

// addressFor returns an address of to, of a family that from has, too, as the pods prefer it.
func addressFor(from, to *corev1.Pod) (netip.Addr, error) {
	for _, a := range installed.PodIPs(from) {
		for _, b := range installed.PodIPs(to) {
			if a.Is4() == b.Is4() {
				return b, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("pods %s/%s and %s/%s have no addresses of one family", from.Namespace, from.Name, to.Namespace, to.Name)
}

// declaredPort returns the first TCP port that a pod says it listens on, or 0.
func declaredPort(pod *corev1.Pod) uint16 {
	for _, p := range installed.TCPPorts(pod.Spec.Containers) {
		if p.ContainerPort > 0 && p.ContainerPort < 1<<16 {
			return uint16(p.ContainerPort)
		}
	}
	return 0
}

// run is one use of Verify.
type run struct {
	*Verifier
	started time.Time
	from    *remote.Conn
	// to is nil if the second pod has no gateway.
	to     *remote.Conn
	ip     netip.Addr
	port   uint16
	result *Result
}

func (r *run) run(ctx context.Context) error {
	echo := r.port == 0
	if echo {
		listener, err := startProbe(ctx, r.to, "listen", r.ip.String(), "")
		if err != nil {
			return err
		}
		defer listener.stop()
		event, err := listener.next(ctx)
		if err != nil {
			return err
		}
		if event.Event != api.ProbeListening || event.Local.Addr() != r.ip || event.Local.Port() == 0 {
			return fmt.Errorf("the probe in pod %s/%s does not listen: %s", listener.gateway.Namespace, listener.gateway.Pod, event.Error)
		}
		r.port = event.Local.Port()
	}
	r.result.Destination = netip.AddrPortFrom(r.ip, r.port)

	changed := make(chan struct{}, 1)
	from, err := r.watch(ctx, r.from, changed)
	if err != nil {
		return err
	}
	defer from.stop()
	var to *watch
	if r.to != nil {
		if to, err = r.watch(ctx, r.to, changed); err != nil {
			return err
		}
		defer to.stop()
	}
	client, err := startProbe(ctx, r.from, "connect", r.result.Destination.String(), r.result.Canary+"\n")
	if err != nil {
		return err
	}
	defer client.stop()
	local, problem, err := r.send(ctx, client, echo, changed, from, to)
	if err != nil {
		return err
	}
	client.stop()

	a := &evidence{side: &r.result.From, observer: from.observer}
	var b *evidence
	if to != nil {
		b = &evidence{side: &r.result.To, observer: to.observer}
	}
	// All that happened is known to the observers only when the captures have ended.
	a.summary, err = from.end()
	if b != nil {
		var errB error
		b.summary, errB = to.end()
		err = errors.Join(err, errB)
	}
	if err != nil {
		return err
	}
	r.readLogs(ctx, local, a, b)
	r.result.judge(a, b, problem)
	return nil
}

// send follows a canary until it has arrived, or will not. It returns the address
// that the connection came from, and why the canary did not arrive.
func (r *run) send(ctx context.Context, client *probe, echo bool, changed <-chan struct{}, from, to *watch) (local netip.AddrPort, problem string, err error) {
	settled := time.After(settleTime)
	for {
		select {
		case event, ok := <-client.events:
			if !ok {
				return local, "the connection ended without a word", client.failure()
			}
			if event.Local.IsValid() {
				local = event.Local
			}
			switch {
			case event.Event == api.ProbeEchoed && echo:
				return local, "", nil
			case event.Event == api.ProbeEnded && event.Error != "":
				return local, "the connection failed: " + event.Error, nil
			case event.Event == api.ProbeEnded && echo:
				return local, "the connection ended before the canary came back", nil
			case event.Event == api.ProbeEnded:
				return local, "", nil
			}
		case <-changed:
		case <-settled:
			return local, fmt.Sprintf("the canary did not arrive within %s", settleTime), nil
		case <-ctx.Done():
			return local, "", context.Cause(ctx)
		}
		// An application need not answer: it is enough that it was told. The packets may
		// be seen before the client has told where it is.
		if !echo && local.IsValid() && arrived(from, to) {
			return local, "", nil
		}
	}
}

func arrived(from, to *watch) bool {
	loopback, network := from.observer.sightings()
	if to != nil {
		loopback, _ = to.observer.sightings()
	}
	return network != nil || to != nil && loopback != nil
}

// readLogs waits until the gateways have told of the connection from local. That is
// not known of one that failed at once: what the gateway has to say of the
// destination is told then.
func (r *run) readLogs(ctx context.Context, local netip.AddrPort, a, b *evidence) {
	if local.IsValid() && a.observer.loopback == nil {
		return // it did not go through the gateway
	}
	a.line = r.findLine(ctx, r.from, api.Outbound, local)
	if a.line == nil {
		a.unlogged = r.unlogged(ctx, r.from)
	}
	if b != nil && a.line != nil && a.line.Encrypted {
		if b.line = r.findLine(ctx, r.to, api.Inbound, local); b.line == nil {
			b.unlogged = r.unlogged(ctx, r.to)
		}
	}
}

// unlogged returns why a gateway does not log connections, "" if it should have.
func (r *run) unlogged(ctx context.Context, g *remote.Conn) string {
	status, err := g.Status(ctx)
	switch {
	case err != nil:
		return ""
	case status.Log.Level != "" && status.Log.Level != api.LogConnections:
		return fmt.Sprintf("its log has level %s, and 'kubectl gateway log pod/%s -n %s connections' changes that", status.Log.Level, g.Ref().Pod, g.Ref().Namespace)
	case status.Log.DroppedLines > 0:
		return fmt.Sprintf("%d lines of its log were dropped, and --limit of 'kubectl gateway log' allows more", status.Log.DroppedLines)
	}
	return ""
}

// findLine returns a gateway's line of the connection from local to the
// destination, nil if it does not come in time or cannot be read.
func (r *run) findLine(ctx context.Context, g *remote.Conn, direction string, local netip.AddrPort) *api.Connection {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	var found *api.Connection
	_ = wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		lines, _ := r.Log(ctx, g.Ref(), time.Since(r.started))
		i := slices.IndexFunc(lines, func(c api.Connection) bool {
			mine := c.Source == local || !local.IsValid() && c.Reason != ""
			return c.Direction == direction && mine && c.Destination == r.result.Destination
		})
		if i >= 0 {
			found = &lines[i]
		}
		return found != nil, nil
	})
	return found
}

// ports are those that a canary can pass on its way.
func (r *run) ports() []uint16 {
	ports := []uint16{api.PeerPort, r.port}
	for _, pair := range api.ListenerPairs() {
		ports = append(ports, pair.Capture)
	}
	return ports
}

// watch is a capture with an observer.
type watch struct {
	observer *observer
	stop     context.CancelFunc
	// done is closed when the capture has ended, with summary and err.
	done    chan struct{}
	summary packets.Summary
	err     error
}

// watch starts to capture, and returns when the capture has begun.
func (r *run) watch(ctx context.Context, g *remote.Conn, changed chan<- struct{}) (*watch, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{stop: cancel, done: make(chan struct{})}
	w.observer = newObserver(r.result.Canary, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	begun := make(chan struct{})
	go func() {
		defer close(w.done)
		first := true
		w.summary, w.err = packets.Run(ctx, g, packets.Options{Ports: r.ports(), Duration: time.Minute, MaxBytes: captureBytes},
			func(in *pcapng.Reader, block *pcapng.Block) error {
				if first {
					first = false
					close(begun)
				}
				if p := block.Packet; p != nil {
					w.observer.add(in.Interfaces()[p.Interface], p)
				}
				return nil
			})
	}()
	select {
	case <-begun:
		return w, nil
	case <-w.done:
		cancel()
		return nil, cmp.Or(w.err, fmt.Errorf("the capture in pod %s/%s ended at once", g.Ref().Namespace, g.Ref().Pod))
	case <-ctx.Done():
		cancel()
		return nil, fmt.Errorf("starting to capture in pod %s/%s: %w", g.Ref().Namespace, g.Ref().Pod, context.Cause(ctx))
	}
}

// end ends the capture and waits for the rest of it.
func (w *watch) end() (packets.Summary, error) {
	w.stop()
	<-w.done
	return w.summary, w.err
}
