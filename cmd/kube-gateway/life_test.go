//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
	"github.com/kubectl-gateway/kubectl-gateway/test/e2e/app/appreport"
)

// What the tests of a gateway's end have in common: constant traffic of which both
// ends check every byte, and a look at what the kernel holds.

// portTraffic is another port of test/e2e/app.
const portTraffic = 9003

// traffic is constant traffic from one pod to others.
type traffic struct {
	l       *lab
	process *netlab.Process
	input   io.Closer
}

// openAtOnce is how many connections to each target traffic has at a time.
const openAtOnce = 4 + 2

// trafficSummary is what it comes to, as its program prints it.
type trafficSummary struct{ appreport.Traffic }

// traffic starts constant traffic from n: for each target connections that are held
// for the time life (0 is for ever) with messages both ways, and new ones all the time.
func (l *lab) traffic(n *netlab.Node, life time.Duration, targets ...string) *traffic {
	l.t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	args := []string{"traffic", "-stdin", "-held", "4", "-interval", "5ms", "-life", life.String(), "-workers", "2", "-pause", "1ms"}
	p := n.Start(netlab.Command{Cgroup: n.AppCgroup, Path: l.app, Args: append(args, targets...), Stdin: read})
	read.Close()
	l.t.Cleanup(func() { write.Close() })
	return &traffic{l, p, write}
}

// stop ends the traffic and returns what it came to.
func (tr *traffic) stop() trafficSummary {
	tr.l.t.Helper()
	tr.input.Close()
	if err := tr.process.Wait(); err != nil {
		tr.l.t.Fatalf("traffic: %v\n%s", err, tr.process.Output())
	}
	var s trafficSummary
	if err := json.Unmarshal([]byte(tr.process.Output()), &s); err != nil {
		tr.l.t.Fatalf("traffic: %v in %q", err, tr.process.Output())
	}
	tr.l.t.Logf("%d requests, %d messages, %d failures, longest wait %v, longest gap %v",
		s.Requests, s.Messages, s.Failures, s.LongestWait, s.LongestGap)
	return s
}

// undamaged fails the test if bytes were lost, doubled or altered, or if an end came
// where none was.
func (s *trafficSummary) undamaged(t *testing.T) {
	t.Helper()
	if s.Damage != (appreport.Damage{}) || s.Requests == 0 || s.Messages == 0 {
		t.Errorf("damage: %+v", s)
	}
}

// perfect fails the test if anything failed at all.
func (s *trafficSummary) perfect(t *testing.T) {
	t.Helper()
	s.undamaged(t)
	if s.Failures != 0 {
		t.Errorf("%d failures: %+v", s.Failures, s.Failed)
	}
}

// served waits until no connection is open at the servers of a pod, and returns what
// they saw.
func (l *lab) served(n *netlab.Node) (s appreport.Served) {
	l.t.Helper()
	eventually(l.t, "the servers' connections have ended", func() (err error) {
		if s, err = l.askServed(n); err == nil && s.Open() != 0 {
			err = fmt.Errorf("%d are open", s.Open())
		}
		return err
	})
	if s.Damage != (appreport.Damage{}) || s.Failed != 0 {
		l.t.Errorf("damage at the servers of %v: %+v", n.IP4, s)
	}
	return s
}

// askServed asks the servers of a pod what they have seen so far.
func (l *lab) askServed(n *netlab.Node) (s appreport.Served, err error) {
	l.t.Helper()
	p := n.Start(netlab.Command{Cgroup: n.AppCgroup, Path: l.app, Args: []string{"served"}})
	if err := p.Wait(); err != nil {
		return s, fmt.Errorf("%w: %s", err, p.Output())
	}
	return s, json.Unmarshal([]byte(p.Output()), &s)
}

// kernelObjects are programs and maps by their numbers.
type kernelObjects struct {
	programs []ebpf.ProgramID
	maps     []ebpf.MapID
}

// objectsOf returns the programs that are attached to a pod, and their maps. It asks
// the kernel and not the gateway.
func objectsOf(t *testing.T, n *netlab.Node) (o kernelObjects) {
	t.Helper()
	return objectsIn(t, n, n.GatewayCgroup)
}

