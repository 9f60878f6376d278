//go:build linux

package bpf_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sort"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

func TestMain(m *testing.M) {
	netlab.Helpers{"agent": agentMain, "supervisor": supervisorMain, "waiter": waiterMain, "marker": markerMain}.Run()
	os.Exit(m.Run())
}

// request is what a test asks an agent, a process in some cgroup and namespace,
// to do. Exactly one field is set.
type request struct {
	Dial    *dial    `json:",omitempty"`
	Many    *many    `json:",omitempty"`
	Serve   *serve   `json:",omitempty"`
	Gateway *gateway `json:",omitempty"`
	Trade   *trade   `json:",omitempty"`
	Crowd   *crowd   `json:",omitempty"`
	Reuse   *reuse   `json:",omitempty"`
	Stop    bool     `json:",omitempty"` // closes what Serve and Gateway opened
	FDs     bool     `json:",omitempty"`
	// Finish goes on with a dial that Wait has stopped.
	Finish   bool `json:",omitempty"`
	Accepted bool `json:",omitempty"` // asks for what accept(2) has shown
	Nested   bool `json:",omitempty"` // goes on in a network namespace of its own, for which it is root
	// Routed are addresses that have a link to the one before then, whose end there is nest0, and a
	// default route to the address before.
	Routed []netip.Prefix `json:",omitempty"`
}

// dial is one connect(2) and what follows.
type dial struct {
	To    netip.AddrPort
	Six   bool           `json:",omitempty"` // from an IPv6 socket; v4-mapped if To is IPv4
	Type  int            `json:",omitempty"` // SOCK_STREAM if 0
	Proto int            `json:",omitempty"`
	Bind  netip.AddrPort // bind(2) before, unless zero
	// BindOnly is Bind with IP_BIND_ADDRESS_NO_PORT.
	BindOnly  bool           `json:",omitempty"`
	Device    string         `json:",omitempty"` // SO_BINDTODEVICE
	Nonblock  bool           `json:",omitempty"`
	FastOpen  bool           `json:",omitempty"` // sendto(MSG_FASTOPEN) instead of connect
	Then      netip.AddrPort // disconnect (AF_UNSPEC) and connect to this instead
	PresentAs netip.AddrPort
	Again     *again         `json:",omitempty"`
	Inband    bool           // MarkInband
	SYNs      int            // with the option, 3 if 0
	Options   []socketOption `json:",omitempty"`
	Refused   bool           // the kernel is to refuse the last of Options (EINVAL)
	Extended  bool           // puts an IPv6 extension header before that of TCP
	Seconds   int            // to wait for everything, 5 if 0
	Send      string         `json:",omitempty"` // UDP: sent after connect, or to To without
	NoConnect bool           `json:",omitempty"`
	// NoFamily has NoConnect send to an address of AF_UNSPEC, which Linux takes for one of IPv4.
	NoFamily bool `json:",omitempty"`
	Outside  bool `json:",omitempty"` // asks FromOutside, once it is connected
	// Wait stops after connect(2), and Finish sends a byte and goes on.
	Wait bool `json:",omitempty"`
	// Hold keeps the connection open until Stop.
	Hold bool `json:",omitempty"`
}

// again has a socket of PresentAs connect to the same application once more, as another client and from another address, when the first
// connection has ended at both ends.
type again struct{ From, As netip.AddrPort }

// trade is a socket that was something else before.
type trade struct {
	// From is where it connects to before it listens. The reply has the true address of a client as
	// Local, and what accept(2) says as Peer.
	From netip.AddrPort
	// Listen is where it is accepted, before it connects to To. The reply has what getpeername(2)
	// says as Peer, and what To has seen. The listener has Options.
	Listen, To netip.AddrPort
	Options    []socketOption `json:",omitempty"`
}

// crowd connects as a gateway to a listener at an address that accepts nothing, until it has no room.
type crowd struct{ At netip.AddrPort }

// reuse is a gateway's socket that connects to one application and then to another. The reply has as Peer what getpeername(2) says of
// the second one before HandedOver.
type reuse struct{ First, Second, PresentAs netip.AddrPort }

