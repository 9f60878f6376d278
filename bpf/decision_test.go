//go:build linux

package bpf_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func TestGatewayIsExempt(t *testing.T) {
	s := setUp(t, nil)
	four, six := at(s.there.IP4, 80), at(s.there.IP6, 80)
	s.direct("gateway", s.gateway, dial{To: four})
	s.direct("gateway, IPv6", s.gateway, dial{To: six, Six: true})
	s.direct("gateway, v4-mapped", s.gateway, dial{To: four, Six: true})

	// Some runtimes put the container one level lower.
	nested := filepath.Join(s.here.GatewayCgroup, "container")
	must(t, os.Mkdir(nested, 0o755))
	s.direct("gateway in a cgroup of its own", startAgent(t, s.here, nested, 0), dial{To: four})
	s.counted(bpf.Counters{})
	s.captured("application", dial{To: four})
}

func TestOtherPodsAreNotCaptured(t *testing.T) {
	s := setUp(t, nil)
	other := startAgent(t, s.here, s.here.OtherCgroup, 0)
	s.direct("another cgroup", other, dial{To: at(s.there.IP4, 80)})
	s.direct("another cgroup, IPv6", other, dial{To: at(s.there.IP6, 80), Six: true})
	s.captured("application", dial{To: at(s.there.IP4, 80)})
	s.counted(bpf.Counters{Captured: 1})
}

func TestExclusions(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) {
		o.Exclude = prefixes("10.9.0.0/30", "fd00:9::2/128")
		o.Capture = append(o.Capture, prefixes("10.9.0.2/32", "127.0.0.3/32")...)
		o.ExcludePorts = []uint16{443, 65535}
	})
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	for _, port := range []string{":443", ":65535", ":9080"} {
		server.do(request{Serve: &serve{Network: "tcp", Address: port}})
	}
	local := startAgent(t, s.here, s.here.AppCgroup, 0)
	local.do(request{Serve: &serve{Network: "tcp", Address: ":8080"}})

	s.captured("longest prefix, capture", dial{To: at(s.there.IP4, 80)})
	s.captured("longest prefix, v4-mapped", dial{To: at(s.there.IP4, 80), Six: true})
	s.direct("longest prefix, exclude", s.app, dial{To: at(s.there.IP6, 80), Six: true})
	s.direct("port", s.app, dial{To: at(s.there.IP4, 443)})
	s.direct("last port", s.app, dial{To: at(s.there.IP4, 65535)})
	s.captured("a port beside", dial{To: at(s.there.IP4, 9080)})
	s.direct("own IP", s.app, dial{To: at(s.here.IP4, 8080)})
	s.direct("own IPv6", s.app, dial{To: at(s.here.IP6, 8080), Six: true})
	s.direct("own IP, v4-mapped", s.app, dial{To: at(s.here.IP4, 8080), Six: true})
	s.direct("loopback", s.app, dial{To: netip.MustParseAddrPort("127.0.0.1:8080")})
	s.direct("loopback, named as a range", s.app, dial{To: netip.MustParseAddrPort("127.0.0.3:8080")})
	s.direct("loopback, IPv6", s.app, dial{To: netip.MustParseAddrPort("[::1]:8080"), Six: true})
	s.direct("captured before, not any more", s.app, dial{To: at(s.there.IP4, 80), Then: at(s.there.IP4, 443)})
	if r := s.app.dial(dial{To: at(s.there.IP4, 80), Type: unix.SOCK_DGRAM}); r.Errno != 0 || r.Peer != at(s.there.IP4, 80) {
		t.Errorf("UDP: %v, peer %v", r.Errno, r.Peer)
	}
	s.counted(bpf.Counters{Captured: 4, Excluded: 4, UDP: 1})
}

