//go:build linux

package bpf_test

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

const (
	syn    = "tcp flags & (syn|ack) == syn"
	synACK = "tcp flags & (syn|ack) == (syn|ack)"
	// An option of kind 253, as a gateway sees it that knows no more than the kind.
	withOption = "tcp option 253 exists"
)

// rule adds a rule of nft to what a node sends (output) or gets (prerouting). What a
// node gets has been steered before.
func rule(n *netlab.Node, hook, rule string) {
	n.NFT(fmt.Sprintf("table inet t { chain c { type filter hook %s priority -150; %s; }; }", hook, rule))
}

// first limits a rule to the n packets that it matches first.
func first(n int) string { return fmt.Sprintf(" numgen inc mod 1000 < %d ", n) }

// IPv4 is tested with the default, IPv6 with clsact: loss does not depend on either.
func TestInbandSurvivesLoss(t *testing.T) {
	const cookie = "first SYN-ACK, which is a SYN cookie"
	for name, lose := range map[string]func(client, server *netlab.Node){
		"first SYN":                       func(client, _ *netlab.Node) { rule(client, "output", syn+first(1)+"drop") },
		"first two SYNs":                  func(client, _ *netlab.Node) { rule(client, "output", syn+first(2)+"drop") },
		"first SYN, after it was steered": func(_, server *netlab.Node) { rule(server, "prerouting", syn+first(1)+"drop") },
		"first SYN-ACK":                   func(client, _ *netlab.Node) { rule(client, "prerouting", synACK+first(1)+"drop") },
		cookie:                            func(client, _ *netlab.Node) { rule(client, "prerouting", synACK+first(1)+"drop") },
		"last packet of the handshake":    func(_, server *netlab.Node) { rule(server, "prerouting", "tcp flags == ack"+first(1)+"drop") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits for retransmissions
			for _, six := range []bool{false, true} {
				client, server := twoPods(t, six, nil)
				if name == cookie {
					sysctl(t, server.node, "ipv4/tcp_syncookies", "2")
				}
				lose(client.node, server.node)
				d := dial{To: server.four(80), Seconds: 30}
				if six {
					d.To, d.Six = server.six(80), true
				}
				client.inband(name, d, d.To)
				server.counted(bpf.Counters{Steered: 1})
				server.noneShown()
			}
		})
	}
}

func TestInbandWithSYNCookies(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		for _, strict := range []bool{false, true} {
			client, server := twoPods(t, clsact, func(o *bpf.Options) { o.Strict = strict })
			sysctl(t, server.node, "ipv4/tcp_syncookies", "2")
			for range 3 {
				client.inband("IPv4", dial{To: server.four(80)}, server.four(80))
				client.inband("IPv6", dial{To: server.six(80), Six: true}, server.six(80))
			}
			four, six := dial{To: server.four(80)}, dial{To: server.six(80), Six: true}
			if strict {
				client.refused("plaintext", client.gateway, four)
				client.refused("plaintext, IPv6", client.gateway, six)
			} else {
				client.plain("plaintext", client.gateway, four)
				client.plain("plaintext, IPv6", client.gateway, six)
			}
			server.noneShown()
		}
	})
}

// Some middleboxes drop a SYN with an option that they do not know. The connection is
// established without it then.
func TestOptionIsGivenUp(t *testing.T) {
	client, server := twoPods(t, false, nil)
	rule(client.node, "output", syn+" "+withOption+" drop")
	d := dial{To: server.four(80), Inband: true, Seconds: 20}
	if r := client.plain("permissive", client.gateway, d); !r.GivenUp {
		t.Error("permissive: the option was not given up")
	}
	server.counted(bpf.Counters{})

	// What the server has not answered with an option is not a connection in band.
	rule(server.node, "prerouting", syn+" "+withOption+" drop")
	client.plain("permissive, lost behind the steering", client.gateway, d)
	server.noneShown()
}

// Others drop the SYN-ACK. The SYN without the option begins a new connection, which is the
// application's: no SYN-ACK has an option then that its SYN did not have.
func TestOptionOfSYNACKIsGivenUp(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, nil)
		four := dial{To: server.four(80), Inband: true, SYNs: 1, Seconds: 20}
		six := dial{To: server.six(80), Six: true, Inband: true, SYNs: 1, Seconds: 20}
		rule(client.node, "prerouting", synACK+" "+withOption+" drop")
		for name, d := range map[string]dial{"permissive": four, "permissive, IPv6": six} {
			if r := client.plain(name, client.gateway, d); !r.GivenUp {
				t.Errorf("%s: the option was not given up", name)
			}
		}
		server.counted(bpf.Counters{})
		sysctl(t, server.node, "ipv4/tcp_syncookies", "2")
		client.plain("SYN cookies", client.gateway, four)
		client.plain("SYN cookies, IPv6", client.gateway, six)
		sysctl(t, server.node, "ipv4/tcp_syncookies", "1")
		server.noneShown()

		server.setStrict(true)
		for _, d := range []dial{four, six} {
			client.reset("strict", client.gateway, d)
		}
		server.noneShown()
	})
}

