//go:build linux

package proxy

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/knock"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// connect(2) of a captured connection tells what it would tell without gateways: it waits until the
// connection to the other end is there, or cannot be. The gateway learns of the connection by its SYN, dials, and
// then has the handshake with its own listener take place, answers the SYN with an error, or leaves it
// without an answer, as a host does that is not there. Whatever becomes of the worker meanwhile: the
// application's kernel sends the SYN again. Connections to a destination that worked a moment ago do not wait,
// and come to the listener at once.

// Gate has connections of applications that wait: those of one address family.
type Gate interface {
	// Next waits for the SYN of a connection, which may be one that was sent again, until Close.
	Next() (*knock.SYN, error)
	// Waits reports whether the application still waits.
	Waits(*knock.SYN) bool
	// Admit has the connection come to the listener, and fails if the application does not wait any longer.
	Admit(*knock.SYN) error
	// Refuse ends connect(2) with ECONNREFUSED, EHOSTUNREACH or ENETUNREACH.
	Refuse(*knock.SYN, syscall.Errno) error
	// Note says that there was a connection to a destination just now, to which others then need not
	// wait for a second, or that there was none.
	Note(destination netip.AddrPort, works bool) error
	// SetReadDeadline ends Next at t, and with the zero value never.
	SetReadDeadline(t time.Time) error
	Close() error
}

const (
	// maxWaiting bounds the connections that wait. The SYNs of others are sent again.
	maxWaiting = 4096
	// arrivalTimeout is how long a connection may take to come to the listener. Usually it takes less
	// than a millisecond; it never comes if the application has given up in that moment.
	arrivalTimeout = 10 * time.Second
	// lookInterval is how often the gateway looks whether applications still wait.
	lookInterval = time.Second
)

// errGone means that the application does not wait any longer.
var errGone = errors.New(traffic.GaveUp.String())

// wayIn are the ends of a connection that waits.
type wayIn struct{ client, listener netip.AddrPort }

// waiting is a connection that waits.
type waiting struct {
	gate Gate
	way  wayIn
	// ctx is done when the application does not wait any longer, or is not to.
	ctx    context.Context
	cancel context.CancelFunc
	// gone means that the application has given up.
	gone atomic.Bool
	// arrived gets the connection when it has come to the listener.
	arrived chan stream
	// answer is how connect(2) ends if it fails, 0 is not at all. It belongs to the goroutines that the
	// connection belongs to.
	answer syscall.Errno

	// The mutex of waiters guards these. syn is the one that was sent last: the application's kernel
	// takes the time until the answer to it for a round trip.
	syn      *knock.SYN
	admitted bool
	c        *connection
}

// waiters are the connections that wait.
type waiters struct {
	gates []Gate
	// looking means that lookAfter has a timer.
	looking atomic.Bool
	// count is the size of all.
	count atomic.Int32

	mu  sync.Mutex
	all map[wayIn]*waiting
	// none is closed when nothing waits; nil unless there is somebody who wants to know.
	none chan struct{}
}

func newWaiters(gates []Gate) *waiters {
	return &waiters{gates: gates, all: make(map[wayIn]*waiting)}
}

// gateServer serves the gates of a proxy.
type gateServer struct {
	proxy *Proxy
	// accepting is done to stop for good, running to pause.
	accepting, running context.Context
	stop, halt         context.CancelFunc
	serving            sync.WaitGroup
}

// serveGates starts to serve the gates.
func (p *Proxy) serveGates() *gateServer {
	s := &gateServer{proxy: p}
	s.accepting, s.stop = context.WithCancel(p.ctx)
	s.start()
	return s
}

func (s *gateServer) start() {
	s.running, s.halt = context.WithCancel(s.accepting)
	for _, g := range s.proxy.options.Gates {
		s.serving.Go(func() { s.serve(g) })
	}
}

// close closes the gates and waits until nothing more comes of them.
func (s *gateServer) close() {
	s.stop()
	for _, g := range s.proxy.options.Gates {
		_ = g.Close() // it has nothing to lose
	}
	s.serving.Wait()
}

// pause leaves what comes to the gates there. It reports false where that cannot be.
func (s *gateServer) pause() bool {
	for _, g := range s.proxy.options.Gates {
		if g.SetReadDeadline(time.Time{}) != nil {
			return false
		}
	}
	s.halt()
	for _, g := range s.proxy.options.Gates {
		_ = g.SetReadDeadline(past())
	}
	s.serving.Wait()
	return true
}

