//go:build linux

package bpf_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

func TestStrictInbound(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, func(o *bpf.Options) { o.Strict = true })
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		four, six := dial{To: server.four(80)}, dial{To: server.six(80), Six: true}

		client.refused("IPv4", outside, four)
		client.refused("IPv6", outside, six)
		client.refused("v4-mapped", outside, dial{To: server.four(80), Six: true})
		client.refused("a port that nobody listens on", outside, dial{To: server.four(9)})
		client.refused("TCP Fast Open", outside, dial{To: server.four(80), FastOpen: true})
		extended := six
		extended.Extended = true
		client.reset("behind an extension header", outside, extended)
		server.counted(bpf.Counters{PlaintextRefused: 6})
		client.inband("in band", four, server.four(80))
		client.inband("in band, IPv6", six, server.six(80))
		server.noneShown()

		// The pod's own traffic, and the gateway's ports, are not judged.
		for name, from := range map[string]*agent{"application": server.app, "gateway": server.gateway} {
			server.plain(name+" to its own pod", from, four)
			server.plain(name+" to its own pod, IPv6", from, six)
			server.plain(name+" over loopback", from, dial{To: netip.MustParseAddrPort("127.0.0.1:80")})
		}
		loopback := netip.MustParseAddrPort("127.0.0.1:0")
		server.plain("gateway, from loopback", server.gateway, dial{To: server.four(80), Bind: loopback})
		server.plain("gateway, from loopback, IPv6", server.gateway, dial{To: server.six(80), Six: true, Bind: at(netip.IPv6Loopback(), 0)})
		presented := dial{To: server.four(80), PresentAs: netip.MustParseAddrPort("10.9.0.77:4567")}
		if r := server.gateway.dial(presented); r.Seen == nil || r.Seen.Accept != presented.PresentAs {
			t.Errorf("presented to the application: %+v", r)
		}
		server.app.do(request{Serve: &serve{Network: "tcp", Address: ":18443"}})
		client.plain("peer port", outside, dial{To: server.four(18443)})
		client.refused("in-band port", outside, dial{To: server.four(18444)})
	})
}

// Strict mode judges by where a connection comes from, whatever address of the pod it goes to, and
// whether the pod's status names that address or not.
func TestStrictOnEveryAddress(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		client := startPod(t, lab.Node(0), clsact, nil)
		server := startPod(t, lab.Node(1), clsact, func(o *bpf.Options) {
			o.Strict = true
			o.PodIPs = o.PodIPs[:1] // as in a cluster of IPv4 alone
			o.Exclude = prefixes("10.9.0.201/32", "fd00:9::2/128")
		})
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		second := netip.MustParseAddr("10.9.0.201")
		must(t, server.node.AddAddress("eth0", netip.PrefixFrom(second, 24)))
		four, six := netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd00:8::2")
		must(t, client.node.AddLink(server.node, "net1"))
		for _, a := range prefixes("10.8.0.1/24", "fd00:8::1/64") {
			must(t, client.node.AddAddress("net1", a))
			must(t, server.node.AddAddress("net1", netip.PrefixFrom(a.Addr().Next(), a.Bits())))
		}
		linkLocal := func(name string) dial {
			return dial{To: at(linkLocal(t, server.node, name).WithZone(name), 80), Six: true}
		}

		dials := map[string]dial{
			"its address":                                   {To: server.four(80)},
			"an address that is in no status":               {To: server.six(80), Six: true},
			"link-local":                                    linkLocal("eth0"),
			"a second address":                              {To: at(second, 80)},
			"a second interface":                            {To: at(four, 80)},
			"a second interface, IPv6":                      {To: at(six, 80), Six: true},
			"a second interface, link-local":                linkLocal("net1"),
			"a port that the gateway has on loopback":       {To: server.four(18000)},
			"a port that the gateway has on loopback, IPv6": {To: at(six, 18444), Six: true},
		}
		for name, d := range dials {
			client.refused(name, outside, d)
		}
		server.counted(bpf.Counters{PlaintextRefused: uint64(len(dials))})
		client.inband("in band, a second address", dial{To: at(second, 80)}, at(second, 80))
		client.inband("in band, a second interface", dial{To: at(four, 80)}, at(four, 80))
		client.inband("in band, a second interface, IPv6", dial{To: at(six, 80), Six: true}, at(six, 80))
		server.noneShown()

		for name, d := range dials {
			d.To = netip.AddrPortFrom(d.To.Addr(), 80)
			server.plain("from the pod itself to "+name, server.app, d)
		}
		server.plain("from an address of the pod's to another", server.app, dial{To: at(four, 80), Bind: at(second, 0)})
		server.plain("from an interface of the pod's to it", server.app, dial{To: at(four, 80), Device: "net1"})
		server.counted(bpf.Counters{PlaintextRefused: uint64(len(dials)), Steered: 3, Excluded: 2})
	})
}

