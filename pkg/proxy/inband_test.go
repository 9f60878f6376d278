//go:build linux

package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// What a gateway does when nothing shows at the other end: nobody there, or the
// option was removed on the way.
func TestOptionLost(t *testing.T) {
	t.Run("permissive", func(t *testing.T) {
		client, server, b := inbandPair(t, permissive)
		b.lost.Store(true)
		destination, accept := collectAt(t, b.behind(t, server.ip))
		conn := client.dial(destination)
		far := accept()
		write(t, conn, "hello")
		expect(t, far, "hello")
		hangUp(t, far)
		expectEOF(t, conn)
		hangUp(t, conn)
		if line := client.unencrypted(destination, traffic.OptionLost); line.Wire != api.WireNone || line.Error != "" || line.Sent != 5 {
			t.Errorf("logged %+v", line)
		}
		if got := client.settled().Outbound; got != (api.Direction{Plaintext: 1, OptionLost: 1, Sent: 5}) {
			t.Errorf("counted %+v", got)
		}
		// It is not remembered: the next backend may have a gateway.
		b.lost.Store(false)
		again := client.dial(destination)
		write(t, again, "hello")
		expect(t, accept(), "hello")
		eventually(t, "an encrypted connection", func() bool { return client.proxy.Traffic().Outbound.Inband == 1 })
	})
	t.Run("strict", func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		b.lost.Store(true)
		destination, accept := collectAt(t, b.behind(t, server.ip))
		client.dialReset(destination)
		expectReset(t, accept())
		client.unencrypted(destination, traffic.OptionLost)
		if got := client.settled().Outbound; got != (api.Direction{Refused: 1, OptionLost: 1}) {
			t.Errorf("counted %+v", got)
		}
	})
}

// In plaintext, too, the application has one connection and not a second one.
func TestOptionLostNeedsNoSecondConnection(t *testing.T) {
	client, server, _ := inbandPair(t, permissive)
	var accepted atomic.Int64
	destination := applicationAt(t, listen(t, netip.AddrPortFrom(server.ip, 0)), func(conn *net.TCPConn) {
		accepted.Add(1)
		echo(conn)
	})
	const count = 20
	for range count {
		client.visit(destination)
	}
	if n := accepted.Load(); n != count {
		t.Errorf("%d connections became %d", count, n)
	}
}

// The programs of a strict gateway send plaintext to the in-band listener, and it
// may arrive there in permissive mode while that changes.
func TestPlaintextInBandIsReset(t *testing.T) {
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		t.Run(string(mode), func(t *testing.T) {
			a, b := newAuthority(t), newBand()
			server := newPod(t, a, func(o *Options) { inBand(o, b); o.Config.Mode = mode })
			l := listen(t, netip.AddrPortFrom(server.ip, 0))
			b.forward(t, l)
			s := newStranger(t, a, server)
			s.at = addrPort(l.Addr())
			s.dialReset(server)
			line := server.logged("the refusal", func(c api.Connection) bool { return c.Direction == api.Inbound })
			if line.Reason != traffic.Plaintext.String() || line.Source.Addr() != s.ip || line.Destination != s.at || line.Peer != "" || line.Level != "WARN" {
				t.Errorf("logged %+v", line)
			}
			if got := server.settled().Inbound; got != (api.Direction{Refused: 1}) {
				t.Errorf("counted %+v", got)
			}
		})
	}
}

func TestInbandWithoutPrograms(t *testing.T) {
	broken := errors.New("no such option")
	for name, damage := range map[string]func(*testBand){
		"mark": func(b *testBand) { f := func() error { return broken }; b.marked.Store(&f) },
		"ask":  func(b *testBand) { f := func() (bool, error) { return false, broken }; b.shown.Store(&f) },
	} {
		for _, mode := range []api.Mode{api.Strict, api.Permissive} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				client, server, b := inbandPair(t, func(o *Options) { o.Config.Mode = mode })
				client.sockets.band = &testBand{mark: b.mark}
				damage(client.sockets.band)
				destination := applicationAt(t, b.behind(t, server.ip), echo)
				client.dialWithoutGateway(destination)
				line := client.unencrypted(destination, traffic.NoNegotiation)
				if mode == api.Strict && !strings.Contains(line.Error, broken.Error()) {
					t.Errorf("logged %+v", line)
				}
			})
		}
	}
	t.Run("inbound", func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		client.sockets.band = &testBand{mark: b.mark}
		f := func() (bool, error) { return false, broken }
		b.shown.Store(&f)
		client.dialReset(applicationAt(t, b.behind(t, server.ip), echo))
		line := server.logged("the refusal", func(c api.Connection) bool { return c.Direction == api.Inbound })
		if line.Reason != traffic.Undetermined.String() || line.Error != broken.Error() {
			t.Errorf("logged %+v", line)
		}
	})
}