func (u *reuse) run() (r reply, err error) {
	fd, err := (&dial{Six: u.First.Addr().Is6(), PresentAs: u.PresentAs}).socket()
	if err != nil {
		return r, err
	}
	defer unix.Close(fd)
	for _, to := range []netip.AddrPort{u.First, u.Second} {
		if err := connectBlocking(fd, sockaddr(to, to.Addr().Is6())); err != nil {
			return r, err
		}
		if r.Peer, err = peername(fd); err != nil {
			return r, err
		}
		if ok, _, err := bpf.HandedOver(fd); err != nil || !ok {
			return r, cmp.Or(err, errors.New("the client was not handed over"))
		}
		// Then the application has accepted.
		if _, err := ready(fd, unix.POLLIN); err != nil {
			return r, err
		}
		var t *tuned
		if t, r.Named, err = tuningOf(fd); err != nil || t == nil {
			return r, cmp.Or(err, errors.New("the application has set nothing"))
		}
		r.Tunings = append(r.Tunings, *t)
		if err := cmp.Or(disconnect(fd), bpf.PresentAs(fd, u.PresentAs)); err != nil {
			return r, err
		}
		if had, err := bpf.HasTuning(fd); err != nil || had {
			return r, cmp.Or(err, errors.New("the socket remembers how the last application has tuned its own"))
		}
	}
	return r, nil
}

// handed is what HandedOver says of a connection.
type handed struct{ Done, Established bool }

// run returns what HandedOver says of the first connection, and of the one that there is no room for.
func (c *crowd) run() ([]handed, error) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(l)
	if err := errors.Join(unix.Bind(l, sockaddr(c.At, false)), unix.Listen(l, 0)); err != nil {
		return nil, err
	}
	var all []handed
	for range 16 {
		fd, err := (&dial{Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK, PresentAs: netip.MustParseAddrPort("10.1.2.3:4567")}).socket()
		if err != nil {
			return nil, err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sockaddr(c.At, false)); err != nil && err != unix.EINPROGRESS {
			return nil, err
		}
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		established, err := unix.Poll(events, 0)
		if err != nil {
			return nil, err
		}
		var h handed
		if h.Done, h.Established, err = bpf.HandedOver(fd); err != nil {
			return nil, err
		}
		if len(all) == 0 || established == 0 {
			all = append(all, h)
		}
		if established == 0 {
			return all, nil
		}
	}
	return nil, errors.New("there is room for all")
}

type many struct {
	To          netip.AddrPort
	Six         bool
	Count       int
	Concurrency int
	// Hold keeps the connections open until Stop.
	Hold bool
}

type serve struct {
	Network, Address string
	MPTCP            bool
	// Defer hands a connection out when it has data (TCP_DEFER_ACCEPT).
	Defer bool `json:",omitempty"`
	// Hungry leaves no memory for what the programs would remember of its connections.
	Hungry bool `json:",omitempty"`
	// Options are those of the listener, and no others.
	Options []socketOption `json:",omitempty"`
}

type gateway struct{ Addresses []string }

// seen is what an accepting end has seen; it sends it as JSON and closes.
type seen struct {
	Accept, Peer, Local netip.AddrPort
	Original, Netfilter netip.AddrPort
	Inband, Shown       bool   // it came to the in-band listener; Negotiated
	Tuned               *tuned `json:",omitempty"` // TuningOf, of what a gateway accepts
	Named               bool   // the same: getpeername(2) is enough for it
	Error               string `json:",omitempty"`
}

type reply struct {
	Errno       syscall.Errno `json:",omitempty"`
	Error       string        `json:",omitempty"`
	Local, Peer netip.AddrPort
	Seen        *seen    `json:",omitempty"`
	Reset       bool     // instead of Seen, after the handshake
	Shown       bool     // Negotiated, of an in-band connection
	GivenUp     bool     // the same
	Handed      []handed `json:",omitempty"`
	Tunings     []tuned  `json:",omitempty"` // TuningOf, of a socket that is used again
	Named       bool     // the same: getpeername(2) is enough for the last one
	Answerer    uint32   // Answered
	Answered    uint16   // the same
	Outside     bool     // FromOutside
	OK          int      `json:",omitempty"`
	FDs         int      `json:",omitempty"`
	Accepted    []netip.AddrPort
	Tuned       *tuned `json:",omitempty"` // TuningOf, of a connection that is not its socket's first
}