// resume undoes pause.
func (s *gateServer) resume() {
	if s.running.Err() == nil || s.accepting.Err() != nil {
		return
	}
	for _, g := range s.proxy.options.Gates {
		_ = g.SetReadDeadline(time.Time{})
	}
	s.start()
}

// serve serves the connections of g until running is done. It survives every error: nobody else
// answers those that wait.
func (s *gateServer) serve(g Gate) {
	running := s.running
	var wait backOff
	for {
		syn, err := g.Next()
		if err == nil {
			wait = 0
			s.proxy.knock(s.accepting, g, syn)
			continue
		}
		if running.Err() != nil {
			return
		}
		delay := wait.next()
		if held, ok := s.proxy.exhausted.allow(); ok {
			s.proxy.options.Log.Slog().Error("cannot see connections that wait", "error", err.Error(), "retryIn", delay.Seconds(), "notLogged", held)
		}
		select {
		case <-running.Done():
			return
		case <-time.After(delay):
		}
	}
}

// knock is called for each SYN.
func (p *Proxy) knock(accepting context.Context, g Gate, syn *knock.SYN) {
	w := p.waiters.enter(p.ctx, g, syn)
	if w == nil {
		return
	}
	// The SYN may have been sent again, and be read when its connection has come. From here on that would find w.
	if !g.Waits(syn) && p.waiters.remove(w) {
		w.cancel()
		return
	}
	c := p.record(traffic.Outbound, syn.Client, syn.Listener, w)
	p.waiters.mu.Lock()
	w.c = c
	p.waiters.mu.Unlock()
	room := p.awaitRoom(accepting)
	c.pending = room
	destination, err := usableDestination(syn.Destination, syn.Listener)
	switch {
	case err != nil:
		c.refuse(traffic.NoDestination, err)
	case !room:
		c.line.Destination = destination
		c.refuse(traffic.NoMemory, nil)
	default:
		p.lookAfter()
		go p.outboundTo(c, destination, syn.Pod)
	}
}

// enter returns a connection that has begun with syn, or nil if there is nothing to do.
func (ws *waiters) enter(ctx context.Context, g Gate, syn *knock.SYN) *waiting {
	key := wayIn{syn.Client, syn.Listener}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	old := ws.all[key]
	switch {
	case old != nil && old.syn.Sequence == syn.Sequence:
		old.syn = syn
		if old.admitted {
			_ = g.Admit(syn) // it fails if the connection has come
		}
		return nil
	case old != nil:
		// Another socket has the same port.
		ws.removeLocked(old)
		go old.giveUp(old.c)
	case len(ws.all) >= maxWaiting:
		return nil
	}
	w := &waiting{gate: g, way: key, syn: syn, arrived: make(chan stream, 1)}
	w.ctx, w.cancel = context.WithCancel(ctx)
	ws.all[key] = w
	ws.count.Store(int32(len(ws.all)))
	return w
}

// giveUp ends a connection whose application does not wait any longer.
func (w *waiting) giveUp(c *connection) {
	w.gone.Store(true)
	w.cancel()
	c.abort(errLeft)
}

// removeLocked reports whether w was there. ws.mu is locked.
func (ws *waiters) removeLocked(w *waiting) bool {
	if ws.all[w.way] != w {
		return false
	}
	delete(ws.all, w.way)
	ws.count.Store(int32(len(ws.all)))
	if len(ws.all) == 0 && ws.none != nil {
		close(ws.none)
		ws.none = nil
	}
	return true
}

func (ws *waiters) remove(w *waiting) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.removeLocked(w)
}

// empty returns a channel that is closed as soon as nothing waits.
func (ws *waiters) empty() <-chan struct{} {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.none == nil {
		ws.none = make(chan struct{})
	}
	none := ws.none
	if len(ws.all) == 0 {
		close(ws.none)
		ws.none = nil
	}
	return none
}

// arrive takes a connection that has come to a listener, and reports false if it did not wait.
func (ws *waiters) arrive(conn stream) bool {
	if ws.count.Load() == 0 {
		return false
	}
	local, remote := endsOf(conn)
	way := wayIn{remote, local}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.all[way]
	if w == nil {
		return false
	}
	ws.removeLocked(w)
	w.arrived <- conn
	return true
}

// admit lets w come to the listener, and returns it. Only the end of ctx keeps it from waiting for the connection, which
// must not be taken for another one when it comes.
func (ws *waiters) admit(ctx context.Context, w *waiting) (stream, error) {
	ws.mu.Lock()
	w.admitted = true
	syn := w.syn
	ws.mu.Unlock()
	if w.gate.Admit(syn) == nil {
		timeout := time.NewTimer(arrivalTimeout)
		defer timeout.Stop()
		select {
		case conn := <-w.arrived:
			return conn, nil
		case <-ctx.Done():
		case <-timeout.C:
		}
	}
	if ws.remove(w) {
		w.gone.Store(true)
		return nil, errGone
	}
	select {
	case conn := <-w.arrived:
		return conn, nil
	default: // another socket has its place
		w.gone.Store(true)
		return nil, errGone
	}
}

