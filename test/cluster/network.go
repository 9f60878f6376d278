//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
)

// The addresses of every cluster. They exist in its namespaces only, so two
// clusters on one machine may both use them.
//
//	172.30.0.0/24  fd00:172:30::/64    the wire between the nodes: br0 in control-plane
//	10.244.N.0/24  fd00:10:244:N::/64  the pods of node N
//	10.96.0.0/16   fd00:10:96::/112    Services
const (
	bridgeName = "br0"

	serviceCIDRv4 = "10.96.0.0/16"
	serviceCIDRv6 = "fd00:10:96::/112"
	podCIDRv4     = "10.244.0.0/16"
	podCIDRv6     = "fd00:10:244::/48"

	// apiServiceIP is that of the Service "kubernetes": the first of the range.
	apiServiceIP = "10.96.0.1"
	// dnsServiceIP is the nameserver of pods, at its usual place in the range.
	dnsServiceIP = "10.96.0.10"

	// apiPort is the API server's port in control-plane.
	apiPort = 6443

	// maxNodes keeps node addresses (10 + N) within their /24.
	maxNodes = 99
)

func controlPlaneIPv4() netip.Prefix { return netip.MustParsePrefix("172.30.0.1/24") }
func controlPlaneIPv6() netip.Prefix { return netip.MustParsePrefix("fd00:172:30::1/64") }

// apiServerURL is how the cluster itself reaches the API server.
func apiServerURL() string {
	return "https://" + net.JoinHostPort(controlPlaneIPv4().Addr().String(), strconv.Itoa(apiPort))
}

// apiServerHosts are all the names of the API server.
func apiServerHosts() []string {
	return []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
		"localhost", "127.0.0.1", "control-plane",
		controlPlaneIPv4().Addr().String(), controlPlaneIPv6().Addr().String(), apiServiceIP,
	}
}

// node is one node's place in the network.
type node struct {
	Name               string
	IPv4, IPv6         netip.Addr
	PodsIPv4, PodsIPv6 netip.Prefix
}

// newNode returns node n, from 1 to maxNodes.
func newNode(n int) node {
	return node{
		Name:     fmt.Sprintf("node-%d", n),
		IPv4:     netip.AddrFrom4([4]byte{172, 30, 0, byte(10 + n)}),
		IPv6:     netip.MustParseAddr(fmt.Sprintf("fd00:172:30::%d", 10+n)),
		PodsIPv4: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24),
		PodsIPv6: netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", n)),
	}
}

// nodes returns all the nodes of a cluster.
func (s Settings) nodes() []node { return s.machines()[:s.Nodes] }

// machines returns the nodes, and behind them the spare ones.
func (s Settings) machines() []node {
	var all []node
	for n := 1; n <= s.Nodes+s.Spare; n++ {
		all = append(all, newNode(n))
	}
	return all
}

// hasIPv6 tells whether the kernel of this machine can do IPv6.
func hasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// setUpControlPlane makes the bridge in our own network namespace and plugs a
// cable from it into every node's, whose processes pids has by name.
func setUpControlPlane(ctx context.Context, settings Settings, pids map[string]int) error {
	// Forwarding without a route: packets to anywhere else are answered with
	// "unreachable", which is quicker than silence.
	if err := setSysctls(settings.IPv6, map[string]string{
		"net/ipv4/ip_forward":          "1",
		"net/ipv6/conf/all/forwarding": "1",
	}); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("making the bridge: %w", err)
	}
	for _, node := range settings.machines() {
		cable := &netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: node.Name, MasterIndex: bridge.Index},
			PeerName:      "eth0",
			PeerNamespace: netlink.NsPid(pids[node.Name]),
		}
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("connecting %s: %w", node.Name, err)
		}
		if err := netlink.LinkSetUp(cable); err != nil {
			return fmt.Errorf("connecting %s: %w", node.Name, err)
		}
	}
	if err := setUpLink(ctx, "lo", settings.IPv6); err != nil {
		return err
	}
	if err := setUpLink(ctx, bridgeName, settings.IPv6, controlPlaneIPv4(), controlPlaneIPv6()); err != nil {
		return err
	}
	return addPodRoutes(settings, "")
}

// setUpNode configures the network of a node, in our own network namespace,
// once control-plane has plugged the cable in.
func setUpNode(ctx context.Context, settings Settings, self node) error {
	if err := setSysctls(settings.IPv6, map[string]string{
		"net/ipv4/ip_forward":                 "1",
		"net/ipv6/conf/all/forwarding":        "1",
		"net/ipv4/conf/all/rp_filter":         "0", // a pod's answer may take another way than the question
		"net/ipv4/conf/default/rp_filter":     "0",
		"net/ipv6/conf/default/accept_dad":    "0", // addresses are usable at once
		"net/ipv6/conf/default/dad_transmits": "0",
	}); err != nil {
		return err
	}
	if err := setUpLink(ctx, "lo", settings.IPv6); err != nil {
		return err
	}
	v4, v6 := netip.PrefixFrom(self.IPv4, 24), netip.PrefixFrom(self.IPv6, 64)
	if err := setUpLink(ctx, "eth0", settings.IPv6, v4, v6); err != nil {
		return err
	}
	gateways := []netip.Addr{controlPlaneIPv4().Addr()}
	if settings.IPv6 {
		gateways = append(gateways, controlPlaneIPv6().Addr())
	}
	for _, gateway := range gateways {
		// A process of the node itself needs some route to Services before
		// kube-proxy's rules see its packet.
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.IP(gateway.AsSlice())}); err != nil {
			return fmt.Errorf("adding the default route by %s: %w", gateway, err)
		}
	}
	return addPodRoutes(settings, self.Name)
}

// setUpLink waits for an interface, gives it its addresses and brings it up.
func setUpLink(ctx context.Context, name string, ipv6 bool, addresses ...netip.Prefix) error {
	var link netlink.Link
	err := await(ctx, func() (err error) {
		link, err = netlink.LinkByName(name)
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for interface %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing up %s: %w", name, err)
	}
	for _, address := range addresses {
		if address.Addr().Is6() && !ipv6 {
			continue
		}
		entry := &netlink.Addr{IPNet: ipNet(address)}
		if address.Addr().Is6() {
			entry.Flags = syscall.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, entry); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", name, address, err)
		}
	}
	return nil
}

// addPodRoutes adds the routes to the pods of every node but self.
func addPodRoutes(settings Settings, self string) error {
	for _, node := range settings.machines() {
		if node.Name == self {
			continue
		}
		routes := []*netlink.Route{{Dst: ipNet(node.PodsIPv4), Gw: net.IP(node.IPv4.AsSlice())}}
		if settings.IPv6 {
			routes = append(routes, &netlink.Route{Dst: ipNet(node.PodsIPv6), Gw: net.IP(node.IPv6.AsSlice())})
		}
		for _, route := range routes {
			if err := netlink.RouteAdd(route); err != nil {
				return fmt.Errorf("adding the route to the pods of %s: %w", node.Name, err)
			}
		}
	}
	return nil
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(prefix.Addr().AsSlice()), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// setSysctls sets network sysctls, which belong to our network namespace.
func setSysctls(ipv6 bool, values map[string]string) error {
	if ipv6 {
		// Some machines start with IPv6 disabled in every new namespace.
		values["net/ipv6/conf/all/disable_ipv6"] = "0"
		values["net/ipv6/conf/default/disable_ipv6"] = "0"
	}
	for name, value := range values {
		err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
		if err != nil && (ipv6 || !errors.Is(err, os.ErrNotExist)) {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func isAddressInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
