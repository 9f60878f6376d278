//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Serve carries connections until ctx is done, then lets them finish for the drain timeout,
// aborts the rest and returns nil. It closes the listener of other gateways at once, and the
// others only when no connection is left, because the connect(2) of an application may have
// been captured a moment ago. It serves the connections in the backlogs. After Quiesce it leaves them, and the listeners, as they
// are. It returns an error only when a listener fails for good. It can be called once.
func (p *Proxy) Serve(ctx context.Context) error {
	if p.served.Swap(true) {
		return errors.New("the proxy has served already")
	}
	defer p.cancel()
	p.FitMemory()
	failed := make(chan error, len(p.listeners()))
	start := func(l net.Listener, d traffic.Direction, after <-chan struct{}, handle func(stream)) *acceptor {
		a := newAcceptor(p, l, d, after, handle)
		go a.run(failed)
		return a
	}
	var local []*acceptor
	for _, l := range p.options.Capture {
		local = append(local, start(l, traffic.Outbound, nil, func(conn stream) { go p.outbound(p.open(traffic.Outbound, conn)) }))
	}
	for _, l := range p.options.Inband {
		local = append(local, start(l, traffic.Inbound, nil, p.admitInband))
	}
	peer := start(p.options.Peer, traffic.Inbound, p.options.PeersAfter, func(conn stream) { p.admit(conn, api.WirePort) })
	gates := p.serveGates()
	all := append(slices.Clone(local), peer)
	var sweeper sync.WaitGroup
	sweepCtx, stopSweep := context.WithCancel(context.Background())
	sweeper.Go(func() { p.sweep(sweepCtx) })
	if p.lot != nil {
		sweeper.Go(func() { p.lot.serve(sweepCtx) })
	}

	var err error
	quiesced := false
	for serving := true; serving; {
		select {
		case <-ctx.Done():
			serving = false
		case err = <-failed:
			err = fmt.Errorf("accepting connections: %w", err)
			serving = false
		case answer := <-p.quiescing:
			quiesced = quiesced || p.pause(all, gates, failed)
			answer <- quiesced
		}
	}
	if !quiesced {
		peer.close()
		// Peers get to know before the settling time that they must dial.
		p.carriers.close()
		p.drain(local, gates)
	}
	stopSweep()
	sweeper.Wait()
	p.lot.close()
	p.closeEnded()
	if p.null >= 0 {
		_ = unix.Close(p.null)
	}
	p.cancel()
	p.asking.Wait()
	return err
}

// Quiesce has Serve accept no more, unless a connection is open or waits, or a carrier is there: then it reports false, and
// nothing has changed. What comes from then on waits in the backlogs and at the gates, for another process that has them.
func (p *Proxy) Quiesce() bool {
	answer := make(chan bool, 1)
	select {
	case p.quiescing <- answer:
		return <-answer
	case <-p.ctx.Done():
		return false
	}
}

// Idle reports whether no connection is open or waits, and no carrier is kept.
func (p *Proxy) Idle() bool { return !p.hasToSweep() && p.waiters.count.Load() == 0 }

// pause stops acceptors and gates if p is idle then. Only what is no longer accepted cannot come after the look.
func (p *Proxy) pause(acceptors []*acceptor, gates *gateServer, failed chan<- error) bool {
	paused := gates.pause()
	for _, a := range acceptors {
		paused = a.pause() && paused
	}
	if paused && p.Idle() {
		return true
	}
	gates.resume()
	for _, a := range acceptors {
		a.resume(failed)
	}
	return false
}

// Abort ends the drain timeout at once.
func (p *Proxy) Abort() { p.abort.Do(func() { close(p.aborting) }) }

// stragglerTime is how long the listeners of the own pod stay open at least. The programs
// that send connections there are detached by then, but one that ran just before may belong
// to an interrupted connect(2), or to a handshake whose last packet is under way.
const stragglerTime = 250 * time.Millisecond

// Linger makes the listeners of the own pod stay open for at least d when Serve lets connections
// finish: new connections go elsewhere, but handshakes that were begun with this gateway are to end
// with it. It is called before the context of Serve is done.
func (p *Proxy) Linger(d time.Duration) { p.linger.Store(int64(d)) }

// drain lets connections end, and aborts the rest after the drain timeout.
func (p *Proxy) drain(local []*acceptor, gates *gateServer) {
	patience, cancel := context.WithTimeout(context.Background(), max(0, p.options.DrainTimeout))
	defer cancel()
	go func() {
		select {
		case <-p.aborting:
			cancel()
		case <-patience.Done():
		}
	}()
	settled := time.NewTimer(max(stragglerTime, time.Duration(p.linger.Load())))
	defer settled.Stop()
	select {
	case <-settled.C:
	case <-patience.Done():
	}
	await(patience, p.live.empty())
	// Until a peer has closed its end of a carrier, a header may be under way, or the last bytes
	// to it.
	await(patience, p.carriers.empty())
	// A connection that waits is still to come to its listener.
	await(patience, p.waiters.empty())
	gates.close()
	for _, a := range local {
		a.close()
	}
	if !await(patience, p.live.empty()) {
		p.cancel()
		for _, c := range p.live.snapshot() {
			c.abort(errStopping)
		}
		<-p.live.empty()
	}
	p.carriers.abort()
	<-p.carriers.empty()
}

