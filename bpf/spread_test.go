//go:build linux

package bpf_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// A bound port can have a connection to each of many servers, and one to each.
func TestOneBoundPort(t *testing.T) {
	s := setUp(t, nil)
	reuse := socketOption{Level: unix.SOL_SOCKET, Name: unix.SO_REUSEADDR, Value: []byte{1, 0, 0, 0}}
	mapped := func(ip netip.Addr) netip.Addr { return netip.AddrFrom16(ip.As16()) }
	for name, d := range map[string]dial{
		"IPv4":               {To: at(s.there.IP4, 0), Bind: at(netip.IPv4Unspecified(), 5060)},
		"IPv4, address":      {To: at(s.there.IP4, 0), Bind: at(s.here.IP4, 5061)},
		"IPv6":               {To: at(s.there.IP6, 0), Six: true, Bind: at(netip.IPv6Unspecified(), 5062)},
		"IPv6, address":      {To: at(s.there.IP6, 0), Six: true, Bind: at(s.here.IP6, 5063)},
		"v4-mapped":          {To: at(s.there.IP4, 0), Six: true, Bind: at(netip.IPv6Unspecified(), 5064)},
		"v4-mapped, address": {To: at(s.there.IP4, 0), Six: true, Bind: at(mapped(s.here.IP4), 5065)},
	} {
		// With so many, some are bound to meet on one port of loopback at first.
		const servers = 200
		d.Options = []socketOption{reuse}
		d.Hold = true
		for i := range uint16(servers) {
			to := d
			to.To = at(d.To.Addr(), 1000+i)
			s.captured(name, to)
		}
		d.To = at(d.To.Addr(), 1000)
		s.refused(name+", the same server again", d, unix.EADDRNOTAVAIL)
		s.app.do(request{Stop: true})
	}
}

// Whoever listens at a port of loopback gets no captured connection, and that is captured all the same.
func TestSpreadPortsAreFree(t *testing.T) {
	s := setUp(t, nil)
	local := startAgent(t, s.here, s.here.OtherCgroup, 0)
	if api.FirstSpreadPort != 1<<16-bpf.SpreadPorts {
		t.Errorf("the first of the ports is %d", 1<<16-bpf.SpreadPorts)
	}
	for port := api.FirstSpreadPort; port < 1<<16; port++ {
		a := at(netip.IPv4Unspecified(), uint16(port)).String()
		if port%2 == 0 {
			a = at(netip.IPv6Unspecified(), uint16(port)).String()
		}
		local.do(request{Serve: &serve{Network: "tcp", Address: a}})
	}
	s.captured("IPv4", dial{To: at(s.there.IP4, 80)})
	s.captured("IPv6", dial{To: at(s.there.IP6, 80), Six: true})
	s.captured("v4-mapped", dial{To: at(s.there.IP4, 80), Six: true})
	if got := local.do(request{Accepted: true}).Accepted; len(got) != 0 {
		t.Errorf("accepted by another listener: %v", got)
	}
}
