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
	hello := resumer(t, a, server, tls.Certificate{})
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

// The side that dials forgets its sessions, too, and shows its new certificate.
func TestDiallerForgetsSessions(t *testing.T) {
	a := newAuthority(t)
	client := newPod(t, a, nil)
	var mu sync.Mutex
	var resumed []bool
	var serials []string
	peer := podAddress()
	fakePeer(t, a, peer, nil, func(c *tls.Conn, _ *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1024))
		state := c.ConnectionState()
		mu.Lock()
		resumed = append(resumed, state.DidResume)
		serials = append(serials, state.PeerCertificates[0].SerialNumber.Text(16))
		mu.Unlock()
		_, _ = c.Write([]byte{byte(statusOK), 'x'})
		_ = c.Close()
	})
	dial := func() {
		t.Helper()
		conn := client.dial(netip.AddrPortFrom(peer, 80))
		expect(t, conn, "x")
		expectEOF(t, conn)
		_ = conn.Close()
	}
	dial()
	dial()
	o := client.options
	renewed := a.issue(t, []netip.Addr{client.ip}, nil)
	if err := client.proxy.Update(o.Config, renewed, o.Roots); err != nil {
		t.Fatal(err)
	}
	dial()
	dial()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(resumed, []bool{false, true, false, true}) {
		t.Errorf("resumed %t", resumed)
	}
	before, after := o.Certificate.Leaf.SerialNumber.Text(16), renewed.Leaf.SerialNumber.Text(16)
	if !slices.Equal(serials, []string{before, before, after, after}) {
		t.Errorf("it showed %q, want twice %s, then %s", serials, before, after)
	}
}
