//go:build linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Wire inband: the connection to the peer is the one that the application asked for. A
// gateway at the other end shows itself in the TCP handshake, by an option in the SYN and in
// the SYN-ACK (RFC 6994), which the eBPF programs write and read. The option is only a hint:
// TLS decides.

var (
	errOptionLost    = errors.New("the TCP option did not come back")
	errOptionDropped = errors.New("packets with the TCP option are lost")
	errMark          = errors.New("marking the socket")
)

// encryptInband dials the destination itself and carries c over that connection if a gateway
// shows itself at the other end. Otherwise the failure keeps the connection open for
// plaintext: nothing has been sent on it.
func (p *Proxy) encryptInband(c *connection, s *settings, peer *peer, h header, pod bool) *failure {
	slot, err := p.slotWhile(peer, permissiveDialTimeout)
	if err != nil {
		return &failure{reason: traffic.Crowded, err: err, final: true}
	}
	defer slot.free()
	tries := syns
	if s.mode == api.Strict || p.peers.isKnown(peer) {
		tries = knownSYNs
	}
	conn, err := p.dialInband(c.context(), c.route, tries, p.options.PlainTimeout)
	if err != nil {
		return inbandDialFailure(err)
	}
	if !c.adopt(conn) {
		return &failure{reason: traffic.Stopping, err: c.cause(), final: true}
	}
	shown, givenUp, err := p.negotiated(conn)
	switch {
	case err != nil:
		// The peer may wait for TLS: plaintext needs a connection of its own.
		reset(conn)
		return &failure{reason: traffic.NoNegotiation, err: err}
	case givenUp:
		p.dropped.lost(h.Destination)
		return &failure{reason: traffic.OptionDropped, err: errOptionDropped, open: conn}
	}
	p.dropped.arrived(h.Destination, shown)
	if !shown {
		c.counts.OptionLost.Add(1)
		return &failure{reason: traffic.OptionLost, err: errOptionLost, open: conn}
	}
	if err := slot.keep(); err != nil {
		reset(conn)
		return &failure{reason: traffic.Crowded, err: err, final: true}
	}
	p.askWho(c, s, conn, pod)
	if f, done := p.carryToBackend(c, s, conn, h); done {
		return f
	}
	growStack()
	config := s.service
	if pod {
		config = s.clientConfig(h.Destination.Addr())
	}
	f := p.secure(c, s, conn, config, h, api.WireInband)
	if f != nil {
		// Another pod behind the Service may work.
		f.remember = min(f.remember, rememberFailed)
	}
	return f
}

// dialInband opens a TCP connection whose first SYNs ask for a gateway.
func (p *Proxy) dialInband(ctx context.Context, r route, syns int, timeout time.Duration) (stream, error) {
	return p.dial(ctx, r, timeout, func(fd int) error {
		if err := p.options.Sockets.MarkInband(fd, syns); err != nil {
			return fmt.Errorf("%w: %w", errMark, err)
		}
		return nil
	})
}

// inbandDialFailure classifies an error of the TCP handshake with the destination itself.
// There is nothing else to try, unless the socket could not be marked.
func inbandDialFailure(err error) *failure {
	if errors.Is(err, errMark) {
		return &failure{reason: traffic.NoNegotiation, err: err}
	}
	if f := dialFailure(err); f.final {
		return f
	}
	return &failure{reason: traffic.Unreachable, err: err, final: true}
}

// negotiated is Sockets.Negotiated of conn.
func (p *Proxy) negotiated(conn stream) (shown, givenUp bool, err error) {
	err = onSocket(conn, func(fd int) (err error) {
		shown, givenUp, err = p.options.Sockets.Negotiated(fd)
		return err
	})
	return shown && err == nil, givenUp && err == nil, err
}

// dialSlot is one of a peer's slots, which is lent while a dial takes long: one dead pod
// behind a Service must not hold up connections to the others.
type dialSlot struct {
	proxy *Proxy
	peer  *peer
	timer *time.Timer
	once  sync.Once
	// again means that the slot was lent and has been acquired again.
	again bool
}

// slotWhile waits for a slot and keeps it for at most patience, until keep.
func (p *Proxy) slotWhile(peer *peer, patience time.Duration) (*dialSlot, error) {
	if err := p.acquireSlot(peer); err != nil {
		return nil, err
	}
	s := &dialSlot{proxy: p, peer: peer}
	s.timer = time.AfterFunc(patience, s.lend)
	return s, nil
}

func (s *dialSlot) lend() { s.once.Do(func() { <-s.peer.slots }) }

// keep holds the slot until free. It waits for a slot if this one is lent.
func (s *dialSlot) keep() error {
	if s.timer.Stop() {
		return nil
	}
	if err := s.proxy.acquireSlot(s.peer); err != nil {
		return err
	}
	s.again = true
	return nil
}

func (s *dialSlot) free() {
	s.timer.Stop()
	s.lend()
	if s.again {
		<-s.peer.slots
	}
}

// admitInband starts an inbound connection whose other end showed that it has a gateway, and
// resets others, which the programs send here as well.
func (p *Proxy) admitInband(conn stream) {
	switch shown, _, err := p.negotiated(conn); {
	case err != nil:
		p.open(traffic.Inbound, conn).refuse(traffic.Undetermined, err)
	case !shown:
		p.open(traffic.Inbound, conn).refuse(traffic.Plaintext, nil)
	case p.isReset(conn):
		// The peer wanted to know who answers.
		p.resetAtOnce(conn)
	default:
		p.admit(conn, api.WireInband)
	}
}

// isReset reports whether the other end has ended conn by a RST.
func (p *Proxy) isReset(conn stream) (gone bool) {
	_ = onSocket(conn, func(fd int) error {
		gone = wasReset(fd)
		return nil
	})
	return gone
}