// linkLocal returns the link-local address of an interface, once it can be used.
func linkLocal(t *testing.T, n *netlab.Node, name string) (found netip.Addr) {
	t.Helper()
	await(t, func() string {
		must(t, n.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			list, err := netlink.AddrList(link, netlink.FAMILY_V6)
			for _, a := range list {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					found, _ = netip.AddrFromSlice(a.IP)
				}
			}
			return err
		}))
		if !found.IsValid() {
			return "no link-local address of " + name
		}
		return ""
	})
	return found
}

func TestPlaintextFrom(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		server := startPod(t, lab.Node(0), clsact, func(o *bpf.Options) {
			o.Strict = true
			// None of the ranges of IPv6 contains IPv4, in its v4-mapped form either.
			o.PlaintextFrom = sources("::/0", lab.Node(1).IP4.String()+"/32")
		})
		allowed := startAgent(t, lab.Node(1), lab.Node(1).OtherCgroup, 0)
		other := startAgent(t, lab.Node(2), lab.Node(2).OtherCgroup, 0)
		server.plain("allowed", allowed, dial{To: server.four(80)})
		server.plain("allowed, IPv6", other, dial{To: server.six(80), Six: true})
		server.plain("allowed, behind an extension header", other, dial{To: server.six(80), Six: true, Extended: true})
		server.refused("not allowed", other, dial{To: server.four(80)})
		server.counted(bpf.Counters{PlaintextAllowed: 2, PlaintextRefused: 1})
		sysctl(t, server.node, "ipv4/tcp_syncookies", "2")
		server.plain("allowed, with a SYN cookie", allowed, dial{To: server.four(80)})
		server.refused("not allowed, with a SYN cookie", other, dial{To: server.four(80)})
	})
}

// A switch of the mode decides about later connections only.
func TestModeSwitchLeavesConnections(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, nil)
		l, err := server.node.Listen("tcp", server.node.Addr(81))
		must(t, err)
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(c, c); c.Close() }()
			}
		}()
		c, err := client.node.Dial("tcp", server.node.Addr(81))
		must(t, err)
		defer c.Close()
		r := bufio.NewReader(c)
		echo := func(when string) {
			t.Helper()
			fmt.Fprintln(c, when)
			if got, err := r.ReadString('\n'); got != when+"\n" {
				t.Errorf("%s: echo %q, %v", when, got, err)
			}
		}
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		echo("permissive")
		for range 3 {
			server.setStrict(true)
			echo("strict")
			client.refused("strict", outside, dial{To: server.four(80)})
			client.inband("strict, in band", dial{To: server.four(80)}, server.four(80))
			server.setStrict(false)
			echo("permissive again")
			client.plain("permissive", outside, dial{To: server.four(80)})
			client.inband("permissive, in band", dial{To: server.four(80)}, server.four(80))
		}
	})
}

// A process of the pod cannot take the place of the gateway's listeners, in a network namespace of
// its own either.
func TestForeignListener(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, func(o *bpf.Options) { o.Strict = true })
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		check := func(when string) {
			t.Helper()
			for _, d := range []dial{{To: server.four(80)}, {To: server.six(80), Six: true}} {
				client.inband(when, d, d.To)
				client.refused(when, outside, d)
			}
		}
		nested := startAgent(t, server.node, server.node.AppCgroup, 0)
		nested.do(request{Nested: true})
		for _, address := range inbandAddresses() {
			nested.do(request{Serve: &serve{Network: "tcp", Address: address}})
		}
		check("while it listens")
		nested.do(request{Stop: true})
		check("when it has ended")
	})
}

