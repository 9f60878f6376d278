//go:build linux

package proxy

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// carrier is a TLS connection between two gateways that carries connections of applications, one
// after the other. A goroutine of its own reads from it until it ends: dialling.go has the one of
// the gateway that has dialled it, accepting.go that of the other. Any error ends the carrier with a
// RST, and the connection that it carries.
type carrier struct {
	proxy *Proxy
	// route is what was dialled, or leads to the address of the peer that has dialled, without a port.
	route   route
	conn    stream
	tls     *tls.Conn
	records *recordConn
	made    time.Time

	// certificates are those that the peer has sent, and chains what was verified of them, under settings.
	settings     *settings
	certificates []*x509.Certificate
	chains       [][]*x509.Certificate
	peer         string
	session      session
	// dialled means that this gateway has dialled the other one, urgent that both know urgent frames.
	dialled, urgent bool
	// These belong to the goroutine that reads: in.b[r:w] is decrypted and not yet parsed. more
	// means that the TLS connection may hold more, so that there is nothing to wait for. at is where the
	// connection current is that the dialling side reads for.
	more bool
	at   reading
	// owes means that the accepting side has not answered yet. The direction from the application may answer, too.
	owes    atomic.Bool
	frames  frames
	in      *buffer
	r, w    int
	readErr error
	current *connection
	// noted is the destination that works, as the gate was told at notedAt.
	noted   netip.AddrPort
	notedAt time.Time
	// then is what the accepting side goes on with when it has parked.
	then func() error

	// gone means that no further connection may be carried.
	gone atomic.Bool
	// saidEnd means that close_notify has been sent, saidAway go-away.
	saidEnd, saidAway atomic.Bool
	// awaySent means that go-away is on its way, crossed counts headers that came later.
	awaySent atomic.Bool
	crossed  int

	// The pool's mutex guards these.
	place     *list.Element
	idleSince time.Time

	mu sync.Mutex
	// served counts connections, the present one included.
	served int
	// claimed means that the dialling side uses the carrier, carried is its connection then. busy means that the accepting
	// side serves one.
	claimed, busy bool
	// answered means that the peer has answered for carried, lost that it has not started it, which
	// is to be carried another way, broken that nothing more will come.
	answered, lost, broken bool
	// saidAll means that the end of what carried has to say has been sent, tooLate that carried
	// cannot be carried another way.
	saidAll, tooLate bool
	// owesEnd means that the end of what the dialling side has carried last is to be sent.
	owesEnd bool
	carried *connection
	// outcome is closed when one of the three is set; nil unless there is a waiter.
	outcome chan struct{}
	// written is how many bytes had been written when carried began.
	written uint64
	// tuned is what the last connection has set on conn.
	tuned unique.Handle[tuning.Tuning]

	// begun is the connection that the accepting side has begun last, and answeredAt what was written
	// when it had been answered. They belong to the goroutine that reads, answeredAt not while owes is set.
	begun      ends
	answeredAt uint64
	// overdue has the accepting side answer.
	overdue *time.Timer
	// sealed has a value when the direction from the application has ended, on the accepting side.
	sealed chan struct{}
}

// newCarrier makes a carrier of c's connection to the peer, whose handshake has succeeded under s.
func newCarrier(c *connection, s *settings) *carrier {
	state := c.tls.ConnectionState()
	k := &carrier{
		proxy: c.proxy, dialled: c.dialled(), route: c.route, conn: c.wire, tls: c.tls, records: c.records, made: time.Now(),
		settings: s, certificates: state.PeerCertificates, chains: state.VerifiedChains, urgent: state.NegotiatedProtocol == api.ALPNFrames,
		peer: c.line.Peer, session: c.line.session, more: true, tuned: c.proxy.untuned,
	}
	if !k.dialled {
		k.route = route{to: netip.AddrPortFrom(remoteEnd(c.wire).Addr(), 0)}
		k.sealed = make(chan struct{}, 1)
	}
	k.records.startRelay()
	k.proxy.carriers.opened(k)
	k.proxy.stir()
	return k
}

