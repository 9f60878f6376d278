//go:build linux

package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// outbound carries a captured connection: it looks up where the application connected to,
// dials the gateway there by the wire that is configured, and relays. Without a gateway
// there, the mode decides.
func (p *Proxy) outbound(c *connection) {
	growStackABit()
	c.app = c.sockets[0]
	destination, pod, err := p.originalDestination(c.app)
	if err != nil {
		c.line.Destination, _ = endsOf(c.app)
		c.refuse(traffic.NoDestination, err)
		return
	}
	p.outboundTo(c, destination, pod)
}

// outboundTo is outbound for a destination that may be that of a pod.
func (p *Proxy) outboundTo(c *connection, destination netip.AddrPort, pod bool) {
	s := p.settings.Load()
	c.line.Destination = destination
	if err := c.nameSource(s, destination); err != nil {
		c.refuse(traffic.NoSource, err)
		return
	}
	c.pod = pod
	p.carryOut(c, s)
}

// nameSource notes which client the header names, and which address the application has bound itself.
func (c *connection) nameSource(s *settings, destination netip.AddrPort) (err error) {
	c.client, c.bound, err = s.clientAddress(c.line.Source, destination)
	if err == nil && !c.bound.IsValid() {
		c.line.Source = c.client
	}
	return err
}

// carryOut carries a connection whose ends are known, as s says.
func (p *Proxy) carryOut(c *connection, s *settings) {
	h, pod := header{Destination: c.line.Destination, Client: c.client, Bound: c.bound, Again: c.again}, c.pod
	if c.again && c.backend.IsValid() {
		// No other pod of the Service knows whether it has been begun.
		h.Destination, h.Dialled, pod = c.backend, c.line.Destination, true
	}
	f := p.encrypt(c, s, h, pod)
	if f != nil && f.reason == traffic.OptionDropped {
		c.counts.OptionDropped.Add(1)
	}
	switch {
	case f == nil && c.rest != nil:
		rest := c.rest
		c.rest = nil
		rest()
	case f == nil:
	case c.silent:
		// In plaintext nobody would know what has been begun.
		c.refuse(traffic.PeerLost, fmt.Errorf("%v: %w", f.reason, cmp.Or(f.err, errSilent)))
	case f.final || p.strict(s):
		c.refuse(f.reason, f.err)
	default:
		p.passThrough(c, s, f)
	}
}

// strict reports whether plaintext is forbidden to a connection that started with s: by s,
// or because the mode has changed since.
func (p *Proxy) strict(s *settings) bool {
	return s.mode == api.Strict || p.settings.Load().mode == api.Strict
}

func (p *Proxy) originalDestination(app stream) (destination netip.AddrPort, pod bool, err error) {
	if err := onSocket(app, func(fd int) (err error) {
		destination, pod, err = p.options.Sockets.OriginalDestination(fd)
		return err
	}); err != nil {
		return netip.AddrPort{}, false, err
	}
	var listener netip.AddrPort
	if destination.Addr().Unmap().IsLoopback() {
		listener, _ = endsOf(app)
	}
	destination, err = usableDestination(destination, listener)
	return destination, pod, err
}

// usableDestination returns the destination of a connection that came to listener, or why there can be none.
func usableDestination(destination, listener netip.AddrPort) (netip.AddrPort, error) {
	destination = netip.AddrPortFrom(destination.Addr().Unmap(), destination.Port())
	if !destination.IsValid() || destination.Addr().IsUnspecified() || destination.Addr().IsMulticast() || destination.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("destination %v cannot be used", destination)
	}
	if listener == destination {
		return netip.AddrPort{}, errors.New("destination is the gateway itself")
	}
	return destination, nil
}