func TestNoInbandListener(t *testing.T) {
	for _, c := range []struct{ strict, closed bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprintf("strict %v, closed %v", c.strict, c.closed), func(t *testing.T) {
			both(t, func(t *testing.T, clsact bool) {
				client, server := twoPods(t, clsact, func(o *bpf.Options) {
					o.Strict, o.KeepOnExit = c.strict, c.closed
				})
				server.gateway.do(request{Stop: true})
				outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
				for _, d := range []dial{{To: server.four(80)}, {To: server.six(80), Six: true}} {
					inband := d
					inband.Inband = true
					if !c.strict {
						client.plain("plaintext", outside, d)
						client.plain("in band", client.gateway, inband)
						continue
					}
					unreachable(t, outside, d)
					unreachable(t, client.gateway, inband)
				}
				if got := server.counters(); c.strict && got.PlaintextRefused == 0 {
					t.Errorf("counters %+v, want some refused", got)
				}
				server.plain("own pod", server.app, dial{To: server.four(80)})

				// The listeners are found again.
				server.gateway.do(request{Gateway: &gateway{inbandAddresses()}})
				client.inband("listening again", dial{To: server.four(80)}, server.four(80))
				client.inband("listening again, IPv6", dial{To: server.six(80), Six: true}, server.six(80))
			})
		})
	}
}

// TestOverheard: a bridge that does not know where a host is shows a frame for it to all. That is none of
// the business of the pods that overhear it, whatever becomes of their gateways.
func TestOverheard(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, func(o *bpf.Options) { o.Strict, o.KeepOnExit = true, true })
		outside := startAgent(t, client.node, client.node.OtherCgroup, 0)
		elsewhere := []dial{{To: at(netip.MustParseAddr("10.9.0.77"), 80)}, {To: at(netip.MustParseAddr("fd00:9::77"), 80), Six: true}}
		must(t, client.node.Do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			for _, d := range elsewhere {
				if err := netlink.NeighSet(&netlink.Neigh{
					LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: d.To.Addr().AsSlice(), HardwareAddr: net.HardwareAddr{2, 9, 0, 0, 0, 77},
				}); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, d := range elsewhere {
			d.Seconds = 1
			if r := outside.dial(d); r.Errno != syscall.EAGAIN && r.Errno != syscall.EINPROGRESS && r.Errno != syscall.ETIMEDOUT {
				t.Errorf("connect to %v, which does not exist: %v, %+v", d.To, r.Errno, r)
			}
		}
		server.counted(bpf.Counters{})
	})
}

// unreachable checks that a connection is not established: its SYNs are dropped.
func unreachable(t *testing.T, from *agent, d dial) {
	t.Helper()
	d.Seconds = 1
	if r := from.dial(d); r.Errno == 0 {
		t.Errorf("connect to %v: %+v", d.To, r)
	}
}

// TestTags: the kernel takes off all tags of a frame that name no VLAN, and shows programs at an interface all but the first of
// them. What is below does not reach the application either, when the gateway is dead.
func TestTags(t *testing.T) {
	lab := netlab.New(t, 3)
	pod, tagged := lab.Node(0), startAgent(t, lab.Node(1), lab.Node(1).OtherCgroup, 0)
	untagged := startAgent(t, lab.Node(2), lab.Node(2).OtherCgroup, 0)
	startAgent(t, pod, pod.AppCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	tagAll(t, lab.Node(1))
	dials := []dial{{To: at(pod.IP4, 80)}, {To: at(pod.IP6, 80), Six: true}}
	for _, d := range dials {
		if r := tagged.dial(d); r.Seen == nil {
			t.Errorf("without a gateway: %+v", r)
		}
	}
	o := options(t, pod)
	o.KeepOnExit, o.Strict = true, true
	supervise(t, pod, o).Stop()
	for _, d := range dials {
		unreachable(t, untagged, d)
		unreachable(t, tagged, d)
	}
}

// tagAll has all that leaves n by eth0 travel with two tags that name no VLAN.
func tagAll(t *testing.T, n *netlab.Node) {
	t.Helper()
	const tag = 0x81 // ETH_P_8021Q in network order
	push := asm.Instructions{
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, tag), asm.Mov.Imm(asm.R3, 0), asm.FnSkbVlanPush.Call(),
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: slices.Concat(
		asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, push, push, asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()})})
	must(t, err)
	t.Cleanup(func() { must(t, program.Close()) })
	must(t, n.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.QdiscAdd(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: eth0.Attrs().Index,
			Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL}, Fd: program.FD(), Name: "tag", DirectAction: true})
	}))
}
