//go:build linux

package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	reasons "github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestFirstConnection: a permissive gateway finds out what a peer is, also while the peer gets a gateway. What a
// connection takes is logged for docs/OPERATIONS.md: a machine may be slow, so nothing is expected of it.
func TestFirstConnection(t *testing.T) {
	for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
		t.Run(string(wire), func(t *testing.T) {
			l := newLab(t)
			spec := with(l.spec(l.a), func(c *api.Config) { c.Wire = wire })
			g := l.gateway(spec)
			talk := func() api.Connection {
				r := l.result(l.a.Start(netlab.Command{
					Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"talk", l.b.Addr(portEcho), "hello"}, Env: []string{"DIAL_TIMEOUT=1m"},
				}))
				if r.Error != "" || r.Received != "hello\n" {
					t.Fatalf("talking: %+v", r)
				}
				return connection(t, g, "the connection from "+r.Local, func(c *api.Connection) bool { return c.Source == addrPort(t, r.Local) })
			}
			class := func(what string, c api.Connection) {
				t.Logf("%-45s %6.0f ms, encrypted: %-5t %s", what, 1000*c.Duration, c.Encrypted, c.Reason)
			}
			// until makes connections until there is one that fits, and returns it and how many came before.
			until := func(what string, fits func(api.Connection) bool) (c api.Connection, before int) {
				eventually(t, what, func() error {
					if c = talk(); !fits(c) {
						before++
						return fmt.Errorf("%+v", c)
					}
					return nil
				})
				return c, before
			}
			because := func(r reasons.Reason) func(api.Connection) bool {
				return func(c api.Connection) bool { return !c.Encrypted && c.Reason == r.String() }
			}
			without := reasons.PeerRefused
			if wire == api.WireInband {
				without = reasons.OptionLost
			}
			c, _ := until("plaintext", because(without))
			class("unknown, without gateway", c)
			class("the next one", talk())
			if wire == api.WirePort {
				l.b.NFT("table inet t { chain c { type filter hook prerouting priority -150; iifname eth0 tcp dport 18443 drop; }; }")
				c, _ = until("silence", because(reasons.PeerSilent))
				class("unknown, silent", c)
				class("the next one", talk())
				l.b.NFT("")
				open := time.Now()
				c, before := until("an answer", because(reasons.PeerRefused))
				class(fmt.Sprintf("no longer silent for %v, %d before", time.Since(open).Round(10*time.Millisecond), before), c)
			}
			enabling := with(l.spec(l.b), func(c *api.Config) { c.Wire = wire })
			began := time.Now()
			l.gateway(enabling)
			ready := time.Now()
			c, before := until("encryption", func(c api.Connection) bool { return c.Encrypted })
			class(fmt.Sprintf("enabled within %v, %d before", ready.Sub(began).Round(10*time.Millisecond), before), c)
			class("the next one", talk())
		})
	}
}
