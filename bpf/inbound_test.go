//go:build linux

package bpf_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// inNamespace returns what the kernel has in a node's network namespace, as "<hook>
// <interface> <name>", for every hook that a gateway could use, and clsact.
func inNamespace(t *testing.T, n *netlab.Node) (found []string) {
	t.Helper()
	err := n.Do(func() error {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		names, err := queried(link.QueryOptions{Target: int(ns.Fd()), Attach: ebpf.AttachSkLookup})
		if err != nil {
			return err
		}
		for _, name := range names {
			found = append(found, "lookup "+name)
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			at, err := onInterface(l)
			if err != nil {
				return err
			}
			found = append(found, at...)
		}
		return nil
	})
	must(t, err)
	slices.Sort(found)
	return found
}

func onInterface(l netlink.Link) (found []string, err error) {
	name := l.Attrs().Name
	for hook, kind := range map[string]ebpf.AttachType{"tcx": ebpf.AttachTCXIngress, "tcx egress": ebpf.AttachTCXEgress} {
		programs, err := queried(link.QueryOptions{Target: l.Attrs().Index, Attach: kind})
		if err != nil && hasTCX() {
			return nil, err
		}
		for _, p := range programs {
			found = append(found, hook+" "+name+" "+p)
		}
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		if q.Type() != "noqueue" {
			found = append(found, "qdisc "+name+" "+q.Type())
		}
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil {
			continue // without a qdisc there is nothing to list
		}
		for _, f := range filters {
			if f, ok := f.(*netlink.BpfFilter); ok {
				found = append(found, "filter "+name+" "+f.Name)
			}
		}
	}
	return found, nil
}

func queried(o link.QueryOptions) (names []string, err error) {
	list, err := link.QueryPrograms(o)
	if err != nil {
		return nil, err
	}
	for _, each := range list.Programs {
		p, err := ebpf.NewProgramFromID(each.ID)
		if err != nil {
			continue // it went in the meantime
		}
		if info, err := p.Info(); err == nil {
			names = append(names, info.Name)
		}
		p.Close()
	}
	return names, nil
}

// hasTCX reports whether the kernel has tcx (Linux 6.6): loopback can be asked for programs.
func hasTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
	return err == nil
}

// byDefault is what a gateway attaches that fails open.
func byDefault() []string {
	if !hasTCX() {
		return byClsact()
	}
	return []string{"lookup kgw_lookup", "tcx eth0 kgw_ingress", "tcx egress eth0 kgw_egress"}
}

func byClsact() []string { return append(keptInside(), "lookup kgw_lookup") }

// keptInside is what KeepOnExit keeps of byClsact.
func keptInside() []string { return filtersOn("eth0") }

func filtersOn(name string) []string {
	return []string{"filter " + name + " kgw_egress", "filter " + name + " kgw_ingress", "qdisc " + name + " clsact"}
}

func expectInside(t *testing.T, n *netlab.Node, want ...string) {
	t.Helper()
	slices.Sort(want)
	await(t, func() string {
		if got := inNamespace(t, n); !slices.Equal(got, want) {
			return fmt.Sprintf("in the namespace: %q, want %q", got, want)
		}
		return ""
	})
}

func TestInboundLeavesNothing(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		n := netlab.New(t, 1).Node(0)
		want := byDefault()
		if clsact {
			want = byClsact()
		}
		for name, end := range map[string]func(*bpf.Programs) error{"Close": (*bpf.Programs).Close, "Detach": (*bpf.Programs).Detach} {
			p := load(t, options(t, n))
			if clsact {
				p.WithoutTCX()
			}
			for range 2 { // attaching again changes nothing
				must(t, n.Do(p.AttachInbound))
				expectInside(t, n, want...)
			}
			if got := p.Attached(); !slices.Equal(got, []string{"kgw_egress", "kgw_ingress", "kgw_lookup"}) {
				t.Errorf("attached %v", got)
			}
			if err := end(p.Programs); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			expectInside(t, n)
			if got := p.Attached(); len(got) != 0 {
				t.Errorf("attached after %s: %v", name, got)
			}
		}
	})
}