// end is called when c has ended, and answers the application if it still waits.
func (ws *waiters) end(c *connection) {
	w := c.waiting
	waits := ws.remove(w)
	w.cancel()
	select {
	case conn := <-w.arrived:
		reset(conn)
	default:
	}
	if waits && w.answer != 0 && !w.gone.Load() {
		_ = w.gate.Refuse(w.syn, w.answer) // without an answer the application waits for one
	}
}

// lookAfter ends connections whose applications do not wait any longer.
func (p *Proxy) lookAfter() {
	ws := p.waiters
	if ws.looking.Swap(true) {
		return
	}
	time.AfterFunc(lookInterval, func() {
		ws.looking.Store(false)
		for w, seen := range ws.snapshot() {
			if !w.gate.Waits(seen.syn) && ws.leave(w) {
				w.giveUp(seen.c)
			}
		}
		if ws.count.Load() > 0 {
			p.lookAfter()
		}
	})
}

// leave removes w, and reports false if it was admitted meanwhile: then it does not wait any longer, either.
func (ws *waiters) leave(w *waiting) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return !w.admitted && ws.removeLocked(w)
}

// seen is what is asked about a connection that waits.
type seen struct {
	syn *knock.SYN
	c   *connection
}

// snapshot returns the connections that are not admitted.
func (ws *waiters) snapshot() map[*waiting]seen {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := make(map[*waiting]seen)
	for _, w := range ws.all {
		if !w.admitted && w.c != nil {
			all[w] = seen{w.syn, w.c}
		}
	}
	return all
}

// context returns what is done when c is not to be set up any longer.
func (c *connection) context() context.Context {
	if c.waiting != nil {
		return c.waiting.ctx
	}
	return c.proxy.ctx
}

// admit has the application's connect(2) succeed, if it waits. c.app is there then.
func (c *connection) admit() error {
	c.note(true)
	if c.app != nil {
		return nil
	}
	app, err := c.proxy.waiters.admit(c.proxy.ctx, c.waiting)
	if err != nil {
		return err
	}
	c.mu.Lock()
	adopted := c.adoptAt(0, app)
	c.mu.Unlock()
	if !adopted {
		return c.cause()
	}
	c.app = app
	return nil
}

// note says whether there is a connection to c's destination.
func (c *connection) note(works bool) {
	gates := c.proxy.waiters.gates
	if len(gates) == 0 {
		return
	}
	if k := c.carrier.Load(); k != nil && works && !k.mayNote(c.line.Destination, time.Now()) {
		return
	}
	_ = gates[0].Note(c.line.Destination, works) // without it connections wait
}

// noteInterval is how often the connections over one carrier say that a destination works.
const noteInterval = 200 * time.Millisecond

// mayNote reports whether it is time to say at now that destination works.
func (k *carrier) mayNote(destination netip.AddrPort, now time.Time) bool {
	if k.noted == destination && now.Sub(k.notedAt) < noteInterval {
		return false
	}
	k.noted, k.notedAt = destination, now
	return true
}

// refused notes how connect(2) is to end because of reason and err, and returns what is to be reported. cause
// is why the connection was aborted, or nil.
func (w *waiting) refused(reason traffic.Reason, err, cause error) (traffic.Reason, error) {
	switch {
	case w.gone.Load():
		return traffic.GaveUp, nil
	case cause == errStopping:
	default:
		w.answer = answerTo(reason, err)
	}
	return reason, err
}

// answerTo returns how connect(2) ends because of reason and err. Where another try may succeed it does
// not end: the application's kernel asks again, as long as the application wants.
func answerTo(reason traffic.Reason, err error) syscall.Errno {
	switch {
	case reason == traffic.Stopping, reason == traffic.Crowded, reason == traffic.PeerUnknown, isTimeout(err):
		return 0
	case errors.Is(err, syscall.EHOSTUNREACH):
		return syscall.EHOSTUNREACH
	case errors.Is(err, syscall.ENETUNREACH):
		return syscall.ENETUNREACH
	}
	return syscall.ECONNREFUSED
}

// answered notes how connect(2) is to end because of the peer's answer.
func (w *waiting) answered(answer status) {
	if answer != statusUnreachable {
		w.answer = syscall.ECONNREFUSED
	}
}