// accepted is what accept(2) has shown to all listeners of an agent.
type accepted struct {
	mu   sync.Mutex
	list []netip.AddrPort
}

func (a *accepted) add(c netip.AddrPort) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = append(a.list, c)
}

func agentMain([]string) int {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var listeners []net.Listener
	var held []int
	var all accepted
	var waiting *dial
	waitingFD := -1
	for {
		var q request
		if err := in.Decode(&q); err != nil {
			return 0
		}
		var r reply
		var err error
		switch {
		case q.Dial != nil:
			if r, waitingFD, err = q.Dial.run(&held); waitingFD >= 0 {
				waiting = q.Dial
			}
		case q.Finish:
			if _, err = unix.Write(waitingFD, []byte{1}); err == nil {
				r, err = waiting.converse(waitingFD)
			}
			unix.Close(waitingFD)
		case q.Accepted:
			all.mu.Lock()
			r.Accepted = slices.Clone(all.list)
			all.mu.Unlock()
		case q.Many != nil:
			r, err = q.Many.run(&held)
		case q.Serve != nil:
			var l net.Listener
			if l, err = q.Serve.listen(); err == nil {
				listeners = append(listeners, l)
				go acceptAll(l, false, &all)
			}
		case q.Gateway != nil:
			for _, a := range q.Gateway.Addresses {
				var l net.Listener
				if l, err = listenAsGateway(a); err != nil {
					break
				}
				listeners = append(listeners, l)
				go acceptAll(l, true, &all)
			}
		case q.Stop:
			for _, l := range listeners {
				l.Close()
			}
			for _, fd := range held {
				unix.Close(fd)
			}
			listeners, held = nil, nil
		case q.Trade != nil:
			r, err = q.Trade.run()
		case q.Crowd != nil:
			r.Handed, err = q.Crowd.run()
		case q.Reuse != nil:
			r, err = q.Reuse.run()
		case q.Nested:
			err = nest(q.Routed)
		case q.FDs:
			var list []os.DirEntry
			list, err = os.ReadDir("/proc/self/fd")
			r.FDs = len(list)
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := out.Encode(r); err != nil {
			return 1
		}
	}
}

// nest moves the calling goroutine to a network namespace with nothing but loopback, and a link to the
// one before if routed has its addresses.
func nest(routed []netip.Prefix) error {
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer before.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil || len(routed) == 0 {
		return err
	}
	up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0"}, PeerName: "nest0", PeerNamespace: netlink.NsFd(int(before.Fd()))}
	if err := errors.Join(netlink.LinkAdd(up), netlink.LinkSetUp(up)); err != nil {
		return err
	}
	for _, a := range routed {
		host := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		err := errors.Join(netlink.AddrAdd(up, &netlink.Addr{IPNet: host, Flags: unix.IFA_F_NODAD}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: up.Index, Gw: a.Addr().Prev().AsSlice()}))
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *serve) listen() (net.Listener, error) {
	c := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			if s.Defer {
				failed = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_DEFER_ACCEPT, 60)
			}
			if s.Hungry {
				failed = errors.Join(failed, takeOptionMemory(int(fd)))
			}
			failed = errors.Join(failed, setOptions(int(fd), s.Options))
		})
		return errors.Join(err, failed)
	}}
	c.SetMultipathTCP(s.MPTCP)
	return c.Listen(context.Background(), s.Network, s.Address)
}

// takeOptionMemory attaches the longest filter for which there is memory, which accepted sockets
// inherit. It accepts everything.
func takeOptionMemory(fd int) error {
	const longest = 4096 // BPF_MAXINSNS
	accept := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)}
	attach := func(n int) error {
		// The kernel turns each of these into several instructions of its own.
		code := slices.Repeat([]unix.SockFilter{{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH}}, n)
		code[0], code[n-1] = accept, accept
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(n), Filter: &code[0]})
	}
	detach := func() { unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) }
	n := sort.Search(longest, func(n int) bool {
		defer detach()
		return attach(n+2) != nil
	}) + 1
	if n >= longest {
		return errors.New("the longest filter leaves memory")
	}
	return attach(n)
}