func detachStaleInbound(t *testing.T, n *netlab.Node) (filters int) {
	t.Helper()
	must(t, n.Do(func() (err error) {
		filters, err = bpf.DetachStaleInbound()
		return err
	}))
	return filters
}

func TestInboundKeptOnExit(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	o := options(t, n)
	o.KeepOnExit = true
	p := load(t, o)
	must(t, n.Do(p.AttachInbound))
	expectInside(t, n, byClsact()...)
	must(t, p.Close())
	expectInside(t, n, keptInside()...)
	for _, want := range []int{2, 0} {
		if got := detachStaleInbound(t, n); got != want {
			t.Errorf("detached %d filters, want %d", got, want)
		}
	}
	expectInside(t, n)

	p = load(t, o)
	must(t, n.Do(p.AttachInbound))
	must(t, p.Detach())
	expectInside(t, n)
}

// A new gateway replaces what a dead one left, with tcx and with clsact.
func TestInboundTakesOver(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	for _, keep := range []bool{false, true} {
		o := options(t, n)
		o.KeepOnExit = true
		old := load(t, o)
		must(t, n.Do(old.AttachInbound))
		old.Close()
		expectInside(t, n, keptInside()...)

		o.KeepOnExit = keep
		p := load(t, o)
		must(t, n.Do(p.AttachInbound))
		want := byDefault()
		if keep {
			want = byClsact()
		}
		expectInside(t, n, want...)
		must(t, p.Detach())
		expectInside(t, n)
	}
}

// Other projects' filters, and the clsact that they need, stay.
func TestForeignFiltersStay(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, Instructions: returnOne(), License: "GPL"})
	must(t, err)
	defer foreign.Close()
	must(t, n.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		at := eth0.Attrs().Index
		if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: at, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		}}); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: at, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
			Fd:          foreign.FD(), Name: "foreign", DirectAction: true,
		})
	}))
	others := []string{"filter eth0 foreign", "qdisc eth0 clsact"}
	expectInside(t, n, others...)
	o := options(t, n)
	o.KeepOnExit = true
	p := load(t, o)
	must(t, n.Do(p.AttachInbound))
	expectInside(t, n, append(others, "filter eth0 kgw_egress", "filter eth0 kgw_ingress", "lookup kgw_lookup")...)
	p.Close()
	detachStaleInbound(t, n)
	expectInside(t, n, others...)
}

