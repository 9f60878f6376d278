//go:build linux

package proxy

import (
	"net/netip"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestRoutes(t *testing.T) {
	prefixes := func(text ...string) (list []netip.Prefix) {
		for _, p := range text {
			list = append(list, netip.MustParsePrefix(p))
		}
		return list
	}
	config := &api.Config{
		Capture:   prefixes("10.0.0.0/8", "10.96.7.0/24", "10.98.0.0/16", "fd00::/48", "192.0.2.0/24"),
		Services:  prefixes("10.96.0.0/12", "10.96.7.8/32", "10.98.0.0/16", "fd00:0:0:1::/108", "0.0.0.0/0"),
		Nodes:     []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		NodePorts: [2]uint16{31000, 31999},
	}
	const pod, service = true, false
	for _, c := range []struct {
		destination string
		pod         bool
	}{
		{"10.1.2.3:80", pod},
		{"10.96.0.1:443", service},
		{"10.111.255.255:1", service},
		{"10.112.0.0:1", pod},
		{"10.96.7.7:80", pod},
		{"10.96.7.8:80", service},
		{"10.98.1.1:80", pod}, // of two names for one range
		{"203.0.113.9:80", service},
		{"192.0.2.1:30999", pod},
		{"192.0.2.1:31000", service},
		{"192.0.2.1:31999", service},
		{"192.0.2.1:32000", pod},
		{"192.0.2.2:31000", pod},
		{"[fd00::5]:80", pod},
		{"[fd00:0:0:1::5]:80", service},
		{"[fd00:0:0:1::10:5]:80", pod},
		{"[2001:db8::1]:31500", service},
		{"[2001:db8::2]:31500", pod}, // in no range
	} {
		for wire, want := range map[api.Wire]route{
			"":             {api.WireInband, false},
			api.WireAuto:   {api.WireInband, false},
			api.WireInband: {api.WireInband, false},
			api.WirePort:   {api.WireNone, false},
		} {
			if c.pod {
				want = route{api.WirePort, true}
				if wire == api.WireInband {
					want.wire = api.WireInband
				}
			}
			config.Wire = wire
			r, err := newRoutes(config)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.route(netip.MustParseAddrPort(c.destination)); got != want {
				t.Errorf("wire %q, %s: %+v, want %+v", wire, c.destination, got, want)
			}
		}
	}
}

func TestDefaultNodePorts(t *testing.T) {
	r, err := newRoutes(&api.Config{Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1")}})
	if err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]string{29999: api.WirePort, 30000: api.WireInband, 32767: api.WireInband, 32768: api.WirePort} {
		if got := r.route(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port)); got.wire != want {
			t.Errorf("port %d goes by %s", port, got.wire)
		}
	}
}

func TestRoutesDoNotAllocate(t *testing.T) {
	r, err := newRoutes(&api.Config{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	destination := netip.MustParseAddrPort("10.1.2.3:80")
	if n := testing.AllocsPerRun(100, func() { r.route(destination) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
