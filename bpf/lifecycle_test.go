//go:build linux

package bpf_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// supervisorMain loads and attaches as args[0], a JSON of Options, says, and then waits to be
// killed.
func supervisorMain(args []string) int {
	var o bpf.Options
	err := json.Unmarshal([]byte(args[0]), &o)
	var p *bpf.Programs
	if err == nil {
		p, err = bpf.LoadWith(o)
	}
	if err == nil {
		err = p.AttachSockets()
	}
	if err == nil {
		err = p.Spread()
	}
	if err == nil {
		err = p.StartCapture()
	}
	if err == nil {
		err = p.AttachInbound()
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

// supervise starts a supervisor and waits until it has attached everything.
func supervise(t *testing.T, n *netlab.Node, o bpf.Options) *netlab.Process {
	t.Helper()
	text, err := json.Marshal(o)
	must(t, err)
	stdin, hold, err := os.Pipe()
	must(t, err)
	p := n.Start(netlab.Command{Cgroup: n.GatewayCgroup, Helper: "supervisor", Args: []string{string(text)}, Stdin: stdin})
	stdin.Close()
	t.Cleanup(func() { hold.Close(); p.Stop() })
	await(t, func() string {
		if strings.Contains(p.Output(), "ready\n") {
			return ""
		}
		return "the supervisor is not ready: " + p.Output()
	})
	return p
}

// attached returns the names of our programs that the kernel has at a cgroup.
func attached(t *testing.T, path string) (names []string) {
	t.Helper()
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close()
	for _, kind := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupSockOps,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
		ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
	} {
		found, err := queried(link.QueryOptions{Target: int(dir.Fd()), Attach: kind})
		must(t, err)
		names = append(names, found...)
	}
	slices.Sort(names)
	return names
}

// kept is what KeepOnExit keeps of atPod.
func kept() []string { return []string{"kgw_connect4", "kgw_connect6", "kgw_sendmsg4", "kgw_sendmsg6"} }

func atPod() []string {
	return append(kept(), "kgw_getpeer4", "kgw_getpeer6", "kgw_getsock4", "kgw_getsock6", "kgw_sockops", "kgw_tune")
}

func expectAttached(t *testing.T, path string, want ...string) {
	t.Helper()
	slices.Sort(want)
	// The kernel detaches what a dead process held a moment after its end.
	await(t, func() string {
		if got := attached(t, path); !slices.Equal(got, want) {
			return fmt.Sprintf("attached to %s: %v, want %v", path, got, want)
		}
		return ""
	})
}

func TestCloseLeavesNothing(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	p := load(t, options(t, n))
	expectAttached(t, n.PodCgroup)
	for range 2 { // attaching again changes nothing
		must(t, p.AttachSockets())
		must(t, p.StartCapture())
	}
	expectAttached(t, n.PodCgroup, atPod()...)
	expectAttached(t, n.GatewayCgroup, "kgw_getsockopt", "kgw_setsockopt")
	must(t, p.StopCapture())
	expectAttached(t, n.PodCgroup, atPod()[len(kept()):]...)
	must(t, p.StartCapture())
	expectAttached(t, n.PodCgroup, atPod()...)
	must(t, p.Close())
	expectAttached(t, n.PodCgroup)
	expectAttached(t, n.GatewayCgroup)
}

func TestKeepOnExitOutlivesClose(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	o := options(t, n)
	o.KeepOnExit = true
	p := load(t, o)
	must(t, p.AttachSockets())
	must(t, p.StartCapture())
	must(t, p.Close())
	expectAttached(t, n.PodCgroup, kept()...)
	for _, want := range []int{len(kept()), 0} {
		if got, err := bpf.DetachStale(o.Pod); got != want || err != nil {
			t.Errorf("detached %d, %v, want %d", got, err, want)
		}
	}
	expectAttached(t, n.PodCgroup)
}

func TestDetachEndsTheKeptCapture(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	o := options(t, n)
	o.KeepOnExit = true
	p := load(t, o)
	must(t, p.StartCapture())
	must(t, p.Detach())
	expectAttached(t, n.PodCgroup)
}

// DetachStale must leave other gateways' links, and other projects' programs, alone.
func TestDetachStaleTakesOnlyOurs(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	p := load(t, options(t, n))
	must(t, p.StartCapture())
	foreign, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "foreign", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, Instructions: returnOne(), License: "GPL",
	})
	must(t, err)
	defer foreign.Close()
	dir, err := os.Open(n.PodCgroup)
	must(t, err)
	defer dir.Close()
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(dir.Fd()), Program: foreign, Attach: ebpf.AttachCGroupInet4Connect, Flags: 2, // BPF_F_ALLOW_MULTI
	}))
	if got, err := bpf.DetachStale(cgroup(t, n.PodCgroup)); got != 0 || err != nil {
		t.Errorf("detached %d, %v, want none", got, err)
	}
	expectAttached(t, n.PodCgroup, append(kept(), "foreign")...)
}

