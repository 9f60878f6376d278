//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// inbound carries a connection from another gateway: it shakes hands, reads the header,
// checks that the peer may connect and that its header is true, dials the local application
// and relays. release is called once the header has been read. It reports false if the handshake
// had to make room for another one.
func (p *Proxy) inbound(c *connection, wire string, release func() bool) {
	growStack()
	s := p.settings.Load()
	c.wire = c.sockets[0]
	local := c.line.Destination
	deadline := time.Now().Add(p.options.HandshakeTimeout)
	err := p.acceptTLS(c, s, wire)
	if err != nil {
		if !release() {
			c.refuse(traffic.Evicted, nil)
			return
		}
		// The sweep may see the RST before the handshake does.
		if wire == api.WireInband && (errors.Is(err, syscall.ECONNRESET) || c.cause() == errReset) && (c.records == nil || !c.records.heard) {
			// The peer wanted to know who answers.
			c.closeSockets()
			c.unused()
			return
		}
		c.refuse(validityReason(err, s.now(), traffic.ClientExpired, traffic.ClientNotYetValid, traffic.NoHandshake))
		return
	}
	if wire == api.WirePort && reuses(c.tls.ConnectionState()) {
		go newCarrier(c, s).serve(c, s, deadline, release)
		return
	}
	first, data, h, err := p.readHeader(c, deadline)
	if !release() {
		p.pools.put(first)
		c.refuse(traffic.Evicted, nil)
		return
	}
	if err != nil {
		p.decline(c, statusNotAllowed, traffic.Forbidden, err)
		return
	}
	c.line.Source, c.line.Destination = h.Client, h.Destination
	if wire == api.WireInband && h.Destination != local {
		// The client may have dialled a Service, and the cluster chose this pod: the
		// header does not decide.
		c.line.Destination, c.line.Dialled = local, h.Destination
		h.Destination = local
	}
	if err := p.connect(c, s, h, first, data); err != nil {
		p.pools.put(first)
	}
}

// acceptTLS is the server's side of the handshake.
func (p *Proxy) acceptTLS(c *connection, s *settings, wire string) error {
	records, err := newRecordConn(c.wire, &p.pools)
	if err != nil {
		return err
	}
	c.records = records
	config := s.server
	if wire == api.WireInband {
		config = s.inbandServer
	}
	c.tls = tls.Server(records, config)
	if err := p.shake(c.wire, c.tls, records, p.options.HandshakeTimeout); err != nil {
		return err
	}
	c.describeTLS()
	c.line.Wire, c.line.Encrypted = wire, true
	return nil
}

// readHeader reads the header, until the deadline, and ends the blocking reads. It also
// returns the data that followed the header in the same record, and the buffer that they are
// in, which is nil if there are none.
func (p *Proxy) readHeader(c *connection, deadline time.Time) (b *buffer, data []byte, h header, err error) {
	if err := c.wire.SetDeadline(deadline); err != nil {
		return nil, nil, header{}, err
	}
	b = p.pools.get(classRecord)
	for n, size := 0, 0; ; {
		m, readErr := c.tls.Read(b.b[n:])
		n += m
		h, size, err = parseHeader(b.b[:n])
		switch {
		case err == nil:
			c.records.startRelay()
			data, err = b.b[size:n], c.wire.SetDeadline(time.Time{})
		case err == errShortHeader && readErr == nil:
			continue
		case err == errShortHeader:
			err = fmt.Errorf("reading the header: %w", readErr)
		}
		if err != nil || len(data) == 0 {
			p.pools.put(b)
			b, data = nil, nil
		}
		return b, data, h, err
	}
}

// connect carries c to the application that h names, if the peer may reach it. The data in
// first came with the header. If connect fails, it has ended c.
func (p *Proxy) connect(c *connection, s *settings, h header, first *buffer, data []byte) error {
	source, err := p.reach(c, s, h, c.tls.ConnectionState().PeerCertificates[0])
	if err != nil {
		return err
	}
	c.countEncrypted()
	c.agreeOnFrames()
	c.relay(
		way{
			first: func() error {
				// What the application has said already goes with the answer.
				source.poll = h.Waits
				return c.seal(source, statusOK)
			},
			then: func() error { return c.seal(source, 0) },
		},
		way{
			first: func() error {
				err := c.unframe(data)
				p.pools.put(first)
				if err != nil {
					return err
				}
				return c.unseal(nil)
			},
			then: func() error { return c.unseal(nil) },
		},
	)
	return nil
}