// listenAsGateway listens as the supervisor does.
func listenAsGateway(address string) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, address string, raw syscall.RawConn) error {
		port := netip.MustParseAddrPort(address).Port()
		var marked error
		err := raw.Control(func(fd uintptr) { marked = bpf.MarkListener(int(fd), port == api.InbandPort) })
		return errors.Join(err, marked)
	}}
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp", address)
}

func acceptAll(l net.Listener, asGateway bool, all *accepted) {
	inband := asGateway && l.Addr().(*net.TCPAddr).Port == api.InbandPort
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		tcp := c.(*net.TCPConn)
		saw := look(tcp, asGateway, inband)
		all.add(saw.Accept)
		if saw.Inband && !saw.Shown {
			// As the worker does.
			tcp.SetLinger(0)
			tcp.Close()
			continue
		}
		json.NewEncoder(c).Encode(saw)
		tcp.CloseWrite()
		go func() {
			io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

// look asks everything about an accepted connection.
func look(c *net.TCPConn, asGateway, inband bool) (s seen) {
	raw, err := c.SyscallConn()
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.Accept = netip.MustParseAddrPort(c.RemoteAddr().String())
	err = raw.Control(func(fd uintptr) {
		s.Local, _ = sockname(int(fd))
		s.Peer, _ = peername(int(fd))
		if !asGateway {
			return
		}
		var err error
		if s.Inband = inband; inband {
			if s.Shown, _, err = bpf.Negotiated(int(fd)); err != nil {
				s.Error = err.Error()
			}
			return
		}
		if s.Original, _, err = bpf.OriginalDestination(int(fd)); err != nil {
			s.Error = err.Error()
			if errors.Is(err, bpf.ErrNotCaptured) {
				s.Error = "not captured"
			}
		}
		if s.Tuned, s.Named, err = tuningOf(int(fd)); err != nil {
			s.Error = err.Error()
		}
		s.Netfilter, _ = netfilterDestination(int(fd), s.Local.Addr().Is4())
	})
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

// socket makes the socket as d wants it, before connect(2).
func (d *dial) socket() (_ int, err error) {
	family := unix.AF_INET
	if d.Six {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, cmp.Or(d.Type, unix.SOCK_STREAM)|unix.SOCK_CLOEXEC, d.Proto)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	limit := unix.Timeval{Sec: int64(cmp.Or(d.Seconds, 5))}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	if d.BindOnly {
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return -1, fmt.Errorf("IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
	}
	if err := setOptions(fd, d.Options); d.Refused != errors.Is(err, unix.EINVAL) || err != nil && !d.Refused {
		return -1, fmt.Errorf("options: %w", err)
	}
	if d.Bind.IsValid() {
		if err := unix.Bind(fd, sockaddr(d.Bind, d.Six)); err != nil {
			return -1, fmt.Errorf("bind: %w", err)
		}
	}
	if d.Device != "" {
		if err := unix.BindToDevice(fd, d.Device); err != nil {
			return -1, fmt.Errorf("SO_BINDTODEVICE: %w", err)
		}
	}
	if d.PresentAs.IsValid() {
		if err := bpf.PresentAs(fd, d.PresentAs); err != nil {
			return -1, err
		}
	}
	if d.Inband {
		if err := bpf.MarkInband(fd, cmp.Or(d.SYNs, 3)); err != nil {
			return -1, err
		}
	}
	if d.Extended {
		// Destination options (RFC 8200) that hold nothing but padding.
		padding := string([]byte{0, 0, 1, 4, 0, 0, 0, 0})
		if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, padding); err != nil {
			return -1, fmt.Errorf("IPV6_DSTOPTS: %w", err)
		}
	}
	return fd, unix.SetNonblock(fd, d.Nonblock)
}

func setOptions(fd int, options []socketOption) error {
	for _, o := range options {
		if err := unix.SetsockoptString(fd, o.Level, o.Name, string(o.Value)); err != nil {
			return fmt.Errorf("option %d of level %d: %w", o.Name, o.Level, err)
		}
	}
	return nil
}

// run returns the socket if it is to wait, and -1 otherwise.
func (d *dial) run(held *[]int) (reply, int, error) {
	fd, err := d.socket()
	if err != nil {
		return reply{}, -1, err
	}
	r, err := d.connected(fd)
	if d.Wait && err == nil && r == nil {
		return reply{}, fd, nil
	}
	defer func() {
		if !d.Hold || err != nil || r != nil {
			unix.Close(fd)
		}
	}()
	if err != nil || r != nil {
		return *cmp.Or(r, new(reply)), -1, err
	}
	if d.Hold {
		*held = append(*held, fd)
	}
	answer, err := d.converse(fd)
	return answer, -1, err
}

// connected returns nothing for a connection that is there, and otherwise what has become of it.
func (d *dial) connected(fd int) (*reply, error) {
	if d.NoConnect {
		err := d.send(fd)
		var errno syscall.Errno
		if err != nil && !errors.As(err, &errno) {
			return nil, err
		}
		return &reply{Errno: errno}, nil
	}
	if errno := d.connect(fd, d.To); errno != 0 {
		return failed(errno), nil
	}
	if d.PresentAs.IsValid() {
		// As the worker does.
		if ok, _, err := bpf.HandedOver(fd); err != nil || !ok {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			return &reply{Reset: true}, err
		}
	}
	if d.Again != nil {
		return d.connectAgain(fd)
	}
	if d.Then.IsValid() {
		// The answer says that the other end has accepted: the RST of a disconnect right
		// after connect(2) can overtake the ACK, and then nobody accepts.
		if _, err := ready(fd, unix.POLLIN); err != nil {
			return nil, fmt.Errorf("before disconnect: %w", err)
		}
		if err := disconnect(fd); err != nil {
			return nil, err
		}
		if errno := d.connect(fd, d.Then); errno != 0 {
			return failed(errno), nil
		}
	}
	return nil, nil
}

// connectAgain is connected for the second connection of a socket.
func (d *dial) connectAgain(fd int) (*reply, error) {
	if _, err := io.Copy(io.Discard, fdReader(fd)); err != nil {
		return nil, fmt.Errorf("before the end: %w", err)
	}
	if err := errors.Join(unix.Shutdown(fd, unix.SHUT_WR), disconnect(fd)); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, sockaddr(d.Again.From, d.Six)); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	second := *d
	second.PresentAs, second.Again = d.Again.As, nil
	if err := bpf.PresentAs(fd, second.PresentAs); err != nil {
		return nil, err
	}
	return second.connected(fd)
}

// send sends one datagram.
func (d *dial) send(fd int) error {
	data := []byte(d.Send)
	if !d.NoFamily {
		return unix.Sendto(fd, data, 0, sockaddr(d.To, d.Six))
	}
	to := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC, Port: bits.ReverseBytes16(d.To.Port()), Addr: d.To.Addr().As4()}
	if _, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), 0,
		uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to)); errno != 0 {
		return errno
	}
	return nil
}

