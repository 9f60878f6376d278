//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestTwoGateways follows connections of every family through both gateways:
// what the applications see, and what the gateways say of it.
func TestTwoGateways(t *testing.T) {
	l := newLab(t)
	ga, gb := l.gateway(l.spec(l.a)), l.gateway(l.spec(l.b))
	for _, c := range []struct{ verb, address, peer string }{
		{"talk", l.b.Addr(portEcho), l.b.Addr(portEcho)},
		{"talk", l.b.Addr6(portEcho), l.b.Addr6(portEcho)},
		{"mapped", l.b.Addr(portEcho), "[::ffff:" + l.b.IP4.String() + "]:9000"},
	} {
		r := l.client(l.a, l.a.AppCgroup, c.verb, c.address, "hello")
		if r.Error != "" || r.Received != "hello\n" || r.Peer != c.peer {
			t.Errorf("%s %s: %+v", c.verb, c.address, r)
		}
	}
	r := l.client(l.a, l.a.AppCgroup, "first", l.b.Addr(portServerFirst), "hello")
	if want := "hello " + r.Local + " from " + l.b.Addr(portServerFirst) + "\n"; !strings.HasPrefix(r.Received, want) {
		t.Errorf("the server said %q, want %q", r.Received, want)
	}
	if got := addrPort(t, r.Local).Addr(); got != l.a.IP4 {
		t.Errorf("the client's own address is %v", got)
	}

	mine := func(c *api.Connection) bool { return c.Source.String() == r.Local }
	out, in := connection(t, ga, "the client's side", mine), connection(t, gb, "the server's side", mine)
	if out.Direction != api.Outbound || in.Direction != api.Inbound || out.Destination != in.Destination {
		t.Errorf("the two lines are %+v and %+v", out, in)
	}
	for name, c := range map[string]api.Connection{l.b.IP4.String(): out, l.a.IP4.String(): in} {
		if want := "spiffe://lab.test/ns/lab/sa/pod-" + name; !c.Encrypted || c.Wire != api.WirePort || c.Peer != want || c.Error != "" {
			t.Errorf("line %+v, want peer %s", c, want)
		}
	}
	if out.Sent != in.Received || out.Received != in.Sent || out.Sent == 0 {
		t.Errorf("bytes: client's side %d/%d, server's side %d/%d", out.Sent, out.Received, in.Sent, in.Received)
	}
	s := status(t, ga)
	if s.Traffic.Outbound.Encrypted != 4 || s.Capture.Captured != 4 || s.Traffic.Outbound.Plaintext != 0 {
		t.Errorf("status counts %+v, captured %d", s.Traffic.Outbound, s.Capture.Captured)
	}
}

// expectUnprivileged reads what the kernel says of a process of the gateway, which is to
// run as user and group id.
func expectUnprivileged(t *testing.T, name string, pid, id int) {
	t.Helper()
	dir := "/proc/" + strconv.Itoa(pid)
	text := must.Get(os.ReadFile(dir + "/status"))(t)
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	// All threads have the filter.
	for _, thread := range must.Get(filepath.Glob(dir + "/task/*/status"))(t) {
		// A thread may end meanwhile.
		if text, err := os.ReadFile(thread); err == nil && !strings.Contains(string(text), "\nSeccomp:\t2\n") {
			t.Errorf("a thread of the %s has no filter: %s", name, text)
		}
	}
	ids, none := strings.TrimSpace(strings.Repeat(strconv.Itoa(id)+" ", 4)), strings.Repeat("0", 16)
	for field, want := range map[string]string{
		"Uid": ids, "Gid": ids, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2", "THP_enabled": "0",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
	} {
		if fields[field] != want {
			t.Errorf("%s of the %s is %q, want %q", field, name, fields[field], want)
		}
	}
	// A process that is not dumpable belongs to root in /proc, so its user
	// cannot read its memory.
	info := must.Get(os.Stat(dir + "/mem"))(t)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("the memory of the %s belongs to user %d", name, uid)
	}
}

// hasLandlock asks the kernel.
func hasLandlock() bool {
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return errno == 0
}