// A range of IPv6 must not swallow IPv4 in its v4-mapped form, nor the other way round.
func TestRanges(t *testing.T) {
	const outside, local, exclude, pod, service = 0, 1, 2, 3, 4
	for _, c := range []struct {
		name     string
		coverage api.Coverage
		want     map[string]uint32
	}{
		{"everything of IPv6", api.Coverage{Capture: prefixes("::/0")},
			map[string]uint32{"10.1.1.1:1": outside, "[2001:db8::1]:1": pod, "[::1]:1": local, "[fe80::1]:1": outside, "[::]:1": local}},
		{"everything of IPv4", api.Coverage{Capture: prefixes("0.0.0.0/0")},
			map[string]uint32{"10.1.1.1:1": pod, "[2001:db8::1]:1": outside, "127.0.0.53:1": local, "0.0.0.0:1": local}},
		{"services within pods", api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/12")},
			map[string]uint32{"10.1.1.1:1": pod, "10.96.0.1:1": service, "10.112.0.1:1": pod, "11.0.0.1:1": outside}},
		{"one range in two lists", api.Coverage{Capture: prefixes("10.0.0.0/8", "11.0.0.0/8"),
			Services: prefixes("10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"), Exclude: prefixes("11.0.0.0/8", "12.0.0.0/8")},
			map[string]uint32{"10.1.1.1:1": pod, "11.1.1.1:1": exclude, "12.1.1.1:1": exclude}},
		{"host bits set", api.Coverage{Capture: prefixes("10.244.3.7/16")},
			map[string]uint32{"10.244.0.1:1": pod, "10.245.0.1:1": outside}},
		{"own addresses", api.Coverage{Capture: prefixes("10.0.0.0/8", "10.0.0.7/32", "fd00::/8")},
			map[string]uint32{"10.0.0.7:1": local, "10.0.0.8:1": pod, "[fd00::7]:1": local, "[fd00::8]:1": pod}},
		{"endpoints", api.Coverage{Capture: prefixes("10.0.0.0/8"), Services: prefixes("10.96.0.0/12"), Exclude: prefixes("192.0.2.128/25"),
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("192.0.2.129:80"), netip.MustParseAddrPort("10.1.1.1:81")},
			Pass:      []netip.AddrPort{netip.MustParseAddrPort("10.96.0.1:443"), netip.MustParseAddrPort("10.1.1.1:6443")}},
			map[string]uint32{"192.0.2.1:80": service, "192.0.2.1:81": outside, "192.0.2.2:80": outside, "192.0.2.129:80": exclude,
				"10.1.1.1:80": pod, "10.1.1.1:81": service, "10.1.1.1:6443": exclude, "10.96.0.1:443": exclude, "10.96.0.1:80": service}},
	} {
		t.Run(c.name, func(t *testing.T) {
			needRoot(t)
			p := load(t, bpf.Options{
				Pod: bpf.Cgroup{Path: "/x", Rel: "/x", ID: 1}, Own: bpf.Cgroup{Path: "/x/y", Rel: "/x/y", ID: 2},
				PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}, Coverage: c.coverage,
			})
			for to, want := range c.want {
				if got, err := p.Lookup(netip.MustParseAddrPort(to)); got != want || err != nil {
					t.Errorf("%s: action %d, %v, want %d", to, got, err, want)
				}
			}
		})
	}
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("root is needed to load programs")
		}
		t.Skip("root is needed to load programs")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	pod, own := bpf.Cgroup{Path: "/x", Rel: "/x", ID: 1}, bpf.Cgroup{Path: "/x/y", Rel: "/x/y", ID: 2}
	good := api.Coverage{Capture: prefixes("10.0.0.0/8")}
	with := func(change func(*api.Coverage)) api.Coverage {
		c := good
		change(&c)
		return c
	}
	for name, o := range map[string]bpf.Options{
		"no cgroups":              {Coverage: good},
		"one cgroup for both":     {Pod: pod, Own: pod, Coverage: good},
		"own is not below pod":    {Pod: pod, Own: bpf.Cgroup{Path: "/xy", ID: 2}, Coverage: good},
		"loopback as pod IP":      {Pod: pod, Own: own, Coverage: good, PodIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}},
		"invalid range":           {Pod: pod, Own: own, Coverage: api.Coverage{Capture: []netip.Prefix{{}}}},
		"v4-mapped form of range": {Pod: pod, Own: own, Coverage: api.Coverage{Capture: prefixes("::ffff:10.0.0.0/104")}},
		"node ports are reversed": {Pod: pod, Own: own, Coverage: with(func(c *api.Coverage) { c.NodePorts = [2]uint16{2, 1} })},
		"loopback as a node":      {Pod: pod, Own: own, Coverage: with(func(c *api.Coverage) { c.Nodes = []netip.Addr{netip.MustParseAddr("::1")} })},
		"invalid source":          {Pod: pod, Own: own, Coverage: with(func(c *api.Coverage) { c.PlaintextFrom = []api.Source{{}} })},
		"too deep":                {Pod: pod, Coverage: good, Own: bpf.Cgroup{Path: "/x/y", Rel: "/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9/0/1", ID: 2}},
	} {
		if p, err := bpf.LoadWith(o); err == nil {
			p.Close()
			t.Errorf("%s: loaded", name)
		}
	}
}