// A Service with wire=port is not dialled at all.
func TestWirePortDoesNotReachServices(t *testing.T) {
	wirePort := func(o *Options) { o.Config.Wire = api.WirePort }
	client, server, b := inbandPair(t, wirePort)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	client.dialReset(destination)
	client.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.NoWire.String() })
	client.reconfigure(func(c *api.Config) { c.Mode = api.Permissive })
	client.visit(destination)
	client.logged("the plaintext", func(c api.Connection) bool { return c.Reason == traffic.NoWire.String() && c.Sent == 4 })
}

func TestInbandDestinationCannotBeReached(t *testing.T) {
	for _, mode := range []api.Mode{api.Strict, api.Permissive} {
		client, server, _ := inbandPair(t, func(o *Options) { o.Config.Mode = mode })
		closed := listen(t, netip.AddrPortFrom(server.ip, 0))
		hangUp(t, closed)
		client.dialReset(addrPort(closed.Addr()))
		if line := client.unencrypted(addrPort(closed.Addr()), traffic.Unreachable); !strings.Contains(line.Error, "connection refused") {
			t.Errorf("logged %+v", line)
		}
	}
}

// A gateway that showed itself and failed is left alone for a while, and one that does not
// answer no longer than others: behind a Service may be more.
func TestInbandFallbackIsRemembered(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	for name, c := range map[string]struct {
		by      *authority
		serve   func(*tls.Conn, *net.TCPConn)
		timeout time.Duration
		reason  traffic.Reason
	}{
		"not trusted": {other, func(c *tls.Conn, _ *net.TCPConn) { _, _ = c.Read(make([]byte, 1024)) }, 0, traffic.NotTrusted},
		"silent":      {a, func(_ *tls.Conn, raw *net.TCPConn) { _, _ = io.Copy(io.Discard, raw) }, 400 * time.Millisecond, traffic.NoAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			ip, clock := podAddress(), &clock{}
			client := newPod(t, a, func(o *Options) {
				permissive(o)
				o.Sockets.(*testSockets).band, o.now, o.HandshakeTimeout = newBand(), clock.now, c.timeout
				o.Sockets.(*testSockets).services = []netip.AddrPort{netip.AddrPortFrom(ip, 0)}
			})
			var probes atomic.Int64
			destination := inbandImpostor(t, c.by, client, ip, nil, func(conn *tls.Conn, raw *net.TCPConn) {
				probes.Add(1)
				c.serve(conn, raw)
			})
			for i, want := range []int64{1, 1, 2} {
				if i == 2 {
					clock.advance(rememberFailed + time.Second)
				}
				client.visit(destination)
				if n := probes.Load(); n != want {
					t.Fatalf("connection %d: %d probes, want %d", i, n, want)
				}
			}
			client.unencrypted(destination, c.reason)
			eventually(t, "the counts", func() bool {
				got := client.proxy.Traffic().Outbound
				return got.Plaintext == 3 && got.OptionLost == 0 && got.Encrypted == 0 && got.Active == 0
			})
		})
	}
}

// The application that is reached is the one that the connection was made to.
func TestHeaderDestinationIsIgnored(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) { inBand(o, b) })
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	decoy, _ := collect(t, server.ip)
	service := netip.MustParseAddrPort("10.96.0.10:80")
	for _, claimed := range []netip.AddrPort{service, decoy, netip.AddrPortFrom(server.ip, api.PeerPort)} {
		s := newStranger(t, a, server)
		s.from, s.at = b.mark, destination
		conn := tls.Client(s.dial(server), s.config)
		h := header{Destination: claimed, Client: netip.AddrPortFrom(s.ip, 4000)}
		write(t, conn, string(appendHeader(nil, h))+"hello")
		expect(t, conn, string(rune(statusOK))+"hello")
		hangUp(t, conn)
		line := server.logged("the connection", func(c api.Connection) bool { return c.Source == h.Client })
		if line.Destination != destination || line.Dialled != claimed || line.Wire != api.WireInband {
			t.Errorf("logged %+v", line)
		}
	}
}

// A pod can have addresses that its status does not name.
func TestInbandOnAnyAddress(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) { inBand(o, b) })
	destination := applicationAt(t, b.behind(t, podAddress()), echo)
	s := newStranger(t, a, server)
	s.from, s.at = b.mark, destination
	conn := tls.Client(s.dial(server), s.config)
	h := header{Destination: destination, Client: netip.AddrPortFrom(s.ip, 4000)}
	write(t, conn, string(appendHeader(nil, h))+"hello")
	expect(t, conn, string(rune(statusOK))+"hello")
	hangUp(t, conn)
}