func TestStrippedOption(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, nil)
		four, six := dial{To: server.four(80), Inband: true}, dial{To: server.six(80), Six: true, Inband: true}
		rule(client.node, "output", "reset tcp option 253")
		client.plain("permissive", client.gateway, four)
		client.plain("permissive, IPv6", client.gateway, six)
		server.setStrict(true)
		for _, d := range []dial{four, six} {
			client.refused("strict", client.gateway, d)
		}
		server.counted(bpf.Counters{PlaintextRefused: 2})

		// Only the way back strips it: the server's gateway accepts the connection, the
		// client's does not know.
		rule(client.node, "prerouting", "reset tcp option 253")
		r := client.gateway.dial(four)
		if r.Errno != 0 || r.Shown || r.Seen == nil || !r.Seen.Shown {
			t.Errorf("stripped from the SYN-ACK: %+v", r)
		}
		server.noneShown()
	})
}

// A Service's address that becomes a pod's, and a source that becomes the node's, as
// kube-proxy does it.
func TestInbandThroughNAT(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 3)
		router := lab.Node(2)
		client, server := startPod(t, lab.Node(0), clsact, nil), startPod(t, lab.Node(1), clsact, nil)
		server.app.do(request{Serve: &serve{Network: "tcp", Address: ":8080"}})
		four, six := natRouter(t, router, server.node, client.node, server.node)

		client.inband("IPv4", dial{To: four}, server.four(8080))
		client.inband("IPv6", dial{To: six, Six: true}, server.six(8080))
		server.inband("hairpin", dial{To: four}, server.four(8080))
		server.inband("hairpin, IPv6", dial{To: six, Six: true}, server.six(8080))

		// Without the option both are the application's.
		for name, d := range map[string]dial{"IPv4": {To: four}, "IPv6": {To: six, Six: true}} {
			if r := client.gateway.dial(d); r.Seen == nil || r.Seen.Inband || r.Seen.Local.Port() != 8080 {
				t.Errorf("plaintext, %s: %+v", name, r)
			}
		}
		sysctl(t, server.node, "ipv4/tcp_syncookies", "2")
		client.inband("SYN cookies", dial{To: four}, server.four(8080))
		client.inband("SYN cookies, IPv6", dial{To: six, Six: true}, server.six(8080))
	})
}

// natRouter makes router translate two Service addresses, port 80, to port 8080 of a server,
// and routes them over it from each client.
func natRouter(t *testing.T, router, server *netlab.Node, clients ...*netlab.Node) (four, six netip.AddrPort) {
	t.Helper()
	four, six = netip.MustParseAddrPort("10.96.0.10:80"), netip.MustParseAddrPort("[fd00:96::a]:80")
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		sysctl(t, router, name, "1")
	}
	router.NFT(fmt.Sprintf(`table inet nat {
		chain pre {
			type nat hook prerouting priority dstnat;
			ip daddr %v tcp dport 80 dnat ip to %v:8080
			ip6 daddr %v tcp dport 80 dnat ip6 to [%v]:8080
		}
		chain post {
			type nat hook postrouting priority srcnat;
			ct status dnat masquerade
		}
	}`, four.Addr(), server.IP4, six.Addr(), server.IP6))
	for _, c := range clients {
		for to, via := range map[netip.Addr]netip.Addr{four.Addr(): router.IP4, six.Addr(): router.IP6} {
			addRoute(t, c, netip.PrefixFrom(to, to.BitLen()), via)
		}
	}
	return four, six
}

// What is remembered of a tuple's last connection must not decide about its next.
func TestTupleIsUsedAgain(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		client, server := twoPods(t, clsact, nil)
		port := uint16(45000)
		next := func(six bool) (again dial) {
			port++
			if six {
				return dial{To: server.six(80), Six: true, Bind: at(client.node.IP6, port)}
			}
			return dial{To: server.four(80), Bind: at(client.node.IP4, port)}
		}
		for _, six := range []bool{false, true} {
			// A handshake that failed after its SYN was seen.
			d := next(six)
			inband := d
			inband.Inband = true
			rule(server.node, "prerouting", syn+" reject with tcp reset")
			if r := client.gateway.dial(inband); r.Errno != syscall.ECONNREFUSED {
				t.Errorf("connect: %v, want it refused", r.Errno)
			}
			server.node.NFT("")
			if n, err := server.programs.Shown(); n != 1 || err != nil {
				t.Errorf("%d handshakes are remembered, %v, want the one that was refused", n, err)
			}
			client.plain("plaintext after a handshake that failed", client.gateway, d)
			server.noneShown()

			// The server closes first, so it is the one in TIME_WAIT.
			d = next(six)
			client.inband("first", d, d.To)
			client.inband("in band again", d, d.To)
			client.plain("plaintext after in band", client.gateway, d)
			client.inband("in band after plaintext", d, d.To)
			server.setStrict(true)
			client.refused("strict: plaintext after in band", client.gateway, d)
			client.inband("strict: in band", d, d.To)
			server.setStrict(false)
		}
		server.noneShown()
	})
}
