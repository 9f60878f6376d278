//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// waitsFor starts a gateway, and returns it and its status once that gives a reason for the wait.
func (l *lab) waitsFor(s gatewaylab.Spec) (*gatewaylab.Gateway, *api.Status) {
	l.t.Helper()
	g := must.Get(gatewaylab.Launch(s))(l.t)
	l.t.Cleanup(g.Stop)
	// As the plugin asks: the answer comes with the reason, and not after the whole wait.
	started := time.Now()
	var st *api.Status
	eventually(l.t, "the gateway answers", func() (err error) {
		st, err = g.Call(l.t.Context(), control.Request{Op: control.OpStatus, Wait: patience})
		return err
	})
	if took := time.Since(started); took > patience/2 {
		l.t.Errorf("the reason came after %v", took)
	}
	if st.State != api.Starting {
		l.t.Errorf("it is %s, and not starting:\n%s", st.State, g.Output())
	}
	return g, st
}

func (l *lab) getsReady(g *gatewaylab.Gateway) {
	l.t.Helper()
	awaitStatus(l.t, g, "the gateway is ready", func(s *api.Status) bool { return s.State == api.Ready && s.Reason == "" })
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestPortHeldByListener: a gateway says who listens at the port for peers, and starts when that is free.
// For those of loopback it has others, see TestPortsTaken.
func TestPortHeldByListener(t *testing.T) {
	l := newLab(t)
	for _, address := range []string{":18443"} {
		taken := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"listen", address}})
		says(t, taken, "listening")
		g, st := l.waitsFor(l.spec(l.a))
		where := strings.Replace(address, ":18443", "[::]:18443", 1)
		if want := fmt.Sprintf("a listener at %s of process %d (app) in container app", where, taken.Pid); !strings.Contains(st.Reason, want) {
			t.Errorf("%s: the reason is %q, want %q", address, st.Reason, want)
		}
		l.talk(l.a, l.b.Addr(portEcho))
		taken.Stop()
		l.getsReady(g)
		disable(t, l.a, g, time.Minute)
	}
}

// TestPortHeldByConnection: a gateway waits for the end of a connection that has its port by
// chance, and says after a while which it is.
func TestPortHeldByConnection(t *testing.T) {
	l := newLab(t)
	from := l.a.Addr(api.PeerPort)
	h := l.holdIn(l.a, l.a.AppCgroup, l.b.Addr(portEcho), from)
	g, st := l.waitsFor(l.spec(l.a))
	if want := fmt.Sprintf("port 18443 is held by a connection from %s to %s of process %d (", from, l.b.Addr(portEcho), h.process.Pid); !strings.HasPrefix(st.Reason, want) {
		t.Errorf("the reason is %q, want %q", st.Reason, want)
	}
	h.say("undisturbed")
	must.Do(t, h.process.Kill())
	l.getsReady(g)
	disable(t, l.a, g, time.Minute)

	// A gateway that waits can be disabled.
	l.holdIn(l.a, l.a.AppCgroup, l.b.Addr(portEcho), from)
	g = must.Get(gatewaylab.Launch(l.spec(l.a)))(t)
	t.Cleanup(g.Stop)
	eventually(t, "the gateway is disabled", func() error {
		_, err := tryAsk[api.DisableReport](t, g, nil, "disable")
		return err
	})
	checkDisabled(t, l.a, g)
}

const reservedPorts = "/proc/sys/net/ipv4/ip_local_reserved_ports"

func expectReserved(t *testing.T, n *netlab.Node, what, want string) {
	t.Helper()
	var text []byte
	if err := n.Do(func() (err error) { text, err = os.ReadFile(reservedPorts); return err }); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(text)); got != want {
		t.Errorf("%s: %q are reserved, want %q", what, got, want)
	}
}

// TestReservedPorts: outgoing connections do not get the gateway's ports by chance as long as it
// is there, nor after its death. Nothing of that is left after its end.
func TestReservedPorts(t *testing.T) {
	const (
		ports  = "/proc/sys/net/ipv4/ip_local_port_range"
		before = "9000,18443"
		during = "9000,18000,18443-18444"
	)
	l := newLab(t)
	set := func(path, text string) {
		t.Helper()
		must.Do(t, l.a.Do(func() error { return os.WriteFile(path, []byte(text), 0) }))
	}
	expect := func(what, want string) { t.Helper(); expectReserved(t, l.a, what, want) }
	set(reservedPorts, before)
	g := l.gateway(l.spec(l.a))
	expect("ready", during)

	// From the application's side: of these two ports none is to be had.
	set(ports, strconv.Itoa(api.PeerPort)+" "+strconv.Itoa(api.InbandPort))
	if conn, err := l.a.Dial("tcp", l.b.Addr(portEcho)); err == nil {
		t.Errorf("a connection got the port of %v", conn.LocalAddr().(*net.TCPAddr))
		conn.Close()
	}
	set(ports, "32768 60999")

	must.Do(t, g.Signal(syscall.SIGKILL))
	<-g.Done()
	expect("dead", during)
	g = l.gateway(l.spec(l.a))
	expect("the next one", during)
	disable(t, l.a, g, time.Minute)
	expect("disabled", before)

	g = l.gateway(strict(l.spec(l.a)))
	g.Stop()
	expect("dead", during)
	if _, words, err := l.clean(l.a, 0); err != nil {
		t.Fatalf("%v: %s", err, words)
	}
	expect("cleaned", before)
}