// A killed gateway leaves nothing, or a capture that refuses.
func TestKilledSupervisor(t *testing.T) {
	lab := netlab.New(t, 2)
	here, there := lab.Node(0), lab.Node(1)
	app := startAgent(t, here, here.AppCgroup, 1000)
	startAgent(t, there, there.OtherCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	for _, keep := range []bool{false, true} {
		o := options(t, here)
		o.KeepOnExit = keep
		p := supervise(t, here, o)
		expectAttached(t, here.PodCgroup, atPod()...)
		p.Stop()
		want, errno := []string(nil), syscall.Errno(0)
		if keep {
			want, errno = kept(), syscall.EPERM
		}
		expectAttached(t, here.PodCgroup, want...)
		if r := app.dial(dial{To: at(there.IP4, 80)}); r.Errno != errno {
			t.Errorf("keep %v: connect: %v, want %v", keep, r.Errno, errno)
		}
	}
}

// A new gateway takes over from a dead one without a moment of plaintext.
func TestTakeOver(t *testing.T) {
	lab := netlab.New(t, 2)
	here, there := lab.Node(0), lab.Node(1)
	startAgent(t, there, there.OtherCgroup, 0).do(request{Serve: &serve{Network: "tcp", Address: ":80"}})
	app := startAgent(t, here, here.AppCgroup, 1000)
	o := options(t, here)
	o.KeepOnExit, o.Strict = true, true
	supervise(t, here, o).Stop()
	expectAttached(t, here.PodCgroup, kept()...)

	// The application keeps trying.
	var stop atomic.Bool
	var refused, broken, captured, leaked int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load() || captured == 0 && i < 10_000; i++ {
			d := dial{To: at(there.IP4, 80)}
			if i%2 == 1 {
				d = dial{To: at(there.IP6, 80), Six: true}
			}
			switch r := app.ask(request{Dial: &d}); {
			case r.Errno == syscall.EPERM:
				refused++
			case r.Seen != nil && r.Seen.Original == d.To:
				captured++
			case r.Seen != nil && r.Seen.Error == "not captured":
				broken++ // it came through the old program: the gateway drops it
			case r.Seen != nil:
				leaked++
			default:
				broken++
			}
		}
	}()

	// The new one is in a container, and a cgroup, of its own.
	next := here.GatewayCgroup + "-2"
	must(t, os.Mkdir(next, 0o755))
	o.Own = cgroup(t, next)
	p := load(t, o)
	must(t, p.AttachSockets())
	startAgent(t, here, next, api.WorkerID).do(request{Gateway: &gateway{gatewayAddresses()}})
	must(t, p.StartCapture())
	expectAttached(t, here.PodCgroup, atPod()...)
	stop.Store(true)
	<-done
	if leaked != 0 || captured == 0 {
		t.Errorf("%d connections leaked, %d captured, %d refused, %d broken", leaked, captured, refused, broken)
	}
	t.Logf("%d refused, %d broken, %d captured", refused, broken, captured)
}

// Containers of the pod come and go: what they start later is captured as well.
func TestRestartedContainer(t *testing.T) {
	s := setUp(t, nil)
	again := s.here.AppCgroup + "-restarted"
	must(t, os.Mkdir(again, 0o755))
	s.app = startAgent(t, s.here, again, 1000)
	s.captured("application in a new cgroup", dial{To: at(s.there.IP4, 80)})
}

// Without root nothing loads, and the error is one line.
func TestLoadErrorIsOneLine(t *testing.T) {
	n := netlab.New(t, 1).Node(0)
	text, _ := json.Marshal(options(t, n))
	p := n.Start(netlab.Command{Cgroup: n.GatewayCgroup, Helper: "supervisor", Args: []string{string(text)}, User: 1000})
	if err := p.Wait(); err == nil {
		t.Fatal("an ordinary user has loaded the programs")
	}
	if out := p.Output(); strings.Count(out, "\n") != 1 || !strings.Contains(out, "not permitted") {
		t.Errorf("output %q", out)
	}
}

func returnOne() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
}