// await waits for what, and reports false if ctx is done before.
func await(ctx context.Context, what <-chan struct{}) bool {
	select {
	case <-what:
		return true
	case <-ctx.Done():
		return false
	}
}

var errStopping = errors.New(traffic.Stopping.String())

// acceptor accepts the connections of one listener.
type acceptor struct {
	proxy     *Proxy
	listener  net.Listener
	direction traffic.Direction
	// handle adds a connection to the registry before it returns, so that no connection is
	// missing there once all acceptors are closed.
	handle func(stream)
	// after is closed when there is something to accept, nil if there is from the start.
	after <-chan struct{}
	// accepting is done to stop accepting, running to pause, and ended is closed when run returns.
	accepting, running context.Context
	stop, halt         context.CancelFunc
	ended              chan struct{}
	// file is the listener's socket once more, because a net.TCPListener waits for nothing but its own
	// Accept; nil where the listener is another.
	file *os.File
	raw  syscall.RawConn
}

func newAcceptor(p *Proxy, l net.Listener, d traffic.Direction, after <-chan struct{}, handle func(stream)) *acceptor {
	a := &acceptor{proxy: p, listener: l, direction: d, handle: handle, after: after, ended: make(chan struct{})}
	a.accepting, a.stop = context.WithCancel(context.Background())
	a.running, a.halt = context.WithCancel(a.accepting)
	if tcp, ok := l.(*net.TCPListener); ok {
		a.again(tcp)
	}
	return a
}

// again opens the listener's socket once more. Without descriptors Accept has to do.
func (a *acceptor) again(l *net.TCPListener) {
	file, err := l.File()
	if err != nil {
		return
	}
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return
	}
	a.file, a.raw = file, raw
}

// accept waits for a connection.
func (a *acceptor) accept() (stream, error) {
	if a.raw == nil {
		conn, err := a.listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := conn.(*net.TCPConn)
		if !ok {
			_ = conn.Close()
			return nil, fmt.Errorf("listener %v is not TCP: %w", a.listener.Addr(), net.ErrClosed)
		}
		return tcp, nil
	}
	var conn *bareSocket
	var err error
	if waiting := a.raw.Read(func(fd uintptr) bool {
		conn, err = acceptFrom(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	}); waiting != nil {
		return nil, waiting
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// pause has run return, and waits for that. It reports false where that cannot be, and run goes on.
func (a *acceptor) pause() bool {
	if a.file == nil || a.file.SetDeadline(time.Time{}) != nil {
		return false
	}
	a.halt()
	_ = a.file.SetDeadline(past()) // an error means that it is closed meanwhile
	<-a.ended
	return true
}

// resume undoes pause.
func (a *acceptor) resume(failed chan<- error) {
	if a.running.Err() == nil || a.accepting.Err() != nil {
		return
	}
	a.running, a.halt = context.WithCancel(a.accepting)
	a.ended = make(chan struct{})
	// If that fails, run finds the same.
	_ = a.file.SetDeadline(time.Time{})
	go a.run(failed)
}

// run accepts, once after is closed, until close or pause is called. It survives every error except that the listener is
// closed, which it reports to failed.
func (a *acceptor) run(failed chan<- error) {
	defer close(a.ended)
	if a.after != nil {
		select {
		case <-a.after:
		case <-a.running.Done():
			return
		}
	}
	var wait backOff
	for {
		conn, err := a.accept()
		if err == nil {
			wait = 0
			a.begin(conn)
			continue
		}
		if a.running.Err() != nil {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			failed <- err
			return
		}
		delay := wait.next()
		// What has ended may have the descriptors that are missing.
		a.proxy.closeEnded()
		if held, ok := a.proxy.exhausted.allow(); ok {
			a.proxy.options.Log.Slog().Error("cannot accept connections", "listener", a.listener.Addr().String(),
				"error", err.Error(), "retryIn", delay.Seconds(), "notLogged", held)
		}
		select {
		case <-a.running.Done():
			return
		case <-time.After(delay):
		}
	}
}

// close accepts the connections in the backlog and closes the listener. The kernel resets a
// connection that comes in between before a byte of it is read.
func (a *acceptor) close() {
	a.stop()
	if a.file == nil || a.file.SetDeadline(past()) != nil {
		_ = a.listener.Close()
		<-a.ended
		return
	}
	<-a.ended
	for range maxBacklog {
		var conn *bareSocket
		if control(a.raw, func(fd int) (err error) {
			conn, err = acceptFrom(fd)
			return err
		}) != nil {
			break
		}
		a.begin(conn)
	}
	// Errors mean that they are closed already.
	_ = a.listener.Close()
	_ = a.file.Close()
}

// maxBacklog bounds how many connections are accepted from a backlog that fills again
// meanwhile: twice the default of net.core.somaxconn.
const maxBacklog = 8192
