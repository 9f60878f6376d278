//go:build linux

package proxy

import (
	"crypto/sha256"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// pair starts two pods with gateways.
func pair(t testing.TB, change func(*Options)) (client, server *testPod) {
	t.Helper()
	a := newAuthority(t)
	return newPod(t, a, change), newPod(t, a, change)
}

// checkCarried compares what both gateways log and count of the one connection that they
// have carried, of which counts is the client's side.
func checkCarried(t *testing.T, client, server *testPod, conn net.Conn, destination netip.AddrPort, counts api.Direction) {
	t.Helper()
	wire := api.WirePort
	if counts.Inband > 0 {
		wire = api.WireInband
	}
	for _, pod := range []*testPod{client, server} {
		way := api.Outbound
		if pod == server {
			way = api.Inbound
			counts.Sent, counts.Received = counts.Received, counts.Sent
		}
		line := pod.logged(way, func(c api.Connection) bool { return c.Direction == way })
		want := api.Connection{
			Time: line.Time, Duration: line.Duration, Level: "INFO", Message: api.ConnectionMessage,
			Direction: way, Source: addrPort(conn.LocalAddr()), Destination: destination,
			Peer: "spiffe://" + testTrustDomain + "/ns/default/sa/app",
			Wire: wire, Encrypted: true, TLS: agreed(line), Sent: counts.Sent, Received: counts.Received,
		}
		if diff := cmp.Diff(want, line, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("%s: logged (-want +got):\n%s", way, diff)
		}
		all := pod.proxy.Traffic()
		if diff := cmp.Diff(counts, map[string]api.Direction{api.Outbound: all.Outbound, api.Inbound: all.Inbound}[way]); diff != "" {
			t.Errorf("%s: counted (-want +got):\n%s", way, diff)
		}
	}
	if _, ok := server.sockets.presented.Load(addrPort(conn.LocalAddr())); !ok {
		t.Error("the application was not told the client's address")
	}
}

// TestEcho has the server speak first.
func TestEcho(t *testing.T) {
	wires(t, nil, func(t *testing.T, client, server *testPod, far func() net.Listener) {
		destination := applicationAt(t, far(), func(conn *net.TCPConn) {
			_, _ = io.WriteString(conn, "220 ready\r\n")
			echo(conn)
		})
		conn := client.dial(destination)
		expect(t, conn, "220 ready\r\n")
		exchange(t, conn, "hello")
		end(t, conn)
		counts := api.Direction{Encrypted: 1, Sent: 5, Received: 16}
		if server.sockets.band != nil {
			counts.Inband = 1
		}
		checkCarried(t, client, server, conn, destination, counts)
	})
}

// relays runs a test on an encrypted and on a plaintext connection, by either wire.
// far opens a listener of an application that client reaches so.
func relays(t *testing.T, run func(t *testing.T, client *testPod, far func() net.Listener)) {
	relaysByPort(t, run)
	t.Run("encrypted in band", func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		run(t, client, func() net.Listener { return b.behind(t, server.ip) })
	})
	t.Run("plaintext in band", func(t *testing.T) {
		client, server, _ := inbandPair(t, permissive)
		run(t, client, func() net.Listener { return listen(t, netip.AddrPortFrom(server.ip, 0)) })
	})
}

// relaysByPort is relays with wire=port alone.
func relaysByPort(t *testing.T, run func(t *testing.T, client *testPod, far func() net.Listener)) {
	at := func(ip netip.Addr) func() net.Listener {
		return func() net.Listener { return listen(t, netip.AddrPortFrom(ip, 0)) }
	}
	t.Run("encrypted", func(t *testing.T) {
		client, server := pair(t, nil)
		run(t, client, at(server.ip))
	})
	t.Run("plaintext", func(t *testing.T) {
		run(t, newPod(t, newAuthority(t), permissive), at(podAddress()))
	})
}

func TestHalfClose(t *testing.T) {
	relays(t, func(t *testing.T, client *testPod, far func() net.Listener) {
		destination, accept := collectAt(t, far())
		t.Run("by the client", func(t *testing.T) {
			near := client.dial(destination)
			far := accept()
			write(t, near, "request")
			if err := near.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expect(t, far, "request")
			expectEOF(t, far)
			write(t, far, "late answer")
			expect(t, near, "late answer")
			hangUp(t, far)
			expectEOF(t, near)
		})
		t.Run("by the server", func(t *testing.T) {
			near := client.dial(destination)
			far := accept()
			if err := far.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expectEOF(t, near)
			write(t, near, "late request")
			expect(t, far, "late request")
			hangUp(t, near)
			expectEOF(t, far)
		})
	})
}

