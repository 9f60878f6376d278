//go:build linux

package proxy

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestHandshakeLimits(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.handshakes = newHandshakeLimit(3, 2) })
	one, two := newStranger(t, a, server), newStranger(t, a, server)
	admitted := func(n int) {
		t.Helper()
		eventually(t, "handshakes to begin", func() bool { return server.proxy.Traffic().Inbound.Active == int64(n) })
	}
	first := one.dial(server)
	one.dial(server)
	admitted(2)
	one.dialReset(server)
	two.dial(server)
	admitted(3)
	two.dialReset(server)
	if got := server.proxy.Traffic().Inbound.Refused; got != 2 {
		t.Errorf("%d refused, want 2", got)
	}
	hangUp(t, first)
	admitted(2)
	two.dial(server)
	admitted(3)
	eventually(t, "the log", func() bool { return server.log.count("too many handshakes at once") > 0 })
}

// TestOutOfFileDescriptors runs in a process of its own, because there must be
// none left.
func TestOutOfFileDescriptors(t *testing.T) {
	if os.Getenv("PROXY_TEST_CHILD") != t.Name() {
		runAsChild(t, nil)
		return
	}
	client, server := pair(t, nil)
	destination := application(t, server.ip, echo)
	var enough unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &enough); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: enough.Max}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: client.ip.As4()}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	client.sockets.destinations.Store(fromSockaddr(sa), destination)
	var hog []int
	for {
		n, err := unix.Dup(fd)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		hog = append(hog, n)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: client.capture.Addr().As4(), Port: int(client.capture.Port())}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accept to fail", func() bool { return client.log.count("cannot accept connections") > 0 })
	// All at once: an accept that found a single descriptor would leave none
	// for what follows it.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &enough); err != nil {
		t.Fatal(err)
	}
	for _, n := range hog {
		_ = unix.Close(n)
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "connection"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patienceForTests)); err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, "hello")
	if n := client.log.count("cannot accept connections"); n > 5 {
		t.Errorf("%d lines say that accept fails", n)
	}
}

// runAsChild runs the calling test again in a process of its own.
func runAsChild(t *testing.T, attributes *syscall.SysProcAttr) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	child.Env = append(os.Environ(), "PROXY_TEST_CHILD="+t.Name())
	child.SysProcAttr = attributes
	output, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Fatalf("child: %v\n%s", err, output)
	}
}

func TestBackOff(t *testing.T) {
	var b backOff
	for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		if got := b.next(); got != want*time.Millisecond {
			t.Errorf("wait %d is %v, want %v", i, got, want*time.Millisecond)
		}
	}
}

func TestHandshakeLimitLeavesNothing(t *testing.T) {
	l := newHandshakeLimit(2, 2)
	source := netip.MustParseAddr("10.0.0.1")
	for range 10 {
		if !l.acquire(source) {
			t.Fatal("no place, although all have left")
		}
		l.release(source)
	}
	if len(l.sources) != 0 || l.open != 0 {
		t.Errorf("left behind: %+v", l)
	}
}

// Connections one after the other leave neither goroutines nor file
// descriptors behind.
func TestNothingIsLeftBehind(t *testing.T) {
	count := 10_000
	if testing.Short() || raceEnabled {
		count = 500
	}
	client, server := pair(t, nil)
	destination := application(t, server.ip, echo)
	round := func() {
		conn, err := client.tryDial(destination)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ping(t, conn)
	}
	leavesNothing(t, client, server, count, round)
	if got := client.proxy.Traffic().Outbound; got.Encrypted != uint64(count) || got.Active != 0 {
		t.Errorf("counted %+v", got)
	}
}

// leavesNothing calls round count times, after which the pods must have no goroutines, files
// and connections more than after the first.
func leavesNothing(t *testing.T, client, server *testPod, count int, round func()) {
	t.Helper()
	round()
	settled := func() bool { return len(client.proxy.live.snapshot())+len(server.proxy.live.snapshot()) == 0 }
	eventually(t, "the first connections to end", settled)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range count - 1 {
		round()
	}
	eventually(t, "the connections to end", settled)
	eventually(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "files to be closed", func() bool { return openFiles(t) <= files })
	if n := len(server.proxy.byIdentity.open); n != 0 {
		t.Errorf("%d identities are left in the limits", n)
	}
	if n := len(server.proxy.options.handshakes.sources); n != 0 {
		t.Errorf("%d sources are left in the limits", n)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestStopEndsConnections(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, func(o *Options) { o.DrainTimeout = time.Hour })
	server := newPod(t, a, nil)
	destination, accept := collect(t, server.ip)
	conn := client.dial(destination)
	far := accept()
	write(t, conn, "x")
	expect(t, far, "x")
	stopped := make(chan struct{})
	go func() { client.stop(); close(stopped) }()
	refused := func(address netip.AddrPort) bool {
		probe, err := net.Dial("tcp", address.String())
		if err == nil {
			_ = probe.Close()
		}
		return err != nil
	}
	eventually(t, "the listener for peers to close", func() bool {
		return refused(netip.AddrPortFrom(client.ip, api.PeerPort))
	})
	// While draining, the connection works, and an application that is late is
	// served. Once both have ended, so has Serve.
	write(t, far, "y")
	expect(t, conn, "y")
	late := client.dial(destination)
	lateFar := accept()
	write(t, late, "z")
	expect(t, lateFar, "z")
	for _, end := range []*net.TCPConn{late, lateFar} {
		hangUp(t, end)
	}
	hangUp(t, far)
	expectEOF(t, conn)
	hangUp(t, conn)
	<-stopped
	if !refused(client.capture) {
		t.Error("the capture listener is still open")
	}
	if ended, aborted := client.proxy.options.Counters.Ended.Load(), client.proxy.options.Counters.Aborted.Load(); ended < 2 || aborted != 0 {
		t.Errorf("%d ended, %d aborted", ended, aborted)
	}

	// Without time to drain, connections are aborted.
	other := newPod(t, a, nil)
	conn = other.dial(destination)
	write(t, conn, "x")
	expect(t, accept(), "x")
	other.stop()
	expectReset(t, conn)
	if ended, aborted := other.proxy.options.Counters.Ended.Load(), other.proxy.options.Counters.Aborted.Load(); ended != 1 || aborted != 1 {
		t.Errorf("%d ended, %d aborted", ended, aborted)
	}
}

// TestAbortEndsPatience: Abort ends what would be waited for.
func TestAbortEndsPatience(t *testing.T) {
	client, server := pair(t, func(o *Options) { o.DrainTimeout = time.Hour })
	destination, accept := collect(t, server.ip)
	conn := client.dial(destination)
	far := accept()
	write(t, conn, "x")
	expect(t, far, "x")
	client.proxy.Abort()
	client.stop()
	expectReset(t, conn)
	expectReset(t, far)
	server.proxy.Abort()
}

// TestBacklogIsServed: what waits in the backlog when the listener closes is
// served, to the last connection.
func TestBacklogIsServed(t *testing.T) {
	l := listen(t, netip.AddrPortFrom(podAddress(), 0))
	const count = 50
	for range count {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	served := 0
	a := newAcceptor(nil, l, func(conn *net.TCPConn) { served++; reset(conn) })
	close(a.ended)
	a.close()
	if served != count {
		t.Errorf("%d of %d connections were served", served, count)
	}
	if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
		conn.Close()
		t.Error("the listener is still open")
	}
}