// lend makes k what c is carried by.
func (k *carrier) lend(c *connection, reused bool) {
	c.carrier.Store(k)
	c.wire, c.tls, c.records = k.conn, k.tls, k.records
	c.line.Wire, c.line.Encrypted = api.WirePort, true
	c.line.Peer, c.line.session = k.peer, k.session
	c.identify(k.certificates[0])
	c.line.session.reused = reused
	if !reused {
		return
	}
	k.mu.Lock()
	tuned := k.tuned
	k.mu.Unlock()
	c.mu.Lock()
	c.tuned, c.tunedWire = tuned, k.conn
	c.mu.Unlock()
}

// verify repeats for a connection what the handshake has verified, under s. What this gateway has
// dialled under other settings is not used again.
func (k *carrier) verify(s *settings) error {
	if err := s.revocation(k.certificates[0]); err != nil {
		return err
	}
	if k.settings == s {
		if s.validNow(k.chains) {
			return nil
		}
		usage := x509.ExtKeyUsageClientAuth
		if k.dialled {
			usage = x509.ExtKeyUsageServerAuth
		}
		// It says more.
		_, err := s.chains(k.certificates, usage)
		return cmp.Or(err, errNoValidChain)
	}
	if k.dialled {
		return errors.New("settings have changed")
	}
	chains, err := s.chains(k.certificates, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return err
	}
	if err := s.verifyPeer(k.certificates[0], chains); err != nil {
		return err
	}
	k.chains, k.settings = chains, s
	return nil
}

// claim reserves an idle carrier for a connection.
func (k *carrier) claim() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.claimed = !k.gone.Load()
	return k.claimed
}

// quiet reports whether nothing has come that the reading goroutine has not got yet. What comes to
// an idle carrier is its end, or asks for it.
func (k *carrier) quiet() (quiet bool) {
	_ = control(k.records.raw, func(fd int) error {
		quiet = nothingToRead(fd)
		return nil
	})
	return quiet
}

// next returns the next frame, whose payload is valid until the next call. It waits without a buffer.
func (k *carrier) next() (frame, error) {
	for {
		if k.r < k.w {
			f, n, err := k.frames.next(k.in.b[k.r:k.w])
			if err == nil {
				k.r += n
				return f, nil
			}
			if !errors.Is(err, errShortFrame) {
				return frame{}, err
			}
		}
		if err := k.fill(); err != nil {
			return frame{}, err
		}
	}
}

// endsNext reports whether the next frame is there, and is an end.
func (k *carrier) endsNext() bool {
	return k.r+framePrefix <= k.w && frameKind(k.in.b[k.r]) == frameEnd
}

// fill decrypts what has come, or waits for more.
func (k *carrier) fill() error {
	if k.readErr != nil {
		return k.readErr
	}
	k.tidy()
	if !k.more {
		if err := k.records.awaitRecord(); err != nil {
			if err != errParked {
				k.readErr = err
			}
			return err
		}
	}
	var held []byte
	if k.in != nil {
		held = k.in.b[k.r:k.w]
	}
	b, n, err := k.records.decrypt(k.tls, held)
	k.more = err == nil
	if err != nil && err != error(errNoRecord) {
		k.readErr = err
	}
	k.proxy.pools.put(k.in)
	k.in, k.r, k.w = b, 0, n
	return nil
}

// tidy returns the buffer to its pool if it is empty.
func (k *carrier) tidy() {
	if k.r == k.w && k.in != nil {
		k.proxy.pools.put(k.in)
		k.in, k.r, k.w = nil, 0, 0
	}
}

