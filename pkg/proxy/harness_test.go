//go:build linux

package proxy

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

// patienceForTests bounds every wait of a test. It decides only how long a
// failure takes.
const patienceForTests = 30 * time.Second

const testTrustDomain = "cluster.test"

// authority issues the certificates of a test.
type authority struct {
	pki.Pair
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pki.Root(t), x509.NewCertPool()}
	a.pool.AddCert(a.Cert)
	return a
}

// issue returns a certificate for ips; change may alter the template first.
func (a *authority) issue(t testing.TB, ips []netip.Addr, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := pki.ECKey(t, elliptic.P256())
	leaf := a.Leaf(t, identity.ID{TrustDomain: testTrustDomain, Namespace: "default", ServiceAccount: "app"}, ips, key.Public(), change)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// addresses hands out loopback addresses that stand for pods. The first one is
// random, so that runs at the same time do not meet.
var addresses = func() *atomic.Uint32 {
	var a atomic.Uint32
	a.Store(127<<24 | mathrand.Uint32()&0x00ffff00 | 1<<16)
	return &a
}()

func podAddress() netip.Addr {
	n := addresses.Add(1)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// testSockets knows the original destination of a captured socket by the
// source port that the test bound before it connected.
type testSockets struct {
	destinations sync.Map // netip.AddrPort of the client → netip.AddrPort
	presented    sync.Map // netip.AddrPort of the client → struct{}
	presentErr   atomic.Pointer[error]
	// lost means that clients are not handed over.
	lost atomic.Bool
	// services are destinations that are no pods. A port of 0 stands for every port.
	services []netip.AddrPort
	// band is nil where wire=inband is not available.
	band *testBand
	// outside means that the addresses of all other ends belong to nobody in the cluster.
	outside atomic.Bool
	// tuning is what the applications have set, nil for nothing.
	tuning atomic.Pointer[tuning.Tuning]
	// urgentAt is what UrgentAt returns.
	urgentAt atomic.Uint64
}

func (s *testSockets) Tuning(int) (tuning.Tuning, error) {
	if t := s.tuning.Load(); t != nil {
		return *t, nil
	}
	return tuning.Tuning{}, nil
}

func (s *testSockets) UrgentAt(int) (place uint64, err error) { return s.urgentAt.Load(), nil }

func (s *testSockets) OriginalDestination(fd int) (destination netip.AddrPort, pod bool, err error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, false, err
	}
	found, ok := s.destinations.LoadAndDelete(fromSockaddr(sa))
	if !ok {
		return netip.AddrPort{}, false, unix.ENOENT
	}
	destination = found.(netip.AddrPort)
	service := slices.ContainsFunc(s.services, func(a netip.AddrPort) bool {
		return a.Addr() == destination.Addr() && (a.Port() == 0 || a.Port() == destination.Port())
	})
	return destination, !service, nil
}

func (s *testSockets) PresentAs(_ int, client netip.AddrPort) error {
	s.presented.Store(client, struct{}{})
	if err := s.presentErr.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *testSockets) FromOutside(int) (bool, error) { return s.outside.Load(), nil }

func (s *testSockets) HandedOver(int) (done, established bool, err error) {
	return !s.lost.Load(), false, nil
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func toSockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// testPod is a pod with a gateway.
type testPod struct {
	t       testing.TB
	ip      netip.Addr
	options Options
	proxy   *Proxy
	sockets *testSockets
	capture netip.AddrPort
	log     *lineBuffer
	stop    func()
}

// newPod starts a gateway whose options change may alter. It ends with the
// test, and must then have neither connections nor goroutines left.
func newPod(t testing.TB, a *authority, change func(*Options)) *testPod {
	t.Helper()
	return newPodAt(t, a, podAddress(), podAddress(), change)
}

// newPodAt is newPod with a choice of addresses.
func newPodAt(t testing.TB, a *authority, ip, captureIP netip.Addr, change func(*Options)) *testPod {
	t.Helper()
	pod := &testPod{t: t, ip: ip, sockets: &testSockets{}, log: &lineBuffer{}}
	capture := listen(t, netip.AddrPortFrom(captureIP, 0))
	pod.capture = addrPort(capture.Addr())
	logger := NewLogger(pod.log, new(journal.Budget), journal.NewSpool(nil))
	pod.options = Options{
		Config: &api.Config{
			PodIPs:      []netip.Addr{pod.ip},
			TrustDomain: testTrustDomain,
			Mode:        api.Strict,
		},
		Certificate:  a.issue(t, []netip.Addr{pod.ip}, nil),
		Roots:        a.pool,
		Capture:      []net.Listener{capture},
		Sockets:      pod.sockets,
		Log:          logger,
		DrainTimeout: -1,
		loopbackPods: true,
	}
	if change != nil {
		change(&pod.options)
	}
	if pod.options.Peer == nil {
		pod.options.Peer = listen(t, netip.AddrPortFrom(pod.ip, api.PeerPort))
	}
	var err error
	if pod.proxy, err = New(pod.options); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- pod.proxy.Serve(ctx) }()
	pod.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patienceForTests)
		defer cancel()
		if err := logger.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(pod.stop)
	return pod
}

