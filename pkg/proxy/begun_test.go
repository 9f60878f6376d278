//go:build linux

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestBegun(t *testing.T) {
	start := time.Now()
	of := func(port uint16, again bool) header {
		return header{Destination: netip.MustParseAddrPort("10.0.2.2:80"), Client: netip.AddrPortFrom(netip.MustParseAddr("10.0.1.7"), port), Again: again}
	}
	// A connection that is closed: what the peer has acknowledged is unknown.
	carry := func() *carrier { return &carrier{conn: new(net.TCPConn)} }
	b := begun{by: make(map[ends]beginning)}
	want := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: begun %t", what, got)
		}
	}
	one, two := carry(), carry()
	want("the first", b.begin(of(1, false), one), true)
	want("sent again while it is open", b.begin(of(1, true), two), false)
	want("sent again over a wire without carriers", b.begin(of(1, true), nil), false)
	want("the same ends, later", b.begin(of(1, false), two), true)
	want("another one, sent again", b.begin(of(2, true), one), true)
	want("what was overtaken", b.begin(of(2, false), two), false)
	want("the next one of the same carrier", b.begin(of(2, false), one), true)
	want("without carriers", b.begin(of(2, false), nil), true)

	b.end(one, errors.New("lost"), start)
	want("sent again after its end", b.begin(of(2, true), carry()), false)
	want("sent again over a wire without carriers, after its end", b.begin(of(2, true), nil), false)
	b.expire(start.Add(unheardFor))
	want("sent again much later", b.begin(of(2, true), one), true)

	// Whoever names an address of somebody else, as what its application has bound, keeps nobody out: nothing has proved that yet.
	foreign := of(3, true)
	foreign.Bound, foreign.Client = foreign.Client, netip.MustParseAddrPort("10.0.9.9:3")
	stranger := carry()
	want("in the name of another pod", b.begin(foreign, stranger), true)
	want("what another pod has named", b.begin(of(3, false), two), true)
	b.drop(stranger)

	for port := range uint16(maxUnheard + 10) {
		k := carry()
		b.begin(of(1000+port, false), k)
		b.end(k, errors.New("lost"), start)
	}
	want("the oldest of too many", b.begin(of(1000, true), nil), true)
	want("the latest of too many", b.begin(of(1000+maxUnheard+9, true), nil), false)
	b.expire(start.Add(unheardFor))
	if len(b.unheard) != 0 || len(b.by) != 2 {
		t.Errorf("%d unheard, %d in all", len(b.unheard), len(b.by))
	}
}