// seal carries the application's data to the peer until its end of file, which becomes an end. It
// asks before each read whether it may go on.
func (k *carrier) seal(c *connection, source *plainReader, may func() error) error {
	source.reserve, source.tail = framePrefix, framePrefix
	source.findUrgent(k.urgent)
	for {
		if may != nil {
			if err := may(); err != nil {
				return err
			}
		}
		b, size, err := source.next()
		source.twice = false
		if err != nil && err != io.EOF || b == nil {
			return fmt.Errorf("reading from the application: %w", err)
		}
		c.sent.Add(uint64(source.fresh))
		if err == io.EOF && size == framePrefix && k.mayHoldEnd(c) {
			k.holdEnd()
			c.proxy.pools.put(b)
			return nil
		}
		if _, answering := k.payAnswer(); answering != nil {
			c.proxy.pools.put(b)
			return fmt.Errorf("%w: %w", errPeerWrite, answering)
		}
		if err := c.sealOnce(b, source.frameUp(b, framePrefix, size, err == io.EOF), false); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
	}
}

// frameUp makes frames of the application's data in b, which r has read last, ends at size and has the
// room for a prefix before front, and after it if it is the last. It returns the size of all.
func (r *plainReader) frameUp(b *buffer, front, size int, last bool) int {
	if n := size - front; n > 0 {
		kind := frameData
		if r.urgent {
			kind = frameUrgent
		}
		putFrame(b.b[front-framePrefix:], kind, n)
	} else {
		size = front - framePrefix
	}
	if last {
		putFrame(b.b[size:], frameEnd, 0)
		size += framePrefix
	}
	return size
}

// retire ends an idle carrier that this gateway has dialled. The peer closes its socket first, so that
// TIME_WAIT is where it costs no port.
func (k *carrier) retire() {
	k.gone.Store(true)
	if k.saidEnd.Swap(true) {
		return
	}
	_ = k.conn.SetDeadline(time.Now().Add(finTimeout))
	k.sayEnd()
}

// sayEnd sends close_notify. An error means that the connection has ended already.
func (k *carrier) sayEnd() {
	k.payEnd()
	_ = k.tls.CloseWrite()
	_ = k.records.flush()
}

// sendAway asks the peer to close a carrier that it has dialled. A header that is under way is served.
func (k *carrier) sendAway() {
	k.gone.Store(true)
	k.mu.Lock()
	if !k.busy {
		_ = k.conn.SetDeadline(time.Now().Add(goAwayTimeout))
	}
	k.mu.Unlock()
	if k.saidAway.Swap(true) {
		return
	}
	var b [framePrefix]byte
	putFrame(b[:], frameGoAway, 0)
	if _, err := k.tls.Write(b[:]); err == nil {
		_ = k.records.flush()
	}
	k.awaySent.Store(true)
}

// finish is called by the reading goroutine when err has ended it, and nothing is carried.
func (k *carrier) finish(err error) {
	k.gone.Store(true)
	k.proxy.carriers.remove(k)
	if !k.dialled {
		k.proxy.begun.end(k, err, time.Now())
	}
	switch {
	case err == io.EOF, errors.Is(err, os.ErrDeadlineExceeded):
		if !k.saidEnd.Swap(true) {
			k.sayEnd()
		}
		closeGently(k.conn)
	default:
		reset(k.conn)
	}
	k.proxy.pools.put(k.in)
	k.in, k.r, k.w = nil, 0, 0
	k.records.release()
	k.proxy.carriers.ended(k)
}

var (
	errNoValidChain = errors.New("peer's certificate has no chain that is valid now")
	// errAgain means that the peer has not started the connection and asks for another try.
	errAgain = errors.New(traffic.PeerReset.String())
	// errSilent means that the peer has acknowledged nothing of the connection.
	errSilent = errors.New("peer does not answer on a connection that was idle")
	// errRepeated means that a connection is not begun, because it was before.
	errRepeated = errors.New(traffic.Repeated.String())
)

// truncated makes an error of an end where there must be none.
func truncated(err error) error {
	if err == io.EOF {
		return errTruncated
	}
	return err
}
