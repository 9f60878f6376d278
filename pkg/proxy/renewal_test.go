//go:build linux

package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

// Whoever was let in under earlier settings has to show a certificate again, so
// that a root that was dropped, or a certificate that was replaced, counts for
// nothing from then on.
func TestSessionsEndWithTheirSettings(t *testing.T) {
	a := newAuthority(t)
	server := newPod(t, a, nil)
	hello := resumer(t, a, server)
	expect := func(when string, want bool) {
		t.Helper()
		if resumed, err := hello(); err != nil || resumed != want {
			t.Errorf("%s: resumed %t, %v; want %t", when, resumed, err, want)
		}
	}
	expect("the first", false)
	expect("the second", true)
	o := server.options
	for name, change := range map[string]func(){
		"trust bundle": func() { o.Roots = o.Roots.Clone() },
		"certificate":  func() { o.Certificate = a.issue(t, []netip.Addr{server.ip}, nil) },
	} {
		change()
		if err := server.proxy.Update(o.Config, o.Certificate, o.Roots); err != nil {
			t.Fatal(err)
		}
		expect("after a new "+name, false)
		expect("after a new "+name+", again", true)
	}
}

// greeter is a peer that greets whoever sends something, and notes the sessions.
type greeter struct {
	mu      sync.Mutex
	resumed []bool
	serials []string
}

func (g *greeter) serve(c *tls.Conn, _ *net.TCPConn) {
	if _, err := c.Read(make([]byte, 1024)); err != nil {
		return
	}
	state := c.ConnectionState()
	g.mu.Lock()
	g.resumed = append(g.resumed, state.DidResume)
	g.serials = append(g.serials, state.PeerCertificates[0].SerialNumber.Text(16))
	g.mu.Unlock()
	_, _ = c.Write([]byte{byte(statusOK), 'x'})
	_ = c.Close()
}

// saw returns whether each session was resumed, and the serial numbers of their clients.
func (g *greeter) saw() (resumed []bool, serials []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.resumed), slices.Clone(g.serials)
}

// greeted connects to a greeter.
func (pod *testPod) greeted(destination netip.AddrPort) {
	pod.t.Helper()
	conn := pod.dial(destination)
	expect(pod.t, conn, "x")
	expectEOF(pod.t, conn)
	hangUp(pod.t, conn)
}

// The side that dials forgets its sessions, too, and shows its new certificate.
func TestDiallerForgetsSessions(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	var g greeter
	peer := podAddress()
	fakePeer(t, a, peer, nil, g.serve)
	client.greeted(netip.AddrPortFrom(peer, 80))
	client.greeted(netip.AddrPortFrom(peer, 80))
	o := client.options
	renewed := a.issue(t, []netip.Addr{client.ip}, nil)
	if err := client.proxy.Update(o.Config, renewed, o.Roots); err != nil {
		t.Fatal(err)
	}
	client.greeted(netip.AddrPortFrom(peer, 80))
	client.greeted(netip.AddrPortFrom(peer, 80))
	resumed, serials := g.saw()
	if !slices.Equal(resumed, []bool{false, true, false, true}) {
		t.Errorf("resumed %t", resumed)
	}
	before, after := o.Certificate.Leaf.SerialNumber.Text(16), renewed.Leaf.SerialNumber.Text(16)
	if !slices.Equal(serials, []string{before, before, after, after}) {
		t.Errorf("it showed %q, want twice %s, then %s", serials, before, after)
	}
}
