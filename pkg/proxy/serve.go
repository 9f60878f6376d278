//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
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
// been captured a moment ago. It serves the connections in the backlogs. It returns an error
// only when a listener fails for good. It can be called once.
func (p *Proxy) Serve(ctx context.Context) error {
	if p.served.Swap(true) {
		return errors.New("the proxy has served already")
	}
	defer p.cancel()
	p.FitMemory()
	failed := make(chan error, len(p.listeners()))
	start := func(l net.Listener, d traffic.Direction, after <-chan struct{}, handle func(stream)) *acceptor {
		a := newAcceptor(p, l, d, handle)
		go a.runAfter(after, failed)
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
	var sweeper sync.WaitGroup
	sweepCtx, stopSweep := context.WithCancel(context.Background())
	sweeper.Go(func() { p.sweep(sweepCtx) })
	if p.lot != nil {
		sweeper.Go(func() { p.lot.serve(sweepCtx) })
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("accepting connections: %w", err)
	}
	peer.close()
	// Peers get to know before the settling time that they must dial.
	p.carriers.close()
	p.drain(local, gates)
	stopSweep()
	sweeper.Wait()
	p.lot.close()
	p.spent.close()
	if p.null >= 0 {
		_ = unix.Close(p.null)
	}
	p.cancel()
	p.asking.Wait()
	return err
}

// serveGates serves the gates, and returns a function that closes them and waits until nothing more comes
// of them.
func (p *Proxy) serveGates() (closeAll func()) {
	ctx, cancel := context.WithCancel(p.ctx)
	var serving sync.WaitGroup
	for _, g := range p.options.Gates {
		serving.Go(func() { p.serveGate(ctx, g) })
	}
	return func() {
		cancel()
		for _, g := range p.options.Gates {
			_ = g.Close() // it has nothing to lose
		}
		serving.Wait()
	}
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
func (p *Proxy) drain(local []*acceptor, closeGates func()) {
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
	closeGates()
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
	// accepting is done to stop accepting, ended is closed when run returns.
	accepting context.Context
	stop      context.CancelFunc
	ended     chan struct{}
	// file is the listener's socket once more, because a net.TCPListener waits for nothing but its own
	// Accept; nil where the listener is another.
	file *os.File
	raw  syscall.RawConn
}

func newAcceptor(p *Proxy, l net.Listener, d traffic.Direction, handle func(stream)) *acceptor {
	accepting, stop := context.WithCancel(context.Background())
	a := &acceptor{proxy: p, listener: l, direction: d, handle: handle, accepting: accepting, stop: stop, ended: make(chan struct{})}
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

// runAfter is run once after is closed, if it is not nil.
func (a *acceptor) runAfter(after <-chan struct{}, failed chan<- error) {
	defer close(a.ended)
	if after != nil {
		select {
		case <-after:
		case <-a.accepting.Done():
			return
		}
	}
	a.run(failed)
}

// run accepts until close is called. It survives every error except that the listener is
// closed, which it reports to failed.
func (a *acceptor) run(failed chan<- error) {
	var wait backOff
	for {
		conn, err := a.accept()
		if err == nil {
			wait = 0
			a.begin(conn)
			continue
		}
		if a.accepting.Err() != nil {
			return
		}
		if errors.Is(err, net.ErrClosed) {
			failed <- err
			return
		}
		delay := wait.next()
		// What has ended may have the descriptors that are missing.
		a.proxy.spent.close()
		if held, ok := a.proxy.exhausted.allow(); ok {
			a.proxy.options.Log.Slog().Error("cannot accept connections", "listener", a.listener.Addr().String(),
				"error", err.Error(), "retryIn", delay.Seconds(), "notLogged", held)
		}
		select {
		case <-a.accepting.Done():
			return
		case <-time.After(delay):
		}
	}
}

// close accepts the connections in the backlog and closes the listener. The kernel resets a
// connection that comes in between before a byte of it is read.
func (a *acceptor) close() {
	a.stop()
	if a.file == nil || a.file.SetDeadline(time.Unix(1, 0)) != nil {
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
