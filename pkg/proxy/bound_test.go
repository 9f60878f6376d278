//go:build linux

package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// presentedAs reports whether the application of the pod was told that client is at the other end.
func (pod *testPod) presentedAs(client netip.AddrPort) bool {
	_, ok := pod.sockets.presented.Load(client)
	return ok
}

// bound has an application of the pod that has bound an address talk to an echo server, and returns its end.
func (pod *testPod) bound(ip netip.Addr, destination netip.AddrPort) netip.AddrPort {
	pod.t.Helper()
	conn, err := pod.tryDialFrom(ip, destination)
	if err != nil {
		pod.t.Fatal(err)
	}
	pod.t.Cleanup(func() { _ = conn.Close() })
	ping(pod.t, conn)
	hangUp(pod.t, conn)
	return addrPort(conn.LocalAddr())
}

// TestBoundAddress: an address that the application has bound, and that the certificate does not name, is that of the
// packets. The application at the other end sees it if no other pod has it.
func TestBoundAddress(t *testing.T) {
	client, server := pair(t, nil)
	destination, other := application(t, server.ip, echo), podAddress()
	for _, outside := range []bool{false, true} {
		server.sockets.outside.Store(outside)
		app := client.bound(other, destination)
		seen, unseen := netip.AddrPortFrom(client.ip, app.Port()), app
		if outside {
			seen, unseen = unseen, seen
		}
		if !server.presentedAs(seen) || server.presentedAs(unseen) {
			t.Errorf("outside: %t: the application does not see %v alone", outside, seen)
		}
		here := client.logged("the connection", func(c api.Connection) bool { return c.Source == app })
		there := server.logged("the connection", func(c api.Connection) bool { return c.Source == seen })
		if there.TLS.Remote.Addr() != other || here.TLS.Remote != there.TLS.Local || !here.Encrypted {
			t.Errorf("outside: %t: logged %+v and %+v, want packets from %v", outside, here, there, other)
		}
	}
}

// TestBoundAddressInPlaintext: without a gateway at the other end the application there sees the address as well.
func TestBoundAddressInPlaintext(t *testing.T) {
	client := newPod(t, newAuthority(t), permissive)
	peers := make(chan netip.Addr, 1)
	destination := application(t, podAddress(), func(conn *net.TCPConn) {
		peers <- addrPort(conn.RemoteAddr()).Addr()
		echo(conn)
	})
	other := podAddress()
	client.bound(other, destination)
	if got := <-peers; got != other {
		t.Errorf("the application sees %v, want %v", got, other)
	}
}

// TestBoundAddressHasCarriersOfItsOwn: a connection between gateways carries those of one address.
func TestBoundAddressHasCarriersOfItsOwn(t *testing.T) {
	client, server := pair(t, nil)
	destination, other := application(t, server.ip, echo), podAddress()
	// The kernel's choice on loopback.
	unbound := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	for _, c := range []struct{ ip, from netip.Addr }{{client.ip, unbound}, {other, other}, {client.ip, unbound}, {other, other}} {
		app := client.bound(c.ip, destination)
		line := client.logged("the connection", func(c api.Connection) bool { return c.Source == app })
		if got := line.TLS.Local.Addr(); got != c.from {
			t.Errorf("what is bound to %v is carried from %v, want %v", c.ip, got, c.from)
		}
		eventually(t, "idle carriers", func() bool { return client.count(func(p *pool) int { return len(p.all) }) == client.idle() })
	}
}

