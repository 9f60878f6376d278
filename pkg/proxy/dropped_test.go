//go:build linux

package proxy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// Where packets with the option are lost, one connection waits for a retransmission, and the next
// ones do without it. The gateway itself finds out that they get through again.
func TestOptionDropped(t *testing.T) {
	t.Run("permissive", func(t *testing.T) {
		clock := &clock{}
		client, server, b := inbandPair(t, func(o *Options) { permissive(o); o.now = clock.now })
		b.dropped.Store(true)
		destination, accept := collectAt(t, b.behind(t, server.ip))
		visit := func() {
			conn := client.dial(destination)
			write(t, conn, "hello")
			for {
				// The gateway's own attempt ends with a reset, and no byte.
				far := accept()
				if _, err := far.Read(make([]byte, 5)); err == nil {
					hangUp(t, far)
					break
				}
			}
			expectEOF(t, conn)
			hangUp(t, conn)
		}
		visit()
		if line := client.unencrypted(destination, traffic.OptionDropped); line.Wire != api.WireNone || line.Sent != 5 {
			t.Errorf("logged %+v", line)
		}
		visit()
		eventually(t, "two connections without the option", func() bool {
			return cmp.Equal(client.proxy.Traffic().Outbound, api.Direction{Plaintext: 2, OptionDropped: 2, Sent: 10})
		})
		b.dropped.Store(false)
		eventually(t, "an encrypted connection", func() bool {
			clock.advance(10 * time.Second)
			conn := client.dial(destination)
			defer hangUp(t, conn)
			write(t, conn, "hello")
			return client.proxy.Traffic().Outbound.Inband > 0
		})
	})
	t.Run("strict", func(t *testing.T) {
		client, server, b := inbandPair(t, nil)
		b.dropped.Store(true)
		destination, accept := collectAt(t, b.behind(t, server.ip))
		for range 2 {
			client.dialReset(destination)
			expectReset(t, accept())
		}
		client.unencrypted(destination, traffic.OptionDropped)
		if got, want := client.settled().Outbound, (api.Direction{Refused: 2, OptionDropped: 2}); got != want {
			t.Errorf("counted %+v, want %+v", got, want)
		}
	})
}

func TestDroppedTable(t *testing.T) {
	type answer struct{ dropped, ask bool }
	clock := &clock{}
	table := newDroppedTable(clock.now)
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.96.0.1"), port) }
	want := func(what string, destination netip.AddrPort, want answer) {
		t.Helper()
		var got answer
		if got.dropped, got.ask = table.isDropped(destination); got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	want("unknown", at(1), answer{})
	table.lost(at(1))
	want("lost once: tried at once", at(1), answer{dropped: true, ask: true})
	want("by one connection", at(1), answer{dropped: true})
	table.arrived(at(1), false)
	want("lost by chance", at(1), answer{})

	for n := range manyLosses {
		table.lost(at(1))
		want("lost again", at(1), answer{dropped: true, ask: n == 0})
		clock.advance(time.Second << (n + 2))
		want("after a while", at(1), answer{dropped: true, ask: n != 0})
	}
	table.failed(at(1))
	clock.advance(askTimeout)
	want("after one that could not be asked", at(1), answer{dropped: true, ask: true})
	for range 20 {
		table.lost(at(1))
	}
	clock.advance(maxAskAgain)
	want("after the longest while", at(1), answer{dropped: true, ask: true})

	for range manyLosses {
		table.lost(at(2))
	}
	want("unknown, and lost at two others", at(4), answer{})
	for range manyLosses {
		table.lost(at(3))
	}
	want("unknown, and lost everywhere", at(4), answer{dropped: true, ask: true})
	table.arrived(at(4), true)
	want("a gateway answered", at(4), answer{})
	want("unknown, where a gateway answered lately", at(5), answer{})
	clock.advance(maxAskAgain)
	want("unknown, where none has answered lately", at(5), answer{dropped: true, ask: true})

	for port := range uint16(2 * maxDropped) {
		table.lost(at(port))
	}
	if n := len(table.destinations); n != maxDropped {
		t.Errorf("%d entries, want %d", n, maxDropped)
	}
}