// encrypt carries c to the gateway at the destination, which is a pod or something that leads
// to one, or returns why it cannot.
func (p *Proxy) encrypt(c *connection, s *settings, h header, pod bool) *failure {
	if reason, err := s.certificateProblem(); err != nil {
		return &failure{reason: reason, err: err}
	}
	wire := s.wireTo(pod)
	switch wire {
	case api.WireNone:
		return &failure{reason: traffic.NoWire}
	case api.WirePort:
		c.route.to = netip.AddrPortFrom(h.Destination.Addr(), api.PeerPort)
	case api.WireInband:
		c.route.to = h.Destination
	}
	c.route.from = c.bound.Addr()
	peer := p.peers.acquire(c.route)
	defer p.peers.release(peer)

	probe := false
	switch {
	case s.mode == api.Strict:
	case wire == api.WireInband:
		// Asking costs nothing, and behind a Service the next backend may differ: no
		// connection waits for another, and only a gateway that failed is remembered, and a
		// network where asking costs a second.
		if reason := p.peers.remembered(peer); reason != traffic.None {
			return &failure{reason: reason}
		}
		dropped, ask := p.dropped.isDropped(h.Destination)
		if ask {
			p.asking.Go(func() { p.ask(h.Destination) })
		}
		if dropped {
			return &failure{reason: traffic.OptionDropped}
		}
	default:
		// What the first connection to a peer may need.
		v, err := p.peers.lookup(c.context(), p.dialTimeout(s)+p.options.HandshakeTimeout, peer)
		if v.ask {
			p.asking.Go(func() { p.peers.answered(peer, p.askPeer(s, peer.route)) })
		}
		switch {
		case err != nil:
			return &failure{reason: traffic.PeerUnknown, err: err, final: true}
		case v.reason != traffic.None:
			return &failure{reason: v.reason}
		}
		probe = v.probe
	}
	f := p.persist(func() *failure {
		if wire == api.WireInband {
			return p.encryptInband(c, s, peer, h, pod)
		}
		return p.encryptTo(c, s, peer, h)
	})
	p.peers.record(peer, probe, f)
	return f
}

// persist repeats try while the peer resets its TLS handshake. A gateway whose worker has ended
// serves again at once, and one that has ended itself refuses the next connection, which is another
// failure. One that goes on to reset is full: that is no reason for plaintext, so that strangers
// who fill it cannot bring plaintext about.
func (p *Proxy) persist(try func() *failure) *failure {
	for wait := resetRetry; ; wait *= 2 {
		f := try()
		if f == nil || f.reason != traffic.PeerReset {
			return f
		}
		if wait > maxResetRetry {
			f.final = true
			return f
		}
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
			return &failure{reason: traffic.Stopping, err: p.ctx.Err(), final: true}
		}
	}
}

// askPeer shakes hands with the gateway at a peer port, for no connection. It returns nil if there is one.
func (p *Proxy) askPeer(s *settings, peer route) *failure {
	growStack()
	conn, err := p.dial(p.ctx, peer, questionTimeout, nil)
	if err != nil {
		return dialFailure(err)
	}
	defer reset(conn)
	defer context.AfterFunc(p.ctx, func() { reset(conn) })()
	records, err := newRecordConn(conn, &p.pools)
	if err != nil {
		return &failure{reason: traffic.Exhausted, err: err}
	}
	defer records.release()
	config := s.clientConfig(peer.to.Addr())
	secured := tls.Client(records, config)
	if err := p.shake(conn, secured, records, p.options.HandshakeTimeout/2); err != nil {
		return handshakeFailure(err, config.Time())
	}
	if secured.CloseWrite() == nil && records.flush() == nil {
		awaitFIN(conn)
		closeGently(conn)
	}
	return nil
}