// objectsIn is objectsOf for a gateway in a certain container.
func objectsIn(t *testing.T, n *netlab.Node, gateway string) (o kernelObjects) {
	t.Helper()
	note := func(target int, kinds ...ebpf.AttachType) {
		for _, kind := range kinds {
			list, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: kind})
			if err != nil {
				t.Fatalf("hook %v: %v", kind, err)
			}
			for _, p := range list.Programs {
				o.programs = append(o.programs, p.ID)
			}
		}
	}
	for path, kinds := range map[string][]ebpf.AttachType{
		n.PodCgroup: {
			ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
			ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupSockOps,
			ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
			ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
		},
		gateway: {ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt},
	} {
		dir := must.Get(os.Open(path))(t)
		defer dir.Close()
		note(int(dir.Fd()), kinds...)
	}
	must.Do(t, n.Do(func() error {
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		defer ns.Close()
		note(int(ns.Fd()), ebpf.AttachSkLookup)
		return nil
	}))
	for _, id := range o.programs {
		program := must.Get(ebpf.NewProgramFromID(id))(t)
		info, err := program.Info()
		program.Close()
		if err != nil {
			t.Fatal(err)
		}
		maps, _ := info.MapIDs()
		o.maps = append(o.maps, maps...)
	}
	slices.Sort(o.maps)
	o.maps = slices.Compact(o.maps)
	return o
}

// left returns which of o the kernel still has.
func (o *kernelObjects) left() (names []string) {
	for _, id := range o.programs {
		if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, fs.ErrNotExist) {
			p.Close()
			names = append(names, fmt.Sprintf("program %d", id))
		}
	}
	for _, id := range o.maps {
		if m, err := ebpf.NewMapFromID(id); !errors.Is(err, fs.ErrNotExist) {
			m.Close()
			names = append(names, fmt.Sprintf("map %d", id))
		}
	}
	return names
}

// leftovers returns what gateways have attached in a pod.
func leftovers(t *testing.T, n *netlab.Node) (left []string) {
	t.Helper()
	pod := must.Get(bpf.OpenCgroup(n.PodCgroup))(t)
	must.Do(t, n.Do(func() (err error) {
		left, err = bpf.Leftovers(pod)
		return err
	}))
	return left
}

// disable disables a gateway by the command that the plugin runs, and checks that it
// ends as it should and that nothing of it is left.
func disable(t *testing.T, n *netlab.Node, g *gatewaylab.Gateway, drain time.Duration) api.DisableReport {
	t.Helper()
	objects := objectsIn(t, n, g.Cgroup)
	if len(objects.programs) < 12 || len(objects.maps) < 8 {
		t.Fatalf("only %d programs and %d maps are seen of a gateway that runs", len(objects.programs), len(objects.maps))
	}
	report := ask[api.DisableReport](t, g, "disable", "--drain-timeout", drain.String())
	checkDisabled(t, n, g)
	if left := append(objects.left(), report.Left...); len(left) > 0 {
		t.Errorf("left in the kernel: %q", left)
	}
	return *report
}

// checkDisabled waits for the end of a gateway that was disabled.
func checkDisabled(t *testing.T, n *netlab.Node, g *gatewaylab.Gateway) {
	t.Helper()
	if err := ended(t, g); err != nil {
		t.Errorf("the gateway's end: %v\n%s", err, g.Output())
	}
	if words, err := g.LastWords(); err != nil || words != api.DisabledMessage {
		t.Errorf("the termination message is %q, %v", words, err)
	}
	if left := leftovers(t, n); len(left) > 0 {
		t.Errorf("attached in the pod: %q", left)
	}
}

// end ends a connection that is held.
func (h *held) end() {
	h.t.Helper()
	if c, ok := h.input.(io.Closer); ok {
		c.Close()
	}
	if err := h.process.Wait(); err != nil {
		h.t.Fatalf("%v: %s", err, h.process.Output())
	}
}
