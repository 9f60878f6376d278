//go:build linux

package proxy

import (
	"net"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Mode and wire change for connections to come.
func TestSettingsChangeWhileConnectionsAreOpen(t *testing.T) {
	a, b := newAuthority(t), newBand()
	server := newPod(t, a, func(o *Options) { inBand(o, b); permissive(o) })
	client := newPod(t, a, func(o *Options) { o.Sockets.(*testSockets).band = b; permissive(o) })
	encrypted := applicationAt(t, b.behind(t, server.ip), echo)
	plain := application(t, podAddress(), echo)

	kept := []*net.TCPConn{client.dial(encrypted), client.dial(plain)}
	check := func() {
		t.Helper()
		for _, conn := range kept {
			ping(t, conn)
		}
	}
	check()
	strict := func(c *api.Config) { c.Mode = api.Strict }
	client.reconfigure(strict)
	server.reconfigure(strict)
	check()
	client.dialReset(plain)
	kept = append(kept, client.dial(encrypted))
	check()

	client.reconfigure(func(c *api.Config) { c.Mode, c.Wire = api.Strict, api.WireInband })
	check()
	kept = append(kept, client.dial(encrypted))
	check()
	// A refused connection is reset before it is counted.
	eventually(t, "all are counted", func() bool {
		got := client.proxy.Traffic().Outbound
		return got.Encrypted == 3 && got.Inband == 1 && got.Plaintext == 1 && got.Refused == 1 && got.Active == 4
	})

	client.reconfigure(func(c *api.Config) { c.Mode = api.Permissive })
	kept = append(kept, client.dial(plain))
	check()
}

// A connection that is being set up when the mode becomes strict does not go on
// in plaintext.
func TestStrictDuringDial(t *testing.T) {
	client, server, b := inbandPair(t, permissive)
	b.lost.Store(true)
	change := func() error {
		client.reconfigure(func(c *api.Config) { c.Mode = api.Strict })
		return nil
	}
	b.marked.Store(&change)
	destination, accept := collectAt(t, b.behind(t, server.ip))
	client.dialReset(destination)
	expectReset(t, accept())
	client.logged("the refusal", func(c api.Connection) bool { return c.Reason == traffic.OptionLost.String() && c.Level == "WARN" })
}