func TestServices(t *testing.T) {
	s := setUp(t, nil)
	// The other host answers for the VIPs.
	route(t, s, "10.96.0.0/12", "fd00:96::/112")
	vip4, vip6 := netip.MustParseAddrPort("10.96.0.10:80"), netip.MustParseAddrPort("[fd00:96::a]:80")

	s.direct("permissive", s.app, dial{To: vip4})
	s.direct("permissive, IPv6", s.app, dial{To: vip6, Six: true})
	s.direct("permissive, v4-mapped", s.app, dial{To: vip4, Six: true})
	s.counted(bpf.Counters{ServicePassed: 3})

	s.setStrict(true)
	s.refused("strict", dial{To: vip4}, syscall.EPERM)
	s.refused("strict, IPv6", dial{To: vip6, Six: true}, syscall.EPERM)
	s.captured("strict, pod", dial{To: at(s.there.IP4, 80)})
	s.direct("strict, gateway itself", s.gateway, dial{To: vip4})
	s.counted(bpf.Counters{ServicePassed: 3, ServiceRefused: 2, Captured: 1})

	s.setStrict(false)
	s.direct("permissive again", s.app, dial{To: vip4})
}

// In-band Services are captured as pods are, and refused where those are.
func TestInbandServices(t *testing.T) {
	s := setUp(t, func(o *bpf.Options) { o.InbandServices = true })
	route(t, s, "10.96.0.0/12", "fd00:96::/112")
	vip4, vip6 := netip.MustParseAddrPort("10.96.0.10:80"), netip.MustParseAddrPort("[fd00:96::a]:80")
	for _, strict := range []bool{false, true} {
		s.setStrict(strict)
		s.captured("IPv4", dial{To: vip4})
		s.captured("IPv6", dial{To: vip6, Six: true})
		s.captured("v4-mapped", dial{To: vip4, Six: true})
		s.direct("gateway itself", s.gateway, dial{To: vip4})
	}
	s.gateway.do(request{Stop: true})
	s.refused("no listener", dial{To: vip4}, syscall.EPERM)
	s.setStrict(false)
	s.direct("no listener, permissive", s.app, dial{To: vip4})
	s.counted(bpf.Counters{Captured: 6, NoListener: 2})
}