// TestManyToOneApplication: the gateway of an application takes in more connections than it has source ports.
func TestManyToOneApplication(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		for family, address := range map[string]func(*netlab.Node, uint16) string{"IPv4": (*netlab.Node).Addr, "IPv6": (*netlab.Node).Addr6} {
			t.Run(string(mode)+", "+family, func(t *testing.T) {
				const ports, connections = 20, 60
				l := newLab(t)
				spec := func(n *netlab.Node) gatewaylab.Spec { return with(l.spec(n), func(c *api.Config) { c.Mode = mode }) }
				l.gateway(spec(l.a))
				b := l.gateway(spec(l.b))
				must.Do(t, l.b.Do(func() error {
					return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0)
				}))
				r := l.result(l.a.Start(netlab.Command{
					Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"concurrent", address(l.b, portEcho), strconv.Itoa(connections)},
					Env: []string{"DIAL_TIMEOUT=" + patience.String()},
				}))
				if r.Count != connections || r.Error != "" {
					t.Errorf("%d of %d connections at once: %s", r.Count, connections, r.Error)
				}
				awaitStatus(t, b, "the application's gateway has counted them", func(s *api.Status) bool {
					return s.Traffic.Inbound.Encrypted >= connections
				})
			})
		}
	}
}

// sourcesRoutes lists the routes of bpf.Sources4 and bpf.Sources6 in a pod, with their interfaces.
func sourcesRoutes(t *testing.T, n *netlab.Node) (all []string) {
	t.Helper()
	must.Do(t, n.Do(func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
		for _, r := range routes {
			if r.Dst != nil && (r.Dst.String() == bpf.Sources4().String() || r.Dst.String() == bpf.Sources6().String()) {
				i, err := net.InterfaceByIndex(r.LinkIndex)
				if err != nil {
					return err
				}
				all = append(all, r.Dst.String()+" "+i.Name)
			}
		}
		return err
	}))
	slices.Sort(all)
	return all
}

// awaitSourcesRoutes waits until the routes of the gateway's addresses are those at these interfaces.
func awaitSourcesRoutes(t *testing.T, n *netlab.Node, interfaces ...string) {
	t.Helper()
	var want []string
	for _, sources := range []netip.Prefix{bpf.Sources6(), bpf.Sources4()} {
		for _, i := range interfaces {
			want = append(want, sources.String()+" "+i)
		}
	}
	slices.Sort(want)
	eventually(t, "the routes are there", func() error {
		if diff := cmp.Diff(want, sourcesRoutes(t, n)); diff != "" {
			return fmt.Errorf("routes (-want +got):\n%s", diff)
		}
		return nil
	})
}

// TestSources: the addresses from which a gateway dials applications are there as long as it is, also after
// loopback was down, with a route by each interface, and are on no interface. Nothing of them is left after its end.
func TestSources(t *testing.T) {
	l := newLab(t)
	l.gateway(l.spec(l.a))
	addresses := func() (all []string) {
		must.Do(t, l.b.Do(func() error {
			list, err := net.InterfaceAddrs()
			for _, a := range list {
				all = append(all, a.String())
			}
			return err
		}))
		return all
	}
	before := addresses()
	b := l.gateway(strict(l.spec(l.b)))
	awaitSourcesRoutes(t, l.b, "eth0", "lo")
	if diff := cmp.Diff(before, addresses()); diff != "" {
		t.Errorf("the pod's addresses (-before +with a gateway):\n%s", diff)
	}
	l.talk(l.a, l.b.Addr6(portEcho))

	must.Do(t, l.b.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		later := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "later"}, PeerName: "latest"}
		return errors.Join(netlink.LinkSetDown(lo), netlink.LinkSetUp(lo), netlink.LinkAdd(later), netlink.LinkSetUp(later),
			netlink.LinkSetUp(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "latest"}}))
	}))
	awaitSourcesRoutes(t, l.b, "eth0", "later", "latest", "lo")
	l.talk(l.a, l.b.Addr6(portEcho))

	disable(t, l.b, b, time.Minute)
	if left := sourcesRoutes(t, l.b); left != nil {
		t.Errorf("disabled: left are %v", left)
	}
	b = l.gateway(strict(l.spec(l.b)))
	must.Do(t, b.Signal(syscall.SIGKILL))
	<-b.Done()
	if _, words, err := l.clean(l.b, 0); err != nil {
		t.Fatalf("%v: %s", err, words)
	}
	if left := sourcesRoutes(t, l.b); left != nil {
		t.Errorf("cleaned: left are %v", left)
	}
}

// TestNoSources: where there is no IPv6, nothing is added, and all goes on.
func TestNoSources(t *testing.T) {
	l := newLab(t)
	for _, n := range l.net.Nodes() {
		must.Do(t, n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0) }))
	}
	l.gateway(l.spec(l.a))
	b := l.gateway(l.spec(l.b))
	for _, r := range sourcesRoutes(t, l.b) {
		if strings.HasPrefix(r, bpf.Sources6().String()) {
			t.Errorf("there is %s", r)
		}
	}
	l.talk(l.a, l.b.Addr(portEcho))
	if n := status(t, b).Traffic.Inbound; n.Encrypted == 0 {
		t.Errorf("counted %+v", n)
	}
}
