//go:build linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/uuid"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Node is a network namespace together with the cgroups of one pod in it.
type Node struct {
	// IP4 and IP6 are its addresses in the network.
	IP4, IP6 netip.Addr
	// UID is the pod's.
	UID string
	// PodCgroup, GatewayCgroup and AppCgroup are absolute paths; the latter two
	// are children of the first. OtherCgroup is outside the pod.
	PodCgroup, GatewayCgroup, AppCgroup, OtherCgroup string

	lab *Lab
	ns  netns.NsHandle
	// mayKill means that the test is about processes that the kernel kills.
	mayKill bool
}

// The addresses of node i are 10.9.0.<i+1>/24 and fd00:9::<i+1>/64.
func nodeIPs(i int) (ip4, ip6 netip.Addr) {
	ip4 = netip.AddrFrom4([4]byte{10, 9, 0, byte(i + 1)})
	b := netip.MustParseAddr("fd00:9::").As16()
	b[15] = byte(i + 1)
	return ip4, netip.AddrFrom16(b)
}

func newNode(pods podCgroups, root string, i int) (*Node, error) {
	if i > 200 {
		return nil, errors.New("too many nodes")
	}
	n := &Node{UID: uuid.NewString()}
	n.IP4, n.IP6 = nodeIPs(i)
	n.OtherCgroup = filepath.Join(root, fmt.Sprintf("other%d", i))
	if err := pods.make(root, n); err != nil {
		return nil, err
	}
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n.ns = ns
	return n, nil
}

// newNamespace makes a network namespace with loopback up. Its congestion control
// is pinned: a new namespace inherits the machine's default, and bbr cuts the
// throughput of veth to a third.
func newNamespace() (netns.NsHandle, error) {
	ns := netns.None()
	err := onOwnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		if ns, err = netns.Get(); err != nil {
			return fmt.Errorf("holding a network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("looking for loopback: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("setting up loopback: %w", err)
		}
		return pinCongestionControl()
	})
	if err != nil && ns.IsOpen() {
		ns.Close()
	}
	return ns, err
}

// PinCongestionControl gives the network namespace of a process the congestion control that nodes have.
func PinCongestionControl(pid int) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("finding the network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	return onOwnThread(func() error {
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("entering the network namespace of process %d: %w", pid, err)
		}
		return pinCongestionControl()
	})
}

func pinCongestionControl() error {
	var err error
	for _, name := range []string{"cubic", "reno"} {
		if err = os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte(name), 0); err == nil {
			return nil
		}
	}
	return fmt.Errorf("pinning the congestion control: %w", err)
}

// onOwnThread runs f on a thread that ends with it, so that f may leave the
// thread in any namespace.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	return <-done
}

// Do runs f in the node's network namespace, on a thread of its own, in this
// process's cgroup. Goroutines that f starts are elsewhere; sockets that it
// opens stay in the namespace.
func (n *Node) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return fmt.Errorf("entering the network namespace: %w", err)
		}
		return f()
	})
}

// Listen listens in the node's namespace. The address must be a literal.
func (n *Node) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, err = c.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// Dial dials from the node's namespace, for five seconds at most. The address must
// be a literal.
func (n *Node) Dial(network, address string) (c net.Conn, err error) {
	err = n.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, address)
		return err
	})
	return c, err
}

// connect joins the nodes, and waits until the kernel has taken notice of it: before, IPv6
// has no route to a node's own address even.
func (l *Lab) connect() error {
	if err := l.join(); err != nil {
		return err
	}
	for i, n := range l.nodes {
		if err := n.awaitLink(); err != nil {
			return fmt.Errorf("connecting node %d: %w", i, err)
		}
	}
	return nil
}

// awaitLink waits until eth0 is in operation and leads where it should. The local route of an
// IPv6 address comes a moment after the link.
func (n *Node) awaitLink() error {
	h, err := netlink.NewHandleAt(n.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		if eth0.Attrs().OperState == netlink.OperUp && n.hasRoutes(h) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("eth0 is %v, and %v or another node has no route", eth0.Attrs().OperState, n.IP6)
		}
	}
}