// After a gateway was killed, clients reach the application in plaintext, or nobody if it
// fails closed. Without tcx the filter of a gateway that fails open stays, and steers for as
// long as the worker listens.
func TestKilledSupervisorInbound(t *testing.T) {
	lab := netlab.New(t, 2)
	here, there := lab.Node(0), lab.Node(1)
	outside := startAgent(t, there, there.OtherCgroup, 0)
	startAgent(t, here, here.AppCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	four, six := dial{To: at(here.IP4, 80)}, dial{To: at(here.IP6, 80), Six: true}
	for _, keep := range []bool{false, true} {
		o := options(t, here)
		o.KeepOnExit, o.Strict = keep, true
		s := supervise(t, here, o)
		// The worker, and with it the listeners, may outlive the supervisor for a while.
		worker := startAgent(t, here, here.GatewayCgroup, api.WorkerID)
		worker.do(request{Gateway: &gateway{inbandAddresses()}})
		for _, d := range []dial{four, six} {
			if r := outside.dial(d); r.Errno != syscall.ECONNREFUSED {
				t.Errorf("alive: %+v", r)
			}
		}
		s.Stop()
		stays, want := keep || !hasTCX(), []string(nil)
		if stays {
			want = keptInside()
		}
		expectInside(t, here, want...)
		for _, d := range []dial{four, six} {
			r := outside.dial(d)
			if stays && r.Errno != syscall.ECONNREFUSED || !stays && (r.Seen == nil || r.Seen.Inband) {
				t.Errorf("keep %v, worker alive: %+v", keep, r)
			}
		}
		worker.do(request{Stop: true})
		extended := six
		extended.Extended = true
		for _, d := range []dial{four, six, extended} {
			if keep {
				unreachable(t, outside, d)
				continue
			}
			if r := outside.dial(d); r.Seen == nil || r.Seen.Inband {
				t.Errorf("keep %v: %+v", keep, r)
			}
		}
	}
}

// No plaintext slips in while a new gateway takes over from one that failed closed.
func TestInboundTakesOverWithoutGap(t *testing.T) {
	for _, keep := range []bool{true, false} {
		lab := netlab.New(t, 2)
		here, there := lab.Node(0), lab.Node(1)
		startAgent(t, here, here.AppCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
		o := options(t, here)
		o.KeepOnExit, o.Strict = true, true
		supervise(t, here, o).Stop()
		expectInside(t, here, keptInside()...)

		// Each of these keeps trying until a gateway answers, with a reset.
		const clients = 50
		var stop atomic.Bool
		results := make(chan string, clients)
		for i := range clients {
			address := here.Addr(80)
			if i%2 == 1 {
				address = here.Addr6(80)
			}
			go func() {
				last := ""
				for last = probe(there, address); last == "" && !stop.Load(); last = probe(there, address) {
				}
				results <- last
			}()
		}
		next := here.GatewayCgroup + "-2"
		must(t, os.Mkdir(next, 0o755))
		o.Own, o.KeepOnExit = cgroup(t, next), keep
		p := load(t, o)
		must(t, p.AttachSockets())
		startAgent(t, here, next, api.WorkerID).do(request{Gateway: &gateway{inbandAddresses()}})
		must(t, here.Do(p.AttachInbound))
		await(t, func() string {
			if c := p.counters(); c.PlaintextRefused == 0 {
				return fmt.Sprintf("keep %v: nobody came to the new gateway: %+v", keep, c)
			}
			return ""
		})
		stop.Store(true)
		for range clients {
			if leaked := <-results; leaked != "" {
				t.Errorf("keep %v: the application has answered: %s", keep, leaked)
			}
		}
	}
}

// probe dials and returns what the other end has said before the connection ended.
func probe(from *netlab.Node, address string) string {
	c, err := from.Dial("tcp", address)
	if err != nil {
		return ""
	}
	defer c.Close()
	text, _ := io.ReadAll(c)
	return string(text)
}

func TestAttachInboundErrors(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	o := options(t, n)
	o.PodIPs = o.PodIPs[:1]
	o.PodIPs[0] = o.PodIPs[0].Next()
	p := load(t, o)
	err := n.Do(p.AttachInbound)
	if err == nil || !strings.Contains(err.Error(), "no interface has an address of the pod") {
		t.Errorf("error %v", err)
	}
	expectInside(t, n)
	if err := p.StartCapture(); err != nil {
		t.Errorf("the rest goes on: %v", err)
	}
}

// Interfaces that the pod gets later have the programs too, and those that go leave nothing.
func TestInterfacesThatComeLater(t *testing.T) {
	both(t, func(t *testing.T, clsact bool) {
		lab := netlab.New(t, 2)
		n := lab.Node(0)
		p := load(t, options(t, n))
		want := byDefault()
		if clsact {
			p.WithoutTCX()
			want = byClsact()
		}
		must(t, n.Do(p.AttachInbound))
		p.follow(n)
		for range 2 {
			must(t, n.AddLink(lab.Node(1), "net1"))
			with := []string{"tcx net1 kgw_ingress", "tcx egress net1 kgw_egress"}
			if clsact || !hasTCX() {
				with = filtersOn("net1")
			}
			expectInside(t, n, append(with, want...)...)
			must(t, n.RemoveLink("net1"))
			expectInside(t, n, want...)
		}
		must(t, n.AddLink(lab.Node(1), "net2"))
		await(t, func() string {
			if got := inNamespace(t, n); len(got) == len(want) {
				return fmt.Sprintf("in the namespace: %q", got)
			}
			return ""
		})
		must(t, p.Detach())
		expectInside(t, n)
	})
}