func disconnect(fd int) error {
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec)); errno != 0 {
		return fmt.Errorf("disconnect: %w", errno)
	}
	return nil
}

func (c *trade) run() (r reply, err error) {
	fd, err := (&dial{Options: c.Options}).socket()
	if err != nil {
		return r, err
	}
	defer unix.Close(fd)
	if c.Listen.IsValid() {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err := errors.Join(unix.Bind(fd, sockaddr(c.Listen, false)), unix.Listen(fd, 1)); err != nil {
			return r, fmt.Errorf("listen: %w", err)
		}
		accepted, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			return r, fmt.Errorf("accept: %w", err)
		}
		defer unix.Close(accepted)
		if err := errors.Join(disconnect(accepted), connectBlocking(accepted, sockaddr(c.To, false))); err != nil {
			return r, err
		}
		return new(dial).converse(accepted)
	}
	if err := errors.Join(connectBlocking(fd, sockaddr(c.From, false)), disconnect(fd), unix.Listen(fd, 1)); err != nil {
		return r, err
	}
	at, err := sockname(fd)
	if err != nil {
		return r, err
	}
	client, err := (&dial{}).socket()
	if err != nil {
		return r, err
	}
	defer unix.Close(client)
	if err := connectBlocking(client, sockaddr(at, false)); err != nil {
		return r, fmt.Errorf("connecting to the listener at %v: %w", at, err)
	}
	r.Local, _ = sockname(client)
	accepted, sa, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return r, fmt.Errorf("accept: %w", err)
	}
	defer unix.Close(accepted)
	r.Peer, err = addrPort(sa, nil)
	return r, err
}

