//go:build linux

package netlab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddLink makes another link between n and other, whose interfaces have the given name at both
// ends, no addresses, and are down.
func (n *Node) AddLink(other *Node, name string) error {
	return n.Do(func() error {
		pair := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(int(other.ns)),
		}
		if err := netlink.LinkAdd(pair); err != nil {
			return fmt.Errorf("adding a link: %w", err)
		}
		return nil
	})
}

// RemoveLink removes an interface, and with it that at the other end.
func (n *Node) RemoveLink(name string) error { return n.onLink(name, netlink.LinkDel) }

// onLink does something to an interface, in the node's namespace.
func (n *Node) onLink(name string, do func(netlink.Link) error) error {
	return n.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("looking for interface %s: %w", name, err)
		}
		return do(link)
	})
}

// AddAddress adds an address with its prefix to an interface, and sets that up. IPv6 does without
// duplicate address detection, which would hold the address back for a second.
func (n *Node) AddAddress(name string, address netip.Prefix) error {
	return n.onLink(name, func(link netlink.Link) error {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting up %s: %w", name, err)
		}
		host := &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: host, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("adding %v to %s: %w", address, name, err)
		}
		return nil
	})
}
