//go:build linux

package bpf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/knock"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// waiterMain is a gateway that has connections wait until it has dialled their destination. args are a JSON of
// Options, and "works" if it is to note what it finds. It prints each SYN, and ends with its standard
// input.
func waiterMain(args []string) int {
	var o bpf.Options
	err := json.Unmarshal([]byte(args[0]), &o)
	var p *bpf.Programs
	if err == nil {
		p, err = bpf.LoadWith(o)
	}
	if err == nil {
		err = waiter(p, slices.Contains(args, "works"))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(p) // its links end with it
	return 0
}

func waiter(p *bpf.Programs, note bool) error {
	if err := p.AttachSockets(); err != nil {
		return err
	}
	if err := p.Spread(); err != nil {
		return err
	}
	var files []*os.File
	for _, address := range gatewayAddresses() {
		l, err := listenAsGateway(address)
		if err != nil {
			return err
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		files = append(files, f)
		go acceptAll(l, true, new(accepted))
	}
	sockets, err := p.Hold(files)
	if err != nil {
		return err
	}
	for _, s := range sockets {
		g, err := knock.New(s, waiters{})
		if err != nil {
			return err
		}
		go answer(g, note)
	}
	return p.StartCapture()
}

// waiters is what the worker has.
type waiters struct{}

func (waiters) Waiting(fd int, client, listener netip.AddrPort) (netip.AddrPort, bool, error) {
	return bpf.Waiting(fd, client, listener)
}

func (waiters) Admit(fd int, client, listener netip.AddrPort) error {
	return bpf.Admit(fd, client, listener)
}

func (waiters) NoteDestination(fd int, destination netip.AddrPort, works bool) error {
	return bpf.NoteDestination(fd, destination, works)
}

// answer dials for each connection that waits.
func answer(g *knock.Gate, note bool) {
	for {
		s, err := g.Next()
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("SYN to", s.Destination)
		go func() {
			c, err := net.DialTimeout("tcp", s.Destination.String(), 20*time.Second)
			var errno syscall.Errno
			switch {
			case err == nil:
				c.Close()
				if note {
					err = g.Note(s.Destination, true)
				}
				err = errors.Join(err, g.Admit(s))
			case errors.As(err, &errno):
				err = errors.Join(g.Note(s.Destination, false), g.Refuse(s, errno))
			default:
				err = nil
			}
			if err != nil {
				fmt.Println(err)
			}
		}()
	}
}

// setUpWaiting is setUp with a gateway that has connections wait.
func setUpWaiting(t *testing.T, args ...string) *scene {
	t.Helper()
	lab := netlab.New(t, 2)
	s := &scene{T: t, here: lab.Node(0), there: lab.Node(1)}
	text, err := json.Marshal(options(t, s.here))
	must(t, err)
	stdin, end, err := os.Pipe()
	must(t, err)
	p := s.here.Start(netlab.Command{
		Cgroup: s.here.GatewayCgroup, Helper: "waiter", Args: append([]string{string(text)}, args...), Stdin: stdin,
	})
	stdin.Close()
	t.Cleanup(func() { end.Close(); p.Stop() })
	await(t, func() string {
		if strings.Contains(p.Output(), "ready\n") {
			return ""
		}
		select {
		case <-p.Done():
			t.Fatalf("the gateway has ended: %s", p.Output())
		default:
		}
		return "the gateway is not ready: " + p.Output()
	})
	s.gateway = &agent{t: t, p: p}
	s.app = startAgent(t, s.here, s.here.AppCgroup, 1000)
	server := startAgent(t, s.there, s.there.OtherCgroup, 0)
	server.do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	return s
}

// knocks counts the SYNs that a gateway has been shown.
func (s *scene) knocks() int { return strings.Count(s.gateway.p.Output(), "SYN to") }

func (s *scene) knocksTo(to netip.AddrPort) int {
	return strings.Count(s.gateway.p.Output(), fmt.Sprintf("SYN to %v\n", to))
}

// noAnswer dials where nobody answers.
func (s *scene) noAnswer(name string, d dial) {
	s.Helper()
	d.Seconds = 2
	begun := time.Now()
	r := s.app.dial(d)
	// EINPROGRESS is what connect(2) says after SO_SNDTIMEO, ETIMEDOUT the agent where a signal has interrupted it.
	if r.Errno != unix.EINPROGRESS && r.Errno != unix.ETIMEDOUT || time.Since(begun) < 2*time.Second {
		s.Errorf("%s: connect to %v: %v after %v", name, d.To, r.Errno, time.Since(begun))
	}
}

func TestConnectWaits(t *testing.T) {
	s := setUpWaiting(t)
	four, six := at(s.there.IP4, 80), at(s.there.IP6, 80)
	unreachable4, unreachable6 := netip.MustParseAddr("10.9.0.78"), netip.MustParseAddr("fd00:9::78")
	dead4, dead6 := netip.MustParseAddr("10.9.0.77"), netip.MustParseAddr("fd00:9::77")
	must(t, s.here.Do(func() error {
		return errors.Join(noRoute(unreachable4), noRoute(unreachable6), blackhole(dead4), blackhole(dead6))
	}))
	s.captured("IPv4", dial{To: four})
	s.captured("IPv6", dial{To: six, Six: true})
	s.captured("v4-mapped", dial{To: four, Six: true})
	s.captured("nonblocking IPv4", dial{To: four, Nonblock: true})
	s.captured("nonblocking IPv6", dial{To: six, Six: true, Nonblock: true})
	s.captured("address", dial{To: four, Bind: at(s.here.IP4, 0)})
	s.captured("port", dial{To: four, Bind: at(netip.IPv4Unspecified(), 45001)})
	s.captured("IPv6 port", dial{To: six, Six: true, Bind: at(netip.IPv6Unspecified(), 45003)})
	s.captured("v4-mapped port", dial{To: four, Six: true, Bind: at(netip.IPv6Unspecified(), 45004)})
	s.captured("MSG_FASTOPEN", dial{To: four, FastOpen: true})
	await(t, func() string {
		// One that was sent again is shown again.
		if got := s.knocks(); got < 10 {
			return fmt.Sprintf("%d SYNs were shown, want 10", got)
		}
		return ""
	})

	for _, c := range []struct {
		name string
		dial dial
		want syscall.Errno
	}{
		{"closed port, IPv4", dial{To: at(s.there.IP4, 9)}, unix.ECONNREFUSED},
		{"closed port, IPv6", dial{To: at(s.there.IP6, 9), Six: true}, unix.ECONNREFUSED},
		{"closed port, v4-mapped", dial{To: at(s.there.IP4, 9), Six: true}, unix.ECONNREFUSED},
		{"closed port, nonblocking", dial{To: at(s.there.IP4, 9), Nonblock: true}, unix.ECONNREFUSED},
		{"closed port, bound", dial{To: at(s.there.IP4, 9), Bind: at(netip.IPv4Unspecified(), 45002)}, unix.ECONNREFUSED},
		{"closed port, bound IPv6", dial{To: at(s.there.IP6, 9), Six: true, Bind: at(netip.IPv6Unspecified(), 45005)}, unix.ECONNREFUSED},
		{"closed port, Fast Open", dial{To: at(s.there.IP4, 9), FastOpen: true}, unix.ECONNREFUSED},
		{"unreachable host, IPv4", dial{To: at(unreachable4, 80)}, unix.EHOSTUNREACH},
		{"unreachable host, IPv6", dial{To: at(unreachable6, 80), Six: true}, unix.EHOSTUNREACH},
		{"unreachable host, v4-mapped", dial{To: at(unreachable4, 80), Six: true}, unix.EHOSTUNREACH},
		{"unreachable host, nonblocking", dial{To: at(unreachable4, 80), Nonblock: true}, unix.EHOSTUNREACH},
	} {
		s.refused(c.name, c.dial, c.want)
	}
	s.noAnswer("dead host, IPv4", dial{To: at(dead4, 80)})
	s.noAnswer("dead host, IPv6", dial{To: at(dead6, 80), Six: true})
	s.captured("after all that", dial{To: four})
}

// Nodes differ in what they say about packets that look forged, as those that come again might.
func TestConnectWaitsWithReversePathFilterAndSYNCookies(t *testing.T) {
	s := setUpWaiting(t)
	must(t, s.here.Do(func() (err error) {
		for _, file := range []string{"conf/all/rp_filter", "conf/lo/rp_filter", "conf/eth0/rp_filter"} {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/"+file, []byte("1"), 0))
		}
		return errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/tcp_syncookies", []byte("2"), 0))
	}))
	s.captured("IPv4", dial{To: at(s.there.IP4, 80)})
	s.captured("bound", dial{To: at(s.there.IP4, 80), Bind: at(netip.IPv4Unspecified(), 45001)})
	s.captured("IPv6", dial{To: at(s.there.IP6, 80), Six: true})
	s.refused("closed port", dial{To: at(s.there.IP4, 9)}, unix.ECONNREFUSED)
}

// A destination that has just worked is taken to work on, until it does not.
func TestConnectWaitsOnlyForTheUnknown(t *testing.T) {
	s := setUpWaiting(t, "works")
	known := dial{To: at(s.there.IP4, 80)}
	for n := 1; ; n++ {
		s.captured("known destination", known)
		s.refused("closed port", dial{To: at(s.there.IP4, 9)}, unix.ECONNREFUSED)
		await(t, func() string {
			// This one is the later one.
			if s.knocksTo(at(s.there.IP4, 9)) < n {
				return "a connection to a closed port does not wait"
			}
			return ""
		})
		waited := s.knocksTo(known.To)
		if n == 1 && waited == 0 {
			t.Error("the first connection does not wait")
		}
		if waited < n {
			return
		}
		if n == 100 {
			t.Fatal("every connection waits")
		}
	}
}

// noRoute and blackhole make an address of the calling thread's namespace one to which connect(2) fails, or
// gets no answer.
func noRoute(ip netip.Addr) error {
	return netlink.RouteAdd(&netlink.Route{Type: unix.RTN_UNREACHABLE, Dst: ipNet(netip.PrefixFrom(ip, ip.BitLen()))})
}

func blackhole(ip netip.Addr) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{
		LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: net.HardwareAddr{2, 9, 9, 9, 9, 9},
	})
}