// TestBoundAddressIsLost: what the pod does not have cannot be dialled from, and the connection is carried all the same.
func TestBoundAddressIsLost(t *testing.T) {
	client := newPod(t, newAuthority(t), nil)
	destination := application(t, podAddress(), echo)
	conn, err := client.proxy.dial(t.Context(), route{destination, netip.MustParseAddr("203.0.113.7")}, patienceForTests, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ping(t, conn)
}

// TestForeignBoundAddress: a peer cannot have an application see an address that its packets do not come from.
func TestForeignBoundAddress(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	server.sockets.outside.Store(true)
	s := newStranger(t, a, server)
	claimed := netip.AddrPortFrom(podAddress(), 4711)
	h := header{Destination: application(t, server.ip, echo), Client: netip.AddrPortFrom(s.ip, 4711), Bound: claimed}
	conn := tls.Client(s.dial(server), s.config)
	write(t, conn, string(appendHeader(nil, h))+"hello")
	expect(t, conn, string([]byte{byte(statusOK)})+"hello")
	if !server.presentedAs(h.Client) || server.presentedAs(claimed) {
		t.Errorf("the application sees %v, and not %v", claimed, h.Client)
	}
}

// TestClientAddress has what the certificate names, and what the application has bound itself.
func TestClientAddress(t *testing.T) {
	s := &settings{podIPs: []netip.Addr{netip.MustParseAddr("10.0.1.7"), netip.MustParseAddr("fd00::1")}}
	at := netip.MustParseAddrPort
	type names struct{ Client, Bound netip.AddrPort }
	for _, c := range []struct {
		what, remote, destination string
		want                      names
	}{
		{"IPv4", "10.0.1.7:4711", "10.0.2.2:80", names{Client: at("10.0.1.7:4711")}},
		{"IPv6", "[fd00::1]:4711", "[fd00::2]:80", names{Client: at("[fd00::1]:4711")}},
		{"bound to a port", "127.0.0.1:4711", "10.0.2.2:80", names{Client: at("10.0.1.7:4711")}},
		{"bound to a port, IPv6", "[::1]:4711", "[fd00::2]:80", names{Client: at("[fd00::1]:4711")}},
		{"another address", "192.0.2.1:4711", "10.0.2.2:80", names{at("10.0.1.7:4711"), at("192.0.2.1:4711")}},
		{"another address, IPv6", "[2001:db8::1]:4711", "[fd00::2]:80", names{at("[fd00::1]:4711"), at("[2001:db8::1]:4711")}},
		{"link-local", "169.254.0.1:4711", "10.0.2.2:80", names{at("10.0.1.7:4711"), at("169.254.0.1:4711")}},
		{"link-local, IPv6", "[fe80::1]:4711", "[fd00::2]:80", names{Client: at("[fd00::1]:4711")}},
	} {
		var got names
		var err error
		if got.Client, got.Bound, err = s.clientAddress(at(c.remote), at(c.destination)); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.what, got, err, c.want)
		}
	}
}

// TestApplicationsSide: the clients that share the ports of an address are few.
func TestApplicationsSide(t *testing.T) {
	p := &Proxy{}
	client, application := netip.MustParseAddrPort("[fd00::1]:4711"), netip.MustParseAddr("fd00::2")
	if got := p.applicationsSide(client, application); got != netip.IPv6Loopback() {
		t.Errorf("without other addresses it is %v", got)
	}
	p.options.Sources6 = netip.MustParsePrefix("100:0:0:1::/64")
	if got := p.applicationsSide(client, netip.MustParseAddr("fe80::2")); got != netip.IPv6Loopback() {
		t.Errorf("to a link-local address it is %v", got)
	}
	found := make(map[netip.Addr]netip.AddrPort)
	for _, c := range []string{"[fd00::1]:4711", "[fd00::1]:4712", "[fd00::2]:4711", "[fd00:0:0:1::1]:4711", "[fd00:1::1]:4711"} {
		client := netip.MustParseAddrPort(c)
		got := p.applicationsSide(client, application)
		if before, ok := found[got]; ok || !p.options.Sources6.Contains(got) {
			t.Errorf("for %v it is %v, which is not one of %v, or that for %v", client, got, p.options.Sources6, before)
		}
		found[got] = client
	}
	if got, want := p.applicationsSide(netip.MustParseAddrPort("10.0.1.7:4711"), netip.MustParseAddr("10.0.2.2")), netip.AddrFrom4([4]byte{127, 'k', 18, 103}); got != want {
		t.Errorf("over IPv4 it is %v, want %v", got, want)
	}
}