// Only the node ports of a node are captured, and none of a node that is excluded.
func TestNodePorts(t *testing.T) {
	node4, node6 := netip.MustParseAddr("10.8.0.5"), netip.MustParseAddr("fd00:8::5")
	excluded, podsToo := netip.MustParseAddr("10.8.1.5"), netip.MustParseAddr("10.9.0.200")
	s := setUp(t, func(o *bpf.Options) {
		o.InbandServices = true
		o.Nodes, o.NodePorts = []netip.Addr{node4, node6, excluded, podsToo}, [2]uint16{30000, 32767}
		o.Exclude = prefixes("10.8.1.0/24")
	})
	route(t, s, "10.8.0.0/16", "fd00:8::/64", "10.9.0.200/32")
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	for _, port := range []string{":29999", ":30000", ":32767", ":32768"} {
		server.do(request{Serve: &serve{Network: "tcp", Address: port}})
	}
	for _, port := range []uint16{30000, 32767} {
		s.captured("node port", dial{To: at(node4, port)})
		s.captured("node port, IPv6", dial{To: at(node6, port), Six: true})
		s.captured("node port, v4-mapped", dial{To: at(node4, port), Six: true})
		s.direct("node port of an excluded node", s.app, dial{To: at(excluded, port)})
	}
	for _, port := range []uint16{80, 29999, 32768} {
		s.direct("another port", s.app, dial{To: at(node4, port)})
		s.direct("another port, IPv6", s.app, dial{To: at(node6, port), Six: true})
	}
	s.direct("a node within the range of pods", s.app, dial{To: at(podsToo, 80)})
	s.counted(bpf.Counters{Captured: 6, Excluded: 9})
}

func TestNodePortsWithoutInbandServices(t *testing.T) {
	node := netip.MustParseAddr("10.8.0.5")
	s := setUp(t, func(o *bpf.Options) { o.Nodes, o.NodePorts = []netip.Addr{node}, [2]uint16{80, 80} })
	route(t, s, "10.8.0.0/16")
	s.direct("permissive", s.app, dial{To: at(node, 80)})
	s.setStrict(true)
	s.refused("strict", dial{To: at(node, 80)}, syscall.EPERM)
	s.counted(bpf.Counters{ServicePassed: 1, ServiceRefused: 1})
}

func TestUDP(t *testing.T) {
	for _, block := range []bool{false, true} {
		s := setUp(t, func(o *bpf.Options) {
			o.BlockUDP, o.ExcludePorts, o.Exclude = block, []uint16{443}, prefixes("10.9.0.77/32")
		})
		sysctl(t, s.here, "ipv4/ip_unprivileged_port_start", "0") // as in pods
		var want bpf.Counters
		send := func(name string, d dial, counted bool) {
			t.Helper()
			d.Type, d.Send = unix.SOCK_DGRAM, "hello"
			if d.Bind.Port() == 53 {
				want.UDPAnswers += 2
			}
			for _, unconnected := range []bool{false, true} {
				d.NoConnect = unconnected
				var errno syscall.Errno
				if counted {
					want.UDP++
				}
				if strict := s.programs.Strict(); counted && block && strict {
					want.UDPRefused++
					errno = syscall.EPERM
				}
				s.refused(name, d, errno)
			}
		}
		for _, strict := range []bool{false, true} {
			s.setStrict(strict)
			send("pod", dial{To: at(s.there.IP4, 5000)}, true)
			send("pod, IPv6", dial{To: at(s.there.IP6, 5000), Six: true}, true)
			send("pod, v4-mapped", dial{To: at(s.there.IP4, 5000), Six: true}, true)
			send("pod, an address without a family", dial{To: at(s.there.IP4, 5000), NoFamily: true}, true)
			send("DNS", dial{To: at(s.there.IP4, 53)}, false)
			send("DNS, IPv6", dial{To: at(s.there.IP6, 53), Six: true}, false)
			send("answer of a DNS server", dial{To: at(s.there.IP4, 5000), Bind: at(s.here.IP4, 53)}, false)
			send("answer of a DNS server, IPv6", dial{To: at(s.there.IP6, 5000), Bind: at(s.here.IP6, 53), Six: true}, false)
			send("from another port", dial{To: at(s.there.IP4, 5000), Bind: at(s.here.IP4, 54)}, true)
			send("excluded port", dial{To: at(s.there.IP4, 443)}, false)
			send("excluded range", dial{To: netip.MustParseAddrPort("10.9.0.77:5000")}, false)
			send("own pod", dial{To: at(s.here.IP4, 5000)}, false)
			send("loopback", dial{To: netip.MustParseAddrPort("127.0.0.1:5000")}, false)
			if r := s.gateway.dial(dial{To: at(s.there.IP4, 5000), Type: unix.SOCK_DGRAM, NoConnect: true, Send: "hello"}); r.Errno != 0 {
				t.Errorf("gateway: %v", r.Errno)
			}
		}
		s.counted(want)
	}
}

