//go:build linux

package proxy

import (
	"math/rand/v2"
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
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// TestHandshakeLimits: a newcomer is let in; where there are too many, the oldest one of its source
// makes room, or of the source that has most.
func TestHandshakeLimits(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, func(o *Options) { o.handshakes = newHandshakeLimit(3, 2) })
	one, two := newStranger(t, a, server), newStranger(t, a, server)
	counted := func(open int64, evicted uint64) {
		t.Helper()
		eventually(t, "handshakes to begin and to make room", func() bool {
			n := server.proxy.Traffic().Inbound
			return n.Active == open && n.Refused == evicted
		})
	}
	first := one.dial(server)
	counted(1, 0)
	second := one.dial(server)
	counted(2, 0)
	third := one.dial(server)
	counted(2, 1)
	expectReset(t, first)
	kept := two.dial(server)
	counted(3, 1)
	two.dial(server)
	counted(3, 2)
	// Both have two then, and the oldest of all makes room.
	expectReset(t, second)
	eventually(t, "the log", func() bool {
		return server.log.count(`"msg":"too many handshakes at once"`) > 0 && server.log.count(`"reason":"too many handshakes at once"`) == 2
	})
	if got := server.proxy.options.Counters.Unencrypted(); len(got) != 1 || got[0].Reason != traffic.Evicted.Word() || got[0].Connections != 2 {
		t.Errorf("counted %+v", got)
	}
	hangUp(t, third)
	hangUp(t, kept)
	counted(1, 4)
}

// TestStrangersDoNotLockOut: a gateway is full of half-open handshakes of strangers, and peers
// connect all the same.
func TestStrangersDoNotLockOut(t *testing.T) {
	const total = 20
	client, server := pair(t, func(o *Options) { o.handshakes = newHandshakeLimit(total, 8) })
	a := newAuthority(t)
	for range total {
		s := newStranger(t, a, server)
		for range 2 {
			s.dial(server)
		}
	}
	eventually(t, "the gateway to be full", func() bool { return server.proxy.Traffic().Inbound.Active >= total })
	destination := application(t, server.ip, echo)
	for range 5 {
		client.visit(destination)
	}
	if got := client.proxy.Traffic().Outbound; got.Encrypted != 5 || got.Refused+got.Plaintext != 0 {
		t.Errorf("counted %+v", got)
	}
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
	// No number is left, not even that of a descriptor which is closed meanwhile.
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: enough.Max}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: client.capture.Addr().As4(), Port: int(client.capture.Port())}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "accept to fail", func() bool { return client.log.count("cannot accept connections") > 0 })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &enough); err != nil {
		t.Fatal(err)
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
		h, crowded := l.acquire(source, func() { t.Error("evicted, although there is room") })
		if crowded || !l.release(h) || l.release(h) {
			t.Fatal("no place, although all have left")
		}
	}
	if len(l.sources) != 0 || l.open != 0 || len(l.largest) != 0 {
		t.Errorf("left behind: %+v", l)
	}
}

// TestHandshakeLimitEvicts compares whom the limit evicts with a simple model.
func TestHandshakeLimitEvicts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const total, perSource = 12, 5
	l := newHandshakeLimit(total, perSource)
	type held struct {
		h      *halfOpen
		source netip.Addr
		gone   bool
	}
	var all []*held // the oldest first
	open := func(fits func(*held) bool) (some []*held) {
		for _, h := range all {
			if !h.gone && fits(h) {
				some = append(some, h)
			}
		}
		return some
	}
	of := func(source netip.Addr) func(*held) bool { return func(h *held) bool { return h.source == source } }
	everyone := func(*held) bool { return true }
	for range 5000 {
		if some := open(everyone); len(some) > 0 && random.IntN(4) == 0 {
			h := some[random.IntN(len(some))]
			if h.gone = true; !l.release(h.h) {
				t.Fatal("what is open was evicted")
			}
			continue
		}
		source := netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(6))})
		n := &held{source: source}
		all = append(all, n)
		var want *held
		if own := open(of(source)); len(own) > perSource {
			want = own[0]
		} else if some := open(everyone); len(some) > total {
			for _, h := range some { // the oldest of the source that has most
				if want == nil || len(open(of(h.source))) > len(open(of(want.source))) {
					want = h
				}
			}
		}
		n.h, _ = l.acquire(source, func() { n.gone = true })
		if want != nil && !want.gone {
			t.Fatalf("%+v was not evicted", want)
		}
		all = open(everyone)
		if len(all) != l.open || len(all) > total || len(open(of(source))) > perSource {
			t.Fatalf("%d open, counted %d", len(all), l.open)
		}
	}
}

func TestSourceOf(t *testing.T) {
	for ip, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2::1": "2001:db8:1:2::", "fe80::1%lo": "fe80::",
	} {
		if got := sourceOf(netip.MustParseAddr(ip)); got.String() != want {
			t.Errorf("%s counts as %v, want %s", ip, got, want)
		}
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
	if got := client.settled().Outbound; got.Encrypted != uint64(count) || got.Active != 0 {
		t.Errorf("counted %+v", got)
	}
}

// leavesNothing calls round count times, after which the pods must have no goroutines, files
// and connections more than after the first.
func leavesNothing(t *testing.T, client, server *testPod, count int, round func()) {
	t.Helper()
	round()
	settled := func() bool {
		if len(client.proxy.live.snapshot())+len(server.proxy.live.snapshot()) > 0 {
			return false
		}
		all := func(p *pool) int { return len(p.all) }
		client.proxy.carriers.drop()
		return client.count(all)+server.count(all) == 0
	}
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
	a := newAcceptor(new(Proxy), l, traffic.Inbound, nil, func(conn stream) { served++; reset(conn) })
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