func TestInbandPeerRefuses(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) { inBand(o, b) })
	here := applicationAt(t, b.behind(t, server.ip), echo)
	// Nothing is steered from these in a cluster; a gateway does not rely on it.
	var arrive = func(at netip.AddrPort) netip.AddrPort {
		l := listen(t, at)
		b.forward(t, l)
		return addrPort(l.Addr())
	}
	for name, c := range map[string]struct {
		at     netip.AddrPort
		change func(h *header)
		log    string
	}{
		"capture port":     {arrive(netip.AddrPortFrom(server.ip, portOf(server.proxy.options.Capture))), nil, "gateway itself"},
		"in-band port":     {arrive(netip.AddrPortFrom(server.ip, portOf(server.proxy.options.Inband))), nil, "gateway itself"},
		"foreign client":   {here, func(h *header) { h.Client = netip.AddrPortFrom(podAddress(), 4000) }, "not an address of the peer"},
		"family of client": {here, func(h *header) { *h = sixHeader() }, "not of the address family"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStranger(t, a, server)
			// The claim that would be right by the other wire does not help.
			h := header{Destination: here, Client: netip.AddrPortFrom(s.ip, 4000)}
			if c.change != nil {
				c.change(&h)
			}
			s.config.Certificates[0] = a.issue(t, []netip.Addr{s.ip, sixHeader().Client.Addr()}, nil)
			s.from, s.at = b.mark, c.at
			got, err := s.say(server, append(appendHeader(nil, h), "let me in"...))
			if string(got) != string(rune(statusNotAllowed)) {
				t.Errorf("got %q, %v", got, err)
			}
			line := server.logged("the refusal", func(l api.Connection) bool {
				return strings.Contains(l.Error, c.log) && strings.Contains(l.Error, h.Client.String())
			})
			if line.Reason != traffic.Forbidden.String() || line.Destination != c.at || line.Received != 0 {
				t.Errorf("logged %+v", line)
			}
		})
	}
	if got := server.settled().Inbound; got.Refused != 4 || got.NotAllowed != 0 || got.Encrypted != 0 {
		t.Errorf("counted %+v", got)
	}
}

func sixHeader() header {
	return header{
		Destination: netip.MustParseAddrPort("[fd00::10]:80"),
		Client:      netip.MustParseAddrPort("[fd00::1]:4000"),
	}
}

func TestInbandLeavesNothingBehind(t *testing.T) {
	count := 2000
	if testing.Short() || raceEnabled {
		count = 200
	}
	client, server, b := inbandPair(t, permissive)
	encrypted := applicationAt(t, b.behind(t, server.ip), echo)
	plain := application(t, server.ip, echo)
	refused := listen(t, netip.AddrPortFrom(server.ip, 0))
	b.forward(t, refused)
	round := func() {
		for _, destination := range []netip.AddrPort{encrypted, plain} {
			client.visit(destination)
		}
		if conn, err := net.Dial("tcp", refused.Addr().String()); err == nil {
			expectReset(t, conn)
			_ = conn.Close()
		}
	}
	leavesNothing(t, client, server, count, round)
	got, n := client.settled().Outbound, uint64(count)
	if got.Inband != n || got.Encrypted != n || got.Plaintext != n || got.OptionLost != n || got.Active != 0 {
		t.Errorf("client counts %+v", got)
	}
	if got := server.settled().Inbound; got.Inband != n || got.Refused != n || got.Active != 0 {
		t.Errorf("server counts %+v", got)
	}
	for _, p := range client.proxy.peers.peers {
		if len(p.slots) != 0 || p.users != 0 {
			t.Errorf("%v: %d slots taken, %d users", p.route, len(p.slots), p.users)
		}
	}
}

// The dialled side closes first, so that TIME_WAIT does not take ports from the
// application's destination.
func TestInbandDialledSideClosesFirst(t *testing.T) {
	client, server, b := inbandPair(t, nil)
	destination := applicationAt(t, b.behind(t, server.ip), echo)
	for range 20 {
		client.visit(destination)
	}
	eventually(t, "the connections to end", func() bool { return len(client.proxy.live.snapshot()) == 0 })
	near := tcpSockets(t, tcpTimeWait, func(local, remote netip.AddrPort) bool { return local.Addr() == b.mark && remote == destination })
	far := tcpSockets(t, tcpTimeWait, func(local, remote netip.AddrPort) bool { return local == destination && remote.Addr() == b.mark })
	if near != 0 || far < 20 {
		t.Errorf("in TIME_WAIT: %d of the dialling side, %d of the dialled one", near, far)
	}
}

// A dial that takes long lends its slot to others.
func TestSlotIsLent(t *testing.T) {
	client := newPod(t, newAuthority(t), nil)
	table := client.proxy.peers
	for name, patience := range map[string]time.Duration{"in time": time.Hour, "late": time.Nanosecond} {
		for _, keeps := range []bool{true, false} {
			p := table.acquire(route{to: netip.AddrPortFrom(podAddress(), 80)})
			slot, err := client.proxy.slotWhile(p, patience)
			if err != nil {
				t.Fatal(err)
			}
			if patience != time.Hour {
				eventually(t, "the slot to be lent", func() bool { return len(p.slots) == 0 })
			}
			if keeps {
				if err := slot.keep(); err != nil || len(p.slots) != 1 {
					t.Errorf("%s: %d slots taken, %v", name, len(p.slots), err)
				}
			}
			slot.free()
			if len(p.slots) != 0 {
				t.Errorf("%s: %d slots are left", name, len(p.slots))
			}
			table.release(p)
		}
	}
}