// acquireSlot waits until fewer than maxDialHandshakes are under way with peer.
func (p *Proxy) acquireSlot(peer *peer) error {
	select {
	case peer.slots <- struct{}{}:
		return nil
	default:
	}
	ctx, cancel := context.WithTimeout(p.ctx, slotTimeout)
	defer cancel()
	select {
	case peer.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// encryptTo carries c over an idle connection to the peer port of a pod, or dials it.
func (p *Proxy) encryptTo(c *connection, s *settings, peer *peer, h header) *failure {
	if c.attempts == 0 {
		if k := p.carriers.take(peer.route, s); k != nil {
			return p.startOn(k, c, h)
		}
	}
	growStack()
	if err := p.acquireSlot(peer); err != nil {
		return &failure{reason: traffic.Crowded, err: err, final: true}
	}
	defer func() { <-peer.slots }()
	timeout := p.dialTimeout(s)
	if h.Dialled.IsValid() && !h.Again {
		// In band there is another way, whose end waits for it.
		timeout = min(timeout, permissiveDialTimeout)
	}
	conn, err := p.dial(c.context(), peer.route, timeout, nil)
	if err != nil {
		return dialFailure(err)
	}
	if !c.adopt(conn) {
		return &failure{reason: traffic.Stopping, err: c.cause(), final: true}
	}
	return p.secure(c, s, conn, s.clientConfig(h.Destination.Addr()), h, api.WirePort)
}

// secure shakes hands over conn and starts the relay. The header and the application's first
// data are sent together with the end of the handshake.
func (p *Proxy) secure(c *connection, s *settings, conn stream, config *tls.Config, h header, wire string) *failure {
	records, err := newRecordConn(conn, &p.pools)
	if err != nil {
		reset(conn)
		return &failure{reason: traffic.Exhausted, err: err, final: true}
	}
	secured := tls.Client(records, config)
	if err := p.shake(conn, secured, records, p.options.HandshakeTimeout/2); err != nil {
		reset(conn)
		records.release()
		return handshakeFailure(err, config.Time())
	}
	c.wire, c.tls, c.records = conn, secured, records
	c.describeTLS()
	if wire == api.WireInband {
		p.learnBackend(c, s, h.Destination, secured.ConnectionState().PeerCertificates[0])
	}
	if wire == api.WirePort && reuses(secured.ConnectionState()) {
		return p.startOn(newCarrier(c, s), c, h)
	}
	if c.app == nil && secured.ConnectionState().NegotiatedProtocol == api.ALPNFrames {
		p.startWaiting(c, h, wire)
		return nil
	}
	if err := p.startEncrypted(c, h, wire); err != nil {
		return &failure{reason: traffic.Broken, err: err, final: true}
	}
	return nil
}

// startOn has k carry c.
func (p *Proxy) startOn(k *carrier, c *connection, h header) *failure {
	if k.served > 0 && !c.adopt(k.conn) {
		return &failure{reason: traffic.Stopping, err: c.cause(), final: true}
	}
	if err := k.start(c, h); err != nil {
		return &failure{reason: traffic.Exhausted, err: err, final: true}
	}
	return nil
}

// startEncrypted sends the header together with the application's data that is there, without
// waiting for more, and starts the relay.
func (p *Proxy) startEncrypted(c *connection, h header, wire string) error {
	if err := c.admit(); err != nil {
		return err
	}
	source, err := c.reader()
	if err != nil {
		return err
	}
	var scratch [maxHeader]byte
	head := appendHeader(scratch[:0], h)
	c.agreeOnFrames()
	source.findUrgent(c.framing != nil)
	front := len(head) + c.framing.prefix()
	source.reserve, source.tail, source.poll = front, 0, true
	b, size, err := source.next()
	if b == nil {
		return fmt.Errorf("reading from the application: %w", err)
	}
	// The relay meets an error of the application's socket again.
	copy(b.b, head)
	c.sent.Add(uint64(source.fresh))
	if err := c.sealOnce(b, c.framing.frameUp(source, b, front, size), false); err != nil {
		return err
	}
	source.poll = false
	c.records.startRelay()
	c.line.Wire, c.line.Encrypted = wire, true
	c.countEncrypted()
	c.relay(
		way{then: func() error { return c.seal(source, 0) }},
		way{first: func() error { return c.unseal(c.checkAnswer) }, then: func() error { return c.unseal(nil) }},
	)
	return nil
}

// startWaiting sends the header of a connection whose application waits, and starts the relay with the
// peer's answer. Until then nothing of the application has been sent, and nothing is to be sent otherwise.
func (p *Proxy) startWaiting(c *connection, h header, wire string) {
	h.Waits = true
	c.agreeOnFrames()
	b := p.pools.get(classTiny)
	// The reading goroutine finds out why it fails.
	if c.sealOnce(b, len(appendHeader(b.b[:0], h)), false) != nil {
		_ = c.wire.SetReadDeadline(time.Now().Add(finTimeout))
	}
	c.records.startRelay()
	c.line.Wire, c.line.Encrypted = wire, true
	c.countEncrypted()
	c.settle()
	c.relaying.Store(1)
	go c.carry(way{
		first: func() error {
			return c.unseal(func(answer status) error { return c.admitAnswered(answer) })
		},
		then: func() error { return c.unseal(nil) },
	}, c.wire)
}

// admitAnswered has the application's connect(2) succeed if the peer's answer is ok, and starts the other
// direction.
func (c *connection) admitAnswered(answer status) error {
	if err := c.checkAnswer(answer); err != nil {
		return err
	}
	if err := c.admit(); err != nil {
		return err
	}
	source, err := c.reader()
	if err != nil {
		return err
	}
	c.relaying.Add(1)
	go c.carry(way{then: func() error { return c.seal(source, 0) }}, c.app)
	return nil
}

// checkAnswer turns every answer but ok into an error, and so into a RST, or into the end of connect(2).
func (c *connection) checkAnswer(answer status) error {
	if answer == statusOK {
		return nil
	}
	c.note(false)
	if c.waiting != nil {
		c.waiting.answered(answer)
	}
	c.line.Reason = answer.received().String()
	return errors.New(answer.String())
}

// route is what this gateway dials, and the address that it dials from if the application has bound one.
type route struct {
	to   netip.AddrPort
	from netip.Addr
}

// dial connects without binding first, unless r says from where. mark, which may be nil, is called before.
func (p *Proxy) dial(ctx context.Context, r route, timeout time.Duration, mark func(fd int) error) (stream, error) {
	connect := func(from netip.Addr) (*bareSocket, error) {
		return connectFrom(ctx, netip.AddrPortFrom(from, 0), r.to, timeout, func(fd int) error {
			if mark != nil {
				if err := mark(fd); err != nil {
					return err
				}
			}
			if from.IsValid() {
				if err := bindWithoutPort(fd); err != nil {
					return err
				}
			}
			return errors.Join(noDelay(fd), lingerZero(fd))
		})
	}
	conn, err := connect(r.from)
	if r.from.IsValid() && isBindError(err) {
		// The pod has the address no longer, or never had it (IP_FREEBIND).
		conn, err = connect(netip.Addr{})
	}
	if err != nil {
		return nil, fmt.Errorf("dialling %v: %w", r.to, err)
	}
	// An error means that the connection has ended: the first read finds out.
	_ = control(&conn.descriptor, func(fd int) (err error) {
		conn.local, err = localAddress(uintptr(fd))
		return err
	})
	return conn, nil
}

func isBindError(err error) bool {
	var call *os.SyscallError
	return errors.As(err, &call) && call.Syscall == "bind"
}

func (p *Proxy) dialTimeout(s *settings) time.Duration {
	switch {
	case p.options.DialTimeout > 0:
		return p.options.DialTimeout
	case s.mode == api.Strict:
		return strictDialTimeout
	}
	return permissiveDialTimeout
}

// shake completes the TLS handshake within timeout. Its last records stay in the buffer of
// records, unless it failed: an alert is sent at once.
func (p *Proxy) shake(conn stream, secured *tls.Conn, records *recordConn, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := secured.HandshakeContext(context.Background()); err != nil {
		// The caller reports the error of the handshake.
		_ = records.flush()
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// passThrough carries c in plaintext because of f.
func (p *Proxy) passThrough(c *connection, s *settings, f *failure) {
	conn := f.open
	if conn == nil {
		var err error
		if conn, err = p.dial(c.context(), route{c.line.Destination, c.bound.Addr()}, p.options.PlainTimeout, nil); err != nil {
			c.because(f.reason)
			c.refuse(traffic.Unreachable, err)
			return
		}
		if !c.adopt(conn) {
			c.refuse(traffic.Stopping, c.cause())
			return
		}
	}
	c.wire = conn
	c.plaintext.Store(true)
	// Dialling may have taken minutes.
	if p.strict(s) {
		c.refuse(f.reason, f.err)
		return
	}
	if err := c.admit(); err != nil {
		c.refuse(traffic.Broken, err)
		return
	}
	source, err := c.reader()
	if err != nil {
		c.refuse(traffic.Exhausted, err)
		return
	}
	back, err := newPlainReader(conn, &p.pools, &c.wireEnded)
	if err != nil {
		c.refuse(traffic.Exhausted, err)
		return
	}
	source.reserve, source.tail = 0, 0
	c.because(f.reason)
	c.counts.Because(f.reason)
	c.counts.Plaintext.Add(1)
	c.openEdge()
	c.relay(
		way{then: func() error { return p.pass(c.wire, source, &c.wireEnded, &c.sent) }},
		way{then: func() error { return p.pass(c.app, back, &c.appEnded, &c.received) }},
	)
}