// TestWorkerIsUnprivileged reads what the kernel says of both processes.
func TestWorkerIsUnprivileged(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	worker := status(t, g).Worker
	expectUnprivileged(t, "worker", worker.PID, api.WorkerID)
	if c := worker.Confinement; !c.Seccomp || hasLandlock() != (c.Landlock > 0) {
		t.Errorf("the status says %+v", c)
	}
	for _, pid := range []int{worker.PID, g.Pid} {
		environ := must.Get(os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ"))(t)
		if strings.Contains(string(environ), "PRIVATE KEY") || strings.Contains(string(environ), api.EnvKey) {
			t.Errorf("the environment of process %d holds the key", pid)
		}
	}
	// One is its standard input, with the other sockets are closed.
	nulls := 0
	for _, f := range must.Get(os.ReadDir("/proc/" + strconv.Itoa(worker.PID) + "/fd"))(t) {
		target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(worker.PID), "fd", f.Name()))
		if err == nil && target == os.DevNull {
			nulls++
		}
	}
	if nulls != 2 {
		t.Errorf("the worker has %s open %d times", os.DevNull, nulls)
	}
}

// TestWorkerDies kills the worker: connections that come meanwhile wait for
// the next one, and the totals survive.
func TestWorkerDies(t *testing.T) {
	l := newLab(t)
	ga := l.gateway(l.spec(l.a))
	l.gateway(l.spec(l.b))
	l.talk(l.a, l.b.Addr(portEcho))
	before := status(t, ga)
	must.Do(t, syscall.Kill(before.Worker.PID, syscall.SIGKILL))
	l.talk(l.a, l.b.Addr(portEcho))
	after := status(t, ga)
	if after.Worker.Restarts != 1 || after.Worker.PID == before.Worker.PID {
		t.Errorf("the worker before and after: %+v, %+v", before.Worker, after.Worker)
	}
	awaitStatus(t, ga, "both connections are counted", func(s *api.Status) bool {
		return s.Traffic.Outbound.Encrypted == 2 && s.Traffic.Outbound.Active == 0
	})
}

// TestWorkerReturns kills workers as the kernel does for want of memory, and prints how long it takes until
// the next one serves: within 300 ms at the median, unless the machine is busy. Deaths that follow one
// another wait for longer and longer.
func TestWorkerReturns(t *testing.T) {
	l := newLab(t)
	var took []time.Duration
	for _, n := range []*netlab.Node{l.a, l.b} {
		g := l.gateway(l.spec(n))
		for deaths := range 2 {
			started := time.Now()
			must.Do(t, syscall.Kill(status(t, g).Worker.PID, syscall.SIGKILL))
			for s := status(t, g); s.State != api.Ready || s.Worker.Restarts != deaths+1; s = status(t, g) {
				if time.Since(started) > patience {
					t.Fatalf("the worker has not returned: %s, %+v", s.State, s.Worker)
				}
				time.Sleep(time.Millisecond)
			}
			took = append(took, time.Since(started))
		}
	}
	l.talk(l.a, l.b.Addr(portEcho))
	t.Logf("killed workers were replaced within %v, median %v", took, slices.Sorted(slices.Values(took))[len(took)/2])
}

// TestOneGateway: permissive falls back to plaintext, strict does not.
func TestOneGateway(t *testing.T) {
	l := newLab(t)
	g := l.gateway(l.spec(l.a))
	l.talk(l.a, l.b.Addr(portEcho))
	c := connection(t, g, "the plaintext connection", func(c *api.Connection) bool { return !c.Encrypted })
	if c.Wire != api.WireNone || c.Reason == "" || c.Destination != addrPort(t, l.b.Addr(portEcho)) {
		t.Errorf("its line is %+v", c)
	}
	l.talk(l.b, l.a.Addr(portEcho))
	// A pod's own addresses are not captured.
	l.talk(l.a, l.a.Addr(portEcho))
	if s := status(t, g); s.Capture.Captured != 1 || s.Traffic.Outbound.Plaintext != 1 {
		t.Errorf("captured %d, %+v", s.Capture.Captured, s.Traffic.Outbound)
	}
	if err := g.End(); err != nil {
		t.Fatalf("%v\n%s", err, g.Output())
	}

	l.gateway(strict(l.spec(l.a)))
	l.refused(l.a, l.b.Addr(portEcho), "by a strict gateway")
	// What is not the pod is never captured.
	if r := l.client(l.a, l.a.OtherCgroup, "talk", l.b.Addr(portEcho), "hello"); r.Error != "" {
		t.Errorf("another pod was affected: %+v", r)
	}
}