// reach connects c to the application that h names, if the peer, whose certificate is leaf, may reach
// it, and returns what reads from there. If reach fails, it has ended c.
func (p *Proxy) reach(c *connection, s *settings, h header, leaf *x509.Certificate) (*plainReader, error) {
	untrue := s.allowed(h, leaf, c.line.Wire, p.ports)
	if untrue != nil {
		untrue = fmt.Errorf("%w: the peer says that %v dials %v", untrue, h.Client, h.Destination)
		// What is certain is where the peer's gateway and this one have met.
		c.line.Destination, c.line.Source = endsOf(c.wire)
		c.line.Dialled = netip.AddrPort{}
	}
	if err := c.permit(s, leaf, h.Destination.Port()); err != nil {
		c.counts.NotAllowed.Add(1)
		return nil, p.deny(c, traffic.IdentityNotAllowed, err, untrue)
	}
	if err := c.countPeer(); err != nil {
		return nil, p.deny(c, traffic.TooManyConnections, err, untrue)
	}
	if untrue != nil {
		return nil, p.deny(c, traffic.Forbidden, untrue, nil)
	}
	// This client has a gateway.
	p.peers.forget(h.Client.Addr())
	if !p.begun.begin(h, c.carrier.Load()) {
		p.decline(c, statusBegun, traffic.Repeated, nil)
		return nil, errRepeated
	}
	if h.Bound.IsValid() && !p.comesFrom(c, h.Bound.Addr()) {
		h.Bound = netip.AddrPort{}
	}
	c.client, c.line.Source = h.Client, h.source()

	app, err := p.dialApplication(h)
	if err != nil {
		answer, reason := statusUnreachable, traffic.ApplicationUnreachable
		if errors.Is(err, syscall.ECONNREFUSED) {
			answer, reason = statusRefused, traffic.ApplicationRefused
		}
		p.decline(c, answer, reason, err)
		return nil, err
	}
	c.app = app
	if !c.adopt(app) {
		reason, cause := traffic.Stopping, c.cause()
		switch {
		case errors.Is(cause, ca.ErrRevoked):
			reason = traffic.Revoked
		case errors.Is(cause, errForbidden):
			reason = traffic.IdentityNotAllowed
		}
		c.refuse(reason, cause)
		return nil, cause
	}
	source, err := c.reader()
	if err != nil {
		c.refuse(traffic.Exhausted, err)
		return nil, err
	}
	if c.audited != nil {
		c.counts.Audited.Add(1)
		c.because(traffic.Audited)
		c.line.Error = c.audited.Error()
	}
	return source, nil
}

// permit checks the peer's identity and the port that it asks for against the rules that the
// connection started with and against those in force now.
func (c *connection) permit(s *settings, leaf *x509.Certificate, port uint16) error {
	c.grant.Store(&grant{leaf, port})
	current := c.proxy.settings.Load()
	if s.rules.Empty() && current.rules.Empty() {
		return nil
	}
	for _, rules := range []*api.Policy{s.rules, current.rules} {
		err := c.grant.Load().check(rules)
		switch {
		case err == nil:
		case rules.Audit:
			c.audited = err
		default:
			return err
		}
	}
	return nil
}

// allowed checks that the peer asks for an application of this pod, and speaks for a client
// that its certificate names. In band the destination is where the connection arrived, which may be
// an address of the pod that its status does not name. own are the ports of the gateway's listeners.
func (s *settings) allowed(h header, leaf *x509.Certificate, wire string, own []uint16) error {
	if wire != api.WireInband && !s.ownPod(h.Destination.Addr()) {
		return fmt.Errorf("destination %v is not in this pod", h.Destination)
	}
	if slices.Contains(own, h.Destination.Port()) {
		return fmt.Errorf("destination %v is the gateway itself", h.Destination)
	}
	if h.Client.Addr().Is4() != h.Destination.Addr().Is4() {
		return fmt.Errorf("client %v is not of the address family of %v", h.Client, h.Destination)
	}
	if !ca.NamesAddress(leaf, h.Client.Addr()) {
		return fmt.Errorf("client %v is not an address of the peer", h.Client)
	}
	return nil
}

// comesFrom reports whether c's packets come from ip, and no other pod has that, as far as this gateway knows. The
// peer's certificate does not name it, but the application would see it without gateways, too.
func (p *Proxy) comesFrom(c *connection, ip netip.Addr) bool {
	if remoteEnd(c.wire).Addr() != ip {
		return false
	}
	outside := false
	err := onSocket(c.wire, func(fd int) (err error) {
		outside, err = p.options.Sockets.FromOutside(fd)
		return err
	})
	return err == nil && outside
}