func TestAbort(t *testing.T) {
	relays(t, func(t *testing.T, client *testPod, far func() net.Listener) {
		destination, accept := collectAt(t, far())
		for _, who := range []string{"client", "server"} {
			t.Run("by the "+who, func(t *testing.T) {
				near := client.dial(destination)
				far := accept()
				bothWays(t, near, far)
				if who == "client" {
					reset(near)
					expectReset(t, far)
				} else {
					reset(far)
					expectReset(t, near)
				}
			})
		}
	})
}

func TestRefusedApplication(t *testing.T) {
	relaysByPort(t, func(t *testing.T, client *testPod, far func() net.Listener) {
		closed := far()
		destination := addrPort(closed.Addr())
		hangUp(t, closed)
		client.dialReset(destination)
		line := client.logged("the refusal", func(c api.Connection) bool { return c.Destination == destination })
		if !strings.Contains(line.Reason+line.Error, "refused") {
			t.Errorf("logged %+v", line)
		}
	})
}

// patternReader yields size bytes that depend on the seed.
func patternReader(seed byte, size int64) io.Reader {
	return io.LimitReader(mathrand.NewChaCha8([32]byte{seed}), size)
}

func TestLargeBody(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() || raceEnabled {
		size = 16 << 20
	}
	relays(t, func(t *testing.T, client *testPod, far func() net.Listener) {
		want := sha256.New()
		if _, err := io.Copy(want, patternReader(1, size)); err != nil {
			t.Fatal(err)
		}
		conn := client.dial(applicationAt(t, far(), echo))
		var sending sync.WaitGroup
		sending.Go(func() {
			if _, err := io.Copy(conn, patternReader(1, size)); err != nil {
				t.Error(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		got := sha256.New()
		n, err := io.Copy(got, conn)
		if err != nil || n != size || string(got.Sum(nil)) != string(want.Sum(nil)) {
			t.Errorf("%d of %d bytes came back, %v; digests equal: %t", n, size, err, string(got.Sum(nil)) == string(want.Sum(nil)))
		}
		sending.Wait()
	})
}

func TestManyAtOnce(t *testing.T) {
	// How long a thousand handshakes take is the machine's business.
	client, server := pair(t, func(o *Options) {
		o.HandshakeTimeout, o.LocalTimeout = 2*patienceForTests, 2*patienceForTests
	})
	destination := application(t, server.ip, echo)
	const count = 1000
	var all sync.WaitGroup
	start := make(chan struct{})
	for range count {
		all.Go(func() {
			<-start
			conn, err := client.tryDial(destination)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			got := make([]byte, 4)
			if _, err := io.WriteString(conn, "ping"); err != nil {
				t.Error(err)
			} else if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	close(start)
	all.Wait()
	if got := client.settled().Outbound; got.Encrypted != count || got.Refused != 0 {
		t.Errorf("counted %+v", got)
		for _, pod := range []*testPod{client, server} {
			for _, c := range pod.log.connections(t) {
				if c.Error != "" {
					t.Logf("%+v", c)
				}
			}
		}
	}
}

// usable reports whether a connection to an address of this machine works.
func usable(t *testing.T, ip netip.Addr) bool {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return false
	}
	defer l.Close()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), 100*time.Millisecond)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// TestPodAddresses runs in a network namespace of its own, with addresses like
// those of pods: on an interface that is not the loopback one, of both families.
func TestPodAddresses(t *testing.T) {
	if os.Getenv("PROXY_TEST_CHILD") != t.Name() {
		runInNamespace(t, "ip")
		return
	}
	loopbackUp(t)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	ip("link", "set", "eth0", "up")
	ip("link", "set", "eth1", "up")
	for _, family := range [][3]string{{"10.9.0.1", "10.9.0.2", "127.0.0.1"}, {"fd09::1", "fd09::2", "::1"}} {
		near, far, loopback := netip.MustParseAddr(family[0]), netip.MustParseAddr(family[1]), netip.MustParseAddr(family[2])
		for _, address := range []netip.Addr{near, far} {
			options := []string{"addr", "add", netip.PrefixFrom(address, address.BitLen()).String(), "dev", "eth0"}
			if address.Is6() {
				options = append(options, "nodad")
			}
			ip(options...)
			// The kernel makes routes to a new IPv6 address when it gets to it.
			eventually(t, "the address is usable", func() bool { return usable(t, address) })
		}
		a := newAuthority(t)
		client := newPodAt(t, a, near, loopback, nil)
		server := newPodAt(t, a, far, loopback, nil)
		destination := application(t, far, echo)
		client.visit(destination)
		line := server.logged("the connection", func(c api.Connection) bool { return c.Encrypted })
		if line.Source.Addr() != near || line.Destination != destination {
			t.Errorf("logged %+v", line)
		}
	}
}