// TestGatewayEnds looks at what is left after a gateway has ended in each way,
// and that the next one takes over.
func TestGatewayEnds(t *testing.T) {
	l := newLab(t)
	l.gateway(l.spec(l.b))
	stale := func() int {
		pod := must.Get(bpf.OpenCgroup(l.a.PodCgroup))(t)
		n := must.Get(bpf.DetachStale(pod))(t)
		return n
	}
	for _, c := range []struct {
		onFailure api.OnFailure
		end       func(*gatewaylab.Gateway) error
		works     bool
	}{
		{api.FailOpen, (*gatewaylab.Gateway).End, true},
		{api.FailOpen, kill, true},
		{api.FailClosed, kill, false},
	} {
		spec := l.spec(l.a)
		spec.OnFailure = c.onFailure
		g := l.gateway(spec)
		l.talk(l.a, l.b.Addr(portEcho))
		if err := c.end(g); err != nil {
			t.Errorf("on failure %s: %v\n%s", c.onFailure, err, g.Output())
		}
		r := l.client(l.a, l.a.AppCgroup, "talk", l.b.Addr(portEcho), "hello")
		if worked := r.Error == ""; worked != c.works || r.NotPermitted == c.works {
			t.Errorf("on failure %s: without the gateway %+v", c.onFailure, r)
		}
		if c.works {
			if n := stale(); n != 0 {
				t.Errorf("on failure %s: %d programs are left", c.onFailure, n)
			}
		}
	}
	// The closed capture of the dead gateway is still there.
	g := l.gateway(l.spec(l.a))
	l.talk(l.a, l.b.Addr(portEcho))
	if err := g.End(); err != nil {
		t.Error(err)
	}
	if n := stale(); n != 0 {
		t.Errorf("%d programs of a dead gateway were not removed by the next", n)
	}
}

// kill ends a gateway as the kernel does when memory runs out.
func kill(g *gatewaylab.Gateway) error {
	g.Stop()
	return nil
}

// TestManyConnections makes 100,000 connections, a few at a time, after which
// nothing may be left.
func TestManyConnections(t *testing.T) {
	l := newLab(t)
	ga, gb := l.gateway(quiet(l.spec(l.a))), l.gateway(quiet(l.spec(l.b)))
	const warm, n, clients = 104, 100_000, 8
	sequence := func(n int) {
		t.Helper()
		var running []*netlab.Process
		for range clients {
			running = append(running, l.a.Start(netlab.Command{
				Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"sequence", l.b.Addr(portEcho), strconv.Itoa(n / clients)},
			}))
		}
		for _, p := range running {
			if r := l.result(p); r.Error != "" || r.Count != n/clients {
				t.Fatalf("%d connections: %+v", n/clients, r)
			}
		}
	}
	idle := func() {
		t.Helper()
		for _, g := range []*gatewaylab.Gateway{ga, gb} {
			awaitStatus(t, g, "no connection is open", func(s *api.Status) bool { return s.Traffic.Outbound.Active+s.Traffic.Inbound.Active == 0 })
		}
	}
	sequence(warm)
	idle()
	before := descriptors(t, ga) + descriptors(t, gb)
	sequence(n)
	idle()
	// Idle connections between the gateways stay for a while.
	eventually(t, "no more file descriptors than before", func() error {
		if after := descriptors(t, ga) + descriptors(t, gb); after > before {
			return fmt.Errorf("%d before, %d after", before, after)
		}
		return nil
	})
	if s := status(t, ga).Traffic.Outbound; s.Encrypted != warm+n {
		t.Errorf("counted %+v", s)
	}
}

// quiet gives a gateway a log that nobody keeps.
func quiet(s gatewaylab.Spec) gatewaylab.Spec {
	s.Log = discard{}
	return s
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// descriptors counts the open files of a gateway's worker.
func descriptors(t *testing.T, g *gatewaylab.Gateway) int {
	t.Helper()
	list := must.Get(os.ReadDir("/proc/" + strconv.Itoa(status(t, g).Worker.PID) + "/fd"))(t)
	return len(list)
}

// TestBadStart: whatever keeps a gateway from working is its last word.
func TestBadStart(t *testing.T) {
	l := newLab(t)
	taken := l.a.Start(netlab.Command{Cgroup: l.a.AppCgroup, Path: l.app, Args: []string{"listen", ":18443"}})
	says(t, taken, "listening")
	spec := l.spec(l.a)
	spec.PortTimeout = time.Millisecond
	l.fails("with its port taken", spec, "port 18443 is held by a listener at [::]:18443 of process "+strconv.Itoa(taken.Pid)+" (app) in container app", "hint:")

	wrong := l.spec(l.b)
	node := *l.b
	node.UID = "00000000-0000-4000-8000-000000000000"
	wrong.Node = &node
	l.fails("in a cgroup that is not the pod's", wrong, "cgroup")
	if code := run([]string{"supervise"}, nil, os.Stdout, os.Stderr); code != 1 {
		t.Errorf("without material: exit %d", code)
	}
}