// failed is the reply for a connect(2) that failed. A RST after the handshake can overtake
// the end of connect(2), which says ECONNRESET then: that is a connection which was reset.
func failed(errno syscall.Errno) *reply {
	if errno == unix.ECONNRESET {
		return &reply{Reset: true}
	}
	return &reply{Errno: errno}
}

// connectBlocking is connect(2), which a signal of the Go runtime does not end.
func connectBlocking(fd int, to unix.Sockaddr) error {
	err := unix.Connect(fd, to)
	if !errors.Is(err, unix.EINTR) {
		return err
	}
	return pending(fd)
}

// pending waits for the end of a connect(2) that is under way. POLLERR alone is not it: an ICMP error is in
// the queue of errors a moment before the socket has it.
func pending(fd int) error {
	for {
		events, err := ready(fd, unix.POLLOUT)
		if err != nil {
			return err
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		if err != nil || events&(unix.POLLOUT|unix.POLLHUP) != 0 {
			return err
		}
	}
}

// ready waits for events of poll(2), and returns those that there are.
func ready(fd int, events int16) (int16, error) {
	poll := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(poll, 5000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = unix.ETIMEDOUT
		}
		return poll[0].Revents, err
	}
}

func (d *dial) connect(fd int, to netip.AddrPort) syscall.Errno {
	var err error
	if d.FastOpen {
		err = unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, sockaddr(to, d.Six))
	} else {
		err = connectBlocking(fd, sockaddr(to, d.Six))
	}
	if d.Nonblock {
		if errors.Is(err, unix.EINPROGRESS) {
			err = pending(fd)
		}
		unix.SetNonblock(fd, false)
	}
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	return errno
}

// converse asks for the names, and reads what the other end has seen.
func (d *dial) converse(fd int) (r reply, err error) {
	r.Local, _ = sockname(fd)
	r.Peer, _ = peername(fd)
	if d.Type == unix.SOCK_DGRAM {
		return r, nil
	}
	if d.Outside {
		if r.Outside, err = bpf.FromOutside(fd); err != nil {
			return r, err
		}
	}
	if d.Again != nil {
		if r.Tuned, _, err = tuningOf(fd); err != nil {
			return r, err
		}
	}
	if d.Inband {
		if r.Shown, r.GivenUp, err = bpf.Negotiated(fd); err != nil {
			return r, err
		}
		if r.Answerer, r.Answered, err = bpf.Answered(fd); err != nil {
			return r, err
		}
	}
	text, err := io.ReadAll(fdReader(fd))
	if errors.Is(err, unix.ECONNRESET) {
		r.Reset = true
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read: %w", err)
	}
	if len(text) > 0 {
		r.Seen = new(seen)
		err = json.Unmarshal(text, r.Seen)
	}
	return r, err
}

type fdReader int

func (fd fdReader) Read(p []byte) (int, error) {
	n, err := unix.Read(int(fd), p)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(int(fd), p)
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	return max(n, 0), err
}