func (n *Node) hasRoutes(h *netlink.Handle) bool {
	for _, to := range n.lab.nodes {
		want := unix.RTN_UNICAST
		if to == n {
			want = unix.RTN_LOCAL
		}
		for _, ip := range []netip.Addr{to.IP4, to.IP6} {
			routes, err := h.RouteGet(ip.AsSlice())
			if err != nil || len(routes) == 0 || routes[0].Type != want {
				return false
			}
		}
	}
	return true
}

// join adds the links: two nodes get a pair of veth, another number of them a bridge
// in a namespace of its own.
func (l *Lab) join() error {
	if len(l.nodes) == 2 {
		return l.addPair(0, l.nodes[1].ns, "eth0", hardwareAddr(1), func() error {
			return errors.Join(l.nodes[0].configure(), l.nodes[1].configure())
		})
	}
	middle, err := newNamespace()
	if err != nil {
		return err
	}
	l.closers = append(l.closers, middle.Close)
	inMiddle, err := netlink.NewHandleAt(middle)
	if err != nil {
		return fmt.Errorf("reaching the middle: %w", err)
	}
	defer inMiddle.Close()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}}
	if err := inMiddle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("adding a bridge: %w", err)
	}
	if err := inMiddle.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("setting up the bridge: %w", err)
	}
	for i, n := range l.nodes {
		port := fmt.Sprintf("port%d", i)
		if err := l.addPair(i, middle, port, nil, func() error {
			p, err := inMiddle.LinkByName(port)
			if err != nil {
				return err
			}
			return errors.Join(inMiddle.LinkSetMaster(p, bridge), inMiddle.LinkSetUp(p), n.configure())
		}); err != nil {
			return err
		}
	}
	return nil
}

// addPair adds eth0 of node i with its other end, called peer, in namespace b.
func (l *Lab) addPair(i int, b netns.NsHandle, peer string, peerAddr net.HardwareAddr, then func() error) error {
	h, err := netlink.NewHandleAt(l.nodes[i].ns)
	if err != nil {
		return fmt.Errorf("reaching a namespace: %w", err)
	}
	defer h.Close()
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: hardwareAddr(i)},
		PeerName:  peer, PeerNamespace: netlink.NsFd(int(b)), PeerHardwareAddr: peerAddr,
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding veth: %w", err)
	}
	if err := then(); err != nil {
		return fmt.Errorf("setting up veth: %w", err)
	}
	return nil
}

// configure gives eth0 its addresses, and tells it the hardware addresses of all other nodes once and
// for all. Asking for them over IPv6 takes a second or two on an interface that has just come up.
func (n *Node) configure() error {
	if err := errors.Join(n.AddAddress("eth0", netip.PrefixFrom(n.IP4, 24)), n.AddAddress("eth0", netip.PrefixFrom(n.IP6, 64))); err != nil {
		return err
	}
	return n.onLink("eth0", func(eth0 netlink.Link) error {
		for i, other := range n.lab.nodes {
			if other == n {
				continue
			}
			for _, ip := range []netip.Addr{other.IP4, other.IP6} {
				if err := netlink.NeighSet(&netlink.Neigh{
					LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: hardwareAddr(i),
				}); err != nil {
					return fmt.Errorf("adding neighbour %v: %w", ip, err)
				}
			}
		}
		return nil
	})
}

// hardwareAddr returns the address of node i's interface, a locally administered one.
func hardwareAddr(i int) net.HardwareAddr { return net.HardwareAddr{2, 9, 0, 0, 0, byte(i + 1)} }

// Addr returns host:port for port at the node's IPv4 address.
func (n *Node) Addr(port uint16) string { return netip.AddrPortFrom(n.IP4, port).String() }

// Addr6 returns [host]:port for port at the node's IPv6 address.
func (n *Node) Addr6(port uint16) string { return netip.AddrPortFrom(n.IP6, port).String() }
