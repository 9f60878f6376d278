//go:build linux

package main

import (
	"net/netip"
	"testing"
)

// The addresses of all possible nodes are distinct and within their ranges.
func TestNodeAddresses(t *testing.T) {
	wire4, wire6 := controlPlaneIPv4(), controlPlaneIPv6()
	pods4, pods6 := netip.MustParsePrefix(podCIDRv4), netip.MustParsePrefix(podCIDRv6)
	addresses := map[netip.Addr]string{wire4.Addr(): "control-plane", wire6.Addr(): "control-plane"}
	for _, node := range (Settings{Nodes: maxNodes}).nodes() {
		if !wire4.Contains(node.IPv4) || !wire6.Contains(node.IPv6) {
			t.Errorf("%s: %s and %s are not on the wire", node.Name, node.IPv4, node.IPv6)
		}
		if node.PodsIPv4.Bits() != 24 || node.PodsIPv6.Bits() != 64 ||
			!pods4.Contains(node.PodsIPv4.Addr()) || !pods6.Contains(node.PodsIPv6.Addr()) {
			t.Errorf("%s: pods in %s and %s", node.Name, node.PodsIPv4, node.PodsIPv6)
		}
		for _, address := range []netip.Addr{node.IPv4, node.IPv6, node.PodsIPv4.Addr(), node.PodsIPv6.Addr()} {
			if other, taken := addresses[address]; taken {
				t.Errorf("%s and %s share %s", node.Name, other, address)
			}
			addresses[address] = node.Name
		}
	}
	first := newNode(1)
	if first.Name != "node-1" || first.IPv4.String() != "172.30.0.11" || first.PodsIPv4.String() != "10.244.1.0/24" ||
		first.PodsIPv6.String() != "fd00:10:244:1::/64" {
		t.Errorf("the first node is %+v", first)
	}
	for cidr, address := range map[string]string{serviceCIDRv4: dnsServiceIP, "10.96.0.0/30": apiServiceIP} {
		if !netip.MustParsePrefix(cidr).Contains(netip.MustParseAddr(address)) {
			t.Errorf("%s is not in %s", address, cidr)
		}
	}
}