// run makes Count connections and checks that each is what it should be.
func (m *many) run(held *[]int) (reply, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		r     reply
		first error
		jobs  = make(chan struct{}, m.Count)
	)
	for range m.Count {
		jobs <- struct{}{}
	}
	close(jobs)
	for range m.Concurrency {
		wg.Go(func() {
			for range jobs {
				fd, err := m.one()
				mu.Lock()
				switch {
				case err != nil && first == nil:
					first = err
				case err == nil:
					r.OK++
				}
				if fd >= 0 && m.Hold {
					*held = append(*held, fd)
				} else if fd >= 0 {
					unix.Close(fd)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r, first
}

func (m *many) one() (int, error) {
	d := dial{Six: m.Six, Seconds: 20}
	fd, err := d.socket()
	if err != nil {
		return -1, err
	}
	if err := connectBlocking(fd, sockaddr(m.To, m.Six)); err != nil {
		return fd, fmt.Errorf("connect: %w", err)
	}
	local, err := sockname(fd)
	if err != nil {
		return fd, err
	}
	text, err := bufio.NewReader(fdReader(fd)).ReadBytes('\n')
	if err != nil {
		return fd, fmt.Errorf("read: %w", err)
	}
	var s seen
	if err := json.Unmarshal(text, &s); err != nil {
		return fd, err
	}
	if s.Original != m.To || unmapped(s.Accept) != unmapped(local) {
		return fd, fmt.Errorf("gateway saw %+v of a connection from %v to %v", s, local, m.To)
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort, six bool) unix.Sockaddr {
	if !six {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	if a.Addr() == netip.IPv4Unspecified() {
		return &unix.SockaddrInet6{Port: int(a.Port())}
	}
	to := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if i, err := net.InterfaceByName(a.Addr().Zone()); err == nil {
		to.ZoneId = uint32(i.Index)
	}
	return to
}

func addrPort(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), err
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), err
	}
	return netip.AddrPort{}, err
}

func sockname(fd int) (netip.AddrPort, error) { return addrPort(unix.Getsockname(fd)) }
func peername(fd int) (netip.AddrPort, error) { return addrPort(unix.Getpeername(fd)) }

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// netfilterDestination asks in the way of programs made for iptables.
func netfilterDestination(fd int, four bool) (netip.AddrPort, error) {
	if four {
		var a unix.RawSockaddrInet4
		size := uint32(unsafe.Sizeof(a))
		if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST,
			uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			return netip.AddrPort{}, errno
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), a.Port>>8|a.Port<<8), nil
	}
	var a unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(a))
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST,
		uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), a.Port>>8|a.Port<<8), nil
}

// agent is a running agent, as its test sees it.
type agent struct {
	t   testing.TB
	p   *netlab.Process
	in  *json.Encoder
	out chan reply
}

// startAgent starts an agent in a node and a cgroup of it, as a user without
// privileges unless user is 0.
func startAgent(t testing.TB, n *netlab.Node, cgroup string, user uint32) *agent {
	t.Helper()
	stdin, toAgent, err := os.Pipe()
	must(t, err)
	fromAgent, stdout, err := os.Pipe()
	must(t, err)
	a := &agent{t: t, in: json.NewEncoder(toAgent), out: make(chan reply)}
	a.p = n.Start(netlab.Command{Cgroup: cgroup, Helper: "agent", Stdin: stdin, Stdout: stdout, User: user})
	stdin.Close()
	stdout.Close()
	go func() {
		defer close(a.out)
		d := json.NewDecoder(fromAgent)
		for {
			var r reply
			if d.Decode(&r) != nil {
				return
			}
			a.out <- r
		}
	}()
	t.Cleanup(func() {
		toAgent.Close()
		a.p.Stop()
		fromAgent.Close()
		for range a.out {
		}
		if out := a.p.Output(); out != "" {
			t.Logf("agent: %s", out)
		}
	})
	return a
}

// ask sends a request and returns the reply, which may hold an error.
func (a *agent) ask(q request) reply {
	a.t.Helper()
	if err := a.in.Encode(q); err != nil {
		a.t.Fatalf("asking an agent: %v", err)
	}
	select {
	case r, ok := <-a.out:
		if !ok {
			a.t.Fatalf("the agent has ended: %s", a.p.Output())
		}
		return r
	case <-time.After(3 * time.Minute):
		a.t.Fatalf("the agent does not answer %+v", q)
		panic("unreachable")
	}
}

// do is ask for what must succeed.
func (a *agent) do(q request) reply {
	a.t.Helper()
	r := a.ask(q)
	if r.Error != "" {
		a.t.Fatalf("agent: %s", r.Error)
	}
	return r
}

func (a *agent) dial(d dial) reply {
	a.t.Helper()
	return a.do(request{Dial: &d})
}