// dialApplication connects to the local application, which sees the header's source as its
// peer. The socket's own address leads to loopback, and the clients that it stands for share its
// ports. On 127.0.0.0/8 and ::1 Linux reuses a port in TIME_WAIT after a second
// (net.ipv4.tcp_tw_reuse=2, the default). The destination is an address of this pod, so
// nothing leaves the pod.
func (p *Proxy) dialApplication(h header) (stream, error) {
	seen := false
	dial := func(from netip.Addr) (*bareSocket, error) {
		s, err := p.applicationSocket(from, h.Destination.Addr())
		if err != nil {
			return nil, err
		}
		if err := p.prepareFor(s.descriptor.fd, h); err != nil {
			_ = s.Close()
			return nil, err
		}
		return s.connect(p.ctx, netip.AddrPortFrom(from, 0), h.Destination, p.options.LocalTimeout, func(fd int) (bool, error) {
			done, established, err := p.options.Sockets.HandedOver(fd)
			if seen = err == nil && done && established; seen {
				return true, nil
			}
			return connected(fd)
		})
	}
	app, err := dial(p.applicationsSide(h.source(), h.Destination.Addr()))
	if errors.Is(err, syscall.EPERM) && h.Destination.Addr().Is6() {
		// No RST is sent to ::1: the programs tell before that it would be one.
		app, err = dial(h.Destination.Addr())
	}
	if err != nil {
		return nil, err
	}
	if seen {
		return app, nil
	}
	if err := p.handedOver(app); err != nil {
		reset(app)
		return nil, fmt.Errorf("presenting the connection as coming from %v: %w", h.source(), err)
	}
	return app, nil
}

// prepareFor gives a socket to an application what belongs to this connection.
func (p *Proxy) prepareFor(fd int, h header) error {
	if err := p.options.Sockets.PresentAs(fd, h.source()); err != nil {
		return fmt.Errorf("presenting the connection as coming from %v: %w", h.source(), err)
	}
	if size := p.options.Memory.Buffer(); size > 0 {
		if err := fitSegments(fd, size); err != nil {
			return fmt.Errorf("bounding the segments: %w", err)
		}
	}
	return nil
}

// bindWithoutPort leaves it to connect(2) to choose a port, which is then for its destination alone.
func bindWithoutPort(fd int) error {
	if err := setOption(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("binding without a port: %w", err)
	}
	return nil
}

// applicationsSide returns the address from which the gateway connects to an application for client. The application
// sees it if the programs go before it accepts. Unlike 127.0.0.1 nobody has a reason to trust it.
// The connections of an address share its ports. With IPv4 each port of clients has an address of its own, with IPv6
// nearly each client and port, where there is more than ::1.
func (p *Proxy) applicationsSide(client netip.AddrPort, application netip.Addr) netip.Addr {
	if client.Addr().Is4() {
		return netip.AddrFrom4([4]byte{127, 'k', byte(client.Port() >> 8), byte(client.Port())})
	}
	// An answer that comes by loopback does not find a socket that is bound to another interface.
	if !p.options.Sources6.IsValid() || application.IsLinkLocalUnicast() {
		return netip.IPv6Loopback()
	}
	const port, half = 14, 8
	source := p.options.Sources6.Addr().As16()
	for i, b := range client.Addr().As16() {
		source[half+i%(port-half)] ^= b
	}
	binary.BigEndian.PutUint16(source[port:], client.Port())
	return netip.AddrFrom16(source)
}

// handedOver returns an error if the application does not see the client. It must not get a byte
// then.
func (p *Proxy) handedOver(app stream) error {
	return onSocket(app, func(fd int) error {
		done, _, err := p.options.Sockets.HandedOver(fd)
		if err == nil && !done {
			err = errors.New("the application would not see its client")
		}
		return err
	})
}

// decline sends the peer the reason why there is no connection, and ends c.
func (p *Proxy) decline(c *connection, answer status, reason traffic.Reason, err error) {
	p.answer(c, answer)
	c.closeRefused(reason, err)
}

// deny declines what the peer may not do, because of err and, if there is one, of another error as well. It returns both.
func (p *Proxy) deny(c *connection, reason traffic.Reason, err, other error) error {
	if other != nil {
		err = fmt.Errorf("%w; %w", err, other)
	}
	p.decline(c, statusNotAllowed, reason, err)
	return err
}

// answer sends a status and the end of TLS. The peer may have gone away.
func (p *Proxy) answer(c *connection, answer status) {
	_ = c.wire.SetWriteDeadline(time.Now().Add(p.options.HandshakeTimeout))
	if c.carrier.Load() != nil {
		_ = p.answerFrame(c, answer, true)
		return
	}
	b := p.pools.get(classTiny)
	b.b[0] = byte(answer)
	_ = c.sealOnce(b, 1, true)
}

// answerFrame sends a status, and the end of TLS if that is the end of all.
func (p *Proxy) answerFrame(c *connection, answer status, end bool) error {
	b := p.pools.get(classTiny)
	putFrame(b.b, frameStatus, 1)
	b.b[framePrefix] = byte(answer)
	return c.sealOnce(b, framePrefix+1, end)
}