func permissive(o *Options) { o.Config.Mode = api.Permissive }

// portOf returns the port of the first of listeners.
func portOf(listeners []net.Listener) uint16 { return addrPort(listeners[0].Addr()).Port() }

func listen(t testing.TB, at netip.AddrPort) net.Listener {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	l, err := config.Listen(context.Background(), "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// application runs a server in the pod with the address ip, and returns where.
func application(t testing.TB, ip netip.Addr, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	return applicationAt(t, listen(t, netip.AddrPortFrom(ip, 0)), serve)
}

// applicationAt is application with a choice of the listener.
func applicationAt(t testing.TB, l net.Listener, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	var connections sync.WaitGroup
	var open sync.Map
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(time.Millisecond)
				continue
			}
			open.Store(conn, nil)
			connections.Go(func() {
				defer open.Delete(conn)
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		open.Range(func(conn, _ any) bool { return conn.(net.Conn).Close() == nil })
		connections.Wait()
	})
	return addrPort(l.Addr())
}

func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
}

// dial connects like an application of the pod whose connect(2) was captured.
func (pod *testPod) dial(destination netip.AddrPort) *net.TCPConn {
	pod.t.Helper()
	conn, err := pod.tryDial(destination)
	if err != nil {
		pod.t.Fatal(err)
	}
	pod.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialWithoutGateway connects to where no gateway is to be trusted: the mode says what
// comes of it.
func (pod *testPod) dialWithoutGateway(destination netip.AddrPort) {
	pod.t.Helper()
	if pod.options.Config.Mode == api.Strict {
		pod.dialReset(destination)
		return
	}
	pod.visit(destination)
}

// visit has an application of the pod talk to an echo server.
func (pod *testPod) visit(destination netip.AddrPort) {
	pod.t.Helper()
	conn := pod.dial(destination)
	ping(pod.t, conn)
	hangUp(pod.t, conn)
}

// dialReset connects and expects a RST, which may come before connect(2) is
// seen to have succeeded.
func (pod *testPod) dialReset(destination netip.AddrPort) {
	pod.t.Helper()
	conn, err := pod.tryDial(destination)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		pod.t.Fatal(err)
	}
	defer conn.Close()
	expectReset(pod.t, conn)
}

func (pod *testPod) tryDial(destination netip.AddrPort) (*net.TCPConn, error) {
	return pod.tryDialFrom(pod.ip, destination)
}

// tryDialFrom is tryDial for an application that has bound an address, or has that of the pod.
func (pod *testPod) tryDialFrom(ip netip.Addr, destination netip.AddrPort) (*net.TCPConn, error) {
	var source netip.AddrPort
	d := net.Dialer{
		Timeout: patienceForTests,
		Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			return errors.Join(raw.Control(func(fd uintptr) {
				if err = unix.Bind(int(fd), toSockaddr(netip.AddrPortFrom(ip, 0))); err != nil {
					return
				}
				var sa unix.Sockaddr
				if sa, err = unix.Getsockname(int(fd)); err == nil {
					source = fromSockaddr(sa)
					pod.sockets.destinations.Store(source, destination)
				}
			}), err)
		},
	}
	conn, err := d.Dial("tcp", pod.capture.String())
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(2 * patienceForTests)); err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// lineBuffer is the log of a gateway.
type lineBuffer struct {
	mu    sync.Mutex
	lines []byte
}