func TestNoListener(t *testing.T) {
	four, six := func(s *scene) dial { return dial{To: at(s.there.IP4, 80)} }, func(s *scene) dial { return dial{To: at(s.there.IP6, 80), Six: true} }
	t.Run("open", func(t *testing.T) {
		s := setUp(t, nil)
		s.gateway.do(request{Stop: true})
		s.direct("IPv4", s.app, four(s))
		s.direct("IPv6", s.app, six(s))
		s.counted(bpf.Counters{NoListener: 2})
	})
	t.Run("closed", func(t *testing.T) {
		s := setUp(t, func(o *bpf.Options) { o.KeepOnExit = true })
		s.gateway.do(request{Stop: true})
		s.refused("IPv4", four(s), syscall.EPERM)
		s.refused("IPv6", six(s), syscall.EPERM)
		s.refused("v4-mapped", dial{To: at(s.there.IP4, 80), Six: true}, syscall.EPERM)
		s.counted(bpf.Counters{NoListener: 3})
		s.gateway.do(request{Gateway: &gateway{gatewayAddresses()[:1]}})
		s.captured("IPv4 again", four(s))
		s.refused("IPv6 still", six(s), syscall.EPERM)
	})
}

// A process of the pod in a network namespace of its own cannot be captured, also where it listens
// in the gateway's place.
func TestNestedNamespace(t *testing.T) {
	for _, strict := range []bool{false, true} {
		for _, closed := range []bool{false, true} {
			s := setUp(t, func(o *bpf.Options) { o.Strict, o.KeepOnExit = strict, closed })
			s.gateway.do(request{Gateway: &gateway{inbandAddresses()}})
			nested := startAgent(t, s.here, s.here.AppCgroup, 0)
			nested.do(request{Nested: true})
			want := syscall.ENETUNREACH // there is no other interface
			if strict {
				want = syscall.EPERM
			}
			check := func(when string) {
				t.Helper()
				for _, d := range []dial{{To: at(s.there.IP4, 80)}, {To: at(s.there.IP6, 80), Six: true}} {
					if r := nested.dial(d); r.Errno != want {
						t.Errorf("strict %v, closed %v, %s: connect to %v: %v, want %v", strict, closed, when, d.To, r.Errno, want)
					}
				}
			}
			check("alone")
			for _, address := range gatewayAddresses() {
				nested.do(request{Serve: &serve{Network: "tcp", Address: address}})
			}
			check("with listeners of its own")
			s.counted(bpf.Counters{Nested: 4})
			s.captured("the pod's own", dial{To: at(s.there.IP4, 80)})
		}
	}
}

func TestBoundToDevice(t *testing.T) {
	for _, strict := range []bool{false, true} {
		s := setUp(t, func(o *bpf.Options) { o.Strict = strict })
		d := dial{To: at(s.there.IP4, 80), Device: "eth0"}
		if strict {
			s.refused("strict", d, syscall.EPERM)
		} else {
			s.direct("permissive", s.app, d)
		}
		s.counted(bpf.Counters{Uncapturable: 1})
	}
}

// The worker has no privilege, so the tests above prove that it needs none.
func TestWorkerHasNoPrivilege(t *testing.T) {
	s := setUp(t, nil)
	status, err := os.ReadFile("/proc/" + itoa(s.gateway.p.Pid) + "/status")
	must(t, err)
	for field, want := range map[string]string{"Uid": itoa(api.WorkerID), "CapEff": "0000000000000000", "CapPrm": "0000000000000000"} {
		if got := statusField(string(status), field); got != want {
			t.Errorf("%s is %s, want %s", field, got, want)
		}
	}
}
