//go:build linux

package proxy

import (
	"crypto/x509"
	"net/netip"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Behind a Service the cluster chooses a pod for each connection, when it sees the SYN. The SYN-ACK says which
// gateway has answered. A connection is then carried over one to the peer port of that gateway's pod, which other connections
// have used before, and the one that has only asked is reset. What the SYN-ACK says is a hint that
// anybody can give. So it counts only for gateways that have proved themselves behind that very Service, by TLS in band, with a
// certificate of the address that the hint is made of: nobody passes for the gateway of another pod. Whoever
// gives a wrong one has a connection go to another pod of the same Service at most, and the peer port asks for the
// certificate of that pod's address.

const (
	// maxBackends bounds a backendTable; an entry takes about 200 bytes.
	maxBackends = 4096
	// maxBackendsAsked bounds the questions whether a peer port can be reached that are under way.
	maxBackendsAsked = 64
	// askBackendAgain is how long after a failure a peer port is not tried.
	askBackendAgain = 30 * time.Second
)

// answer is what a gateway says in its SYN-ACK: the number of its pod's address (api.GatewayNumber), and the port of the connection at its
// end. The zero value is nothing.
type answer struct {
	gateway uint32
	port    uint16
}

// backendKey is what tells one pod behind a Service from others.
type backendKey struct {
	service netip.AddrPort
	gateway uint32
}

// backend is a pod behind a Service, whose gateway has proved that it has the pod's address.
type backend struct {
	// application is the pod's address and the port there, which the gateway alone says. It has one at a time, so that a gateway
	// which always says another one has one entry.
	application netip.AddrPort
	// open means that its peer port can be reached, asking that this is being found out.
	open, asking bool
	// again is when it may be asked again.
	again time.Time
}

// backendTable has the pods behind Services that are known. They belong to settings, and go with them.
type backendTable struct {
	now func() time.Time

	mu     sync.Mutex
	known  map[backendKey]*backend
	asking int
}

func newBackendTable(now func() time.Time) *backendTable {
	return &backendTable{now: now, known: make(map[backendKey]*backend)}
}

// lookup returns where the application of the pod that has answered is, if the pod's peer port can be reached.
func (t *backendTable) lookup(k backendKey, port uint16) (application netip.AddrPort, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.known[k]
	if b == nil || !b.open || b.application.Port() != port {
		return netip.AddrPort{}, false
	}
	return b.application, true
}

// learn notes that the gateway at application has proved itself, and reports whether the caller is to find out whether its peer
// port can be reached, and to call asked then.
func (t *backendTable) learn(k backendKey, application netip.AddrPort) (ask bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.known[k]
	if b == nil || b.application.Addr() != application.Addr() {
		if len(t.known) >= maxBackends {
			clear(t.known)
		}
		b = new(backend)
		t.known[k] = b
	}
	b.application = application
	if b.open || b.asking || t.asking >= maxBackendsAsked || t.now().Before(b.again) {
		return false
	}
	b.asking = true
	t.asking++
	return true
}

// asked notes whether the peer port of the pod that k stands for can be reached.
func (t *backendTable) asked(k backendKey, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asking--
	t.note(k, open)
}

// failed notes that the peer port could not be reached.
func (t *backendTable) failed(k backendKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.note(k, false)
}

// note is failed or its opposite with t.mu locked.
func (t *backendTable) note(k backendKey, open bool) {
	if b := t.known[k]; b != nil {
		b.open, b.asking = open, false
		b.again = t.now().Add(askBackendAgain)
	}
}

// askWho notes on c which gateway has answered at conn, if that matters: what the user wants to see at the ports of
// the application is carried there, as is a second try, and what the application has bound to another address.
func (p *Proxy) askWho(c *connection, s *settings, conn stream, pod bool) {
	c.answer = answer{}
	if pod || s.wire != api.WireAuto || c.attempts > 0 || c.bound.IsValid() {
		return
	}
	_ = onSocket(conn, func(fd int) (err error) {
		c.answer.gateway, c.answer.port, err = p.options.Sockets.Answered(fd)
		return err
	})
}

// carryToBackend carries c to the pod that has answered at asking, over a connection to its peer port. It reports false if
// that cannot be, and nothing has been sent: c goes on in band.
func (p *Proxy) carryToBackend(c *connection, s *settings, asking stream, h header) (f *failure, done bool) {
	key := backendKey{h.Destination, c.answer.gateway}
	application, ok := s.backends.lookup(key, c.answer.port)
	if !ok {
		return nil, false
	}
	inband := c.route
	c.route = route{to: netip.AddrPortFrom(application.Addr(), api.PeerPort)}
	peer := p.peers.acquire(c.route)
	defer p.peers.release(peer)
	if p.peers.remembered(peer) != traffic.None {
		c.route = inband
		return nil, false
	}
	c.backend = application
	h.Dialled, h.Destination = h.Destination, application
	f = p.encryptTo(c, s, peer, h)
	p.peers.record(peer, false, f)
	if f == nil || f.final {
		p.resetAtOnce(asking)
		return f, true
	}
	s.backends.failed(key)
	c.route, c.backend = inband, netip.AddrPort{}
	if !c.adopt(asking) {
		return &failure{reason: traffic.Stopping, err: c.cause(), final: true}, true
	}
	return nil, false
}

// learnBackend notes that the gateway which has answered c has proved itself by its certificate leaf, and
// finds out whether its peer port can be reached, beside the connection.
func (p *Proxy) learnBackend(c *connection, s *settings, service netip.AddrPort, leaf *x509.Certificate) {
	if c.answer.gateway == 0 || c.answer.port == 0 {
		return
	}
	pod, ok := onlyAddress(leaf, service.Addr().Is4())
	if !ok || api.GatewayNumber(pod) != c.answer.gateway {
		return
	}
	key := backendKey{service, c.answer.gateway}
	if !s.backends.learn(key, netip.AddrPortFrom(pod, c.answer.port)) {
		return
	}
	p.asking.Go(func() {
		s.backends.asked(key, p.askPeer(s, route{to: netip.AddrPortFrom(pod, api.PeerPort)}) == nil)
	})
}

// onlyAddress returns the address that leaf names of a family, if there is one and no other.
func onlyAddress(leaf *x509.Certificate, is4 bool) (ip netip.Addr, ok bool) {
	for _, name := range leaf.IPAddresses {
		a, valid := netip.AddrFromSlice(name)
		if a = a.Unmap(); !valid || a.Is4() != is4 {
			continue
		}
		if ok {
			return netip.Addr{}, false
		}
		ip, ok = a, true
	}
	return ip, ok
}