func (b *lineBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, p...)
	return len(p), nil
}

// count returns how often a text has been logged.
func (b *lineBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Count(b.lines, []byte(text))
}

// connections returns the lines of connections so far.
func (b *lineBuffer) connections(t testing.TB) []api.Connection {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []api.Connection
	for line := range bytes.Lines(b.lines) {
		var c api.Connection
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if c.Message == api.ConnectionMessage {
			all = append(all, c)
		}
	}
	return all
}

// logged waits for a connection's line that fits, and returns it.
func (pod *testPod) logged(what string, fits func(api.Connection) bool) api.Connection {
	pod.t.Helper()
	var found api.Connection
	eventually(pod.t, "the log of "+what, func() bool {
		for _, c := range pod.log.connections(pod.t) {
			if fits(c) {
				found = c
				return true
			}
		}
		return false
	})
	return found
}

// unencrypted checks the line of the connection to destination, and why it is not encrypted.
func (pod *testPod) unencrypted(destination netip.AddrPort, reason traffic.Reason) api.Connection {
	pod.t.Helper()
	line := pod.logged("the connection", func(c api.Connection) bool { return c.Destination == destination })
	if line.Encrypted || line.Reason != reason.String() {
		pod.t.Errorf("logged %+v, want the reason %q", line, reason)
	}
	return line
}

// settled returns the counts of a pod whose connections have all ended: an application sees its
// end before the gateway has counted it.
func (pod *testPod) settled() api.Traffic {
	pod.t.Helper()
	var n api.Traffic
	eventually(pod.t, "the connections to be counted", func() bool {
		n = pod.proxy.Traffic()
		return n.Outbound.Active+n.Inbound.Active == 0
	})
	return n
}

// eventually waits until condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patienceForTests)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func write(t testing.TB, conn net.Conn, data string) {
	t.Helper()
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
}

func expect(t testing.TB, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// exchange sends data to an application that sends it back.
func exchange(t testing.TB, conn net.Conn, data string) {
	t.Helper()
	write(t, conn, data)
	expect(t, conn, data)
}

// end ends the sending side, and expects the other one to end as well.
func end(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectEOF(t, conn)
}

func hangUp(t testing.TB, conn io.Closer) {
	t.Helper()
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
}

func expectEOF(t testing.TB, conn net.Conn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v; want a clean end", n, err)
	}
}

// bothWays sends a byte each way between the ends of a connection.
func bothWays(t testing.TB, near, far net.Conn) {
	t.Helper()
	write(t, near, "x")
	expect(t, far, "x")
	write(t, far, "y")
	expect(t, near, "y")
}

// expectReset reads until the connection ends, which must be by a RST.
func expectReset(t testing.TB, conn net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, conn)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after %d bytes: %v; want a RST", n, err)
	}
}

// collect starts a server that hands its connections to the test.
func collect(t testing.TB, ip netip.Addr) (netip.AddrPort, func() *net.TCPConn) {
	t.Helper()
	return collectAt(t, listen(t, netip.AddrPortFrom(ip, 0)))
}

// collectAt is collect with a choice of the listener.
func collectAt(t testing.TB, l net.Listener) (netip.AddrPort, func() *net.TCPConn) {
	t.Helper()
	accepted := make(chan *net.TCPConn, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn.(*net.TCPConn)
		}
	}()
	return addrPort(l.Addr()), func() *net.TCPConn {
		t.Helper()
		select {
		case conn, ok := <-accepted:
			if !ok {
				t.Fatal("the application's listener is closed")
			}
			t.Cleanup(func() { _ = conn.Close() })
			if err := conn.SetDeadline(time.Now().Add(2 * patienceForTests)); err != nil {
				t.Fatal(err)
			}
			return conn
		case <-time.After(patienceForTests):
			t.Fatal("no connection reached the application")
			panic("not reached")
		}
	}
}
