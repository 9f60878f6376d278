//go:build linux && guest

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

const (
	mebi      = 1 << 20
	portSmall = 9500
	// ephemeral is the oom_score_adj that the kubelet gives to an ephemeral container of a
	// Burstable pod, application that of a container that requests a tenth of the node's memory.
	ephemeral   = 999
	application = 900
)

// pressedLab is a lab whose first pod has little memory.
type pressedLab struct {
	*lab
	ga, gb *gatewaylab.Gateway
}

// pressed returns a lab whose first pod has so much more memory than the applications in it take.
// memory.oom.group is that of the gateway's container.
func pressed(t *testing.T, mib int, mode api.Mode, group bool) *pressedLab {
	t.Helper()
	if !netlab.HasMemory() {
		t.Fatal("the memory controller is not in cgroup2 here: this runs in the guests of test/kernels")
	}
	l := &pressedLab{lab: newLab(t)}
	l.limit(512 * mebi)
	// The other pod has enough.
	must.Do(t, l.b.LimitMemory(1024*mebi))
	server := l.small("serve", strconv.Itoa(portSmall))
	says(t, server, "serving")
	client := l.small("idle", "0", l.b.Addr(portEcho))
	l.smallResult(client)
	l.limit(l.bytes("memory.current") + mib*mebi)
	client.Stop()
	if group {
		must.Do(t, os.WriteFile(filepath.Join(l.a.GatewayCgroup, "memory.oom.group"), []byte("1"), 0))
	}
	l.gb = l.gateway(quiet(l.spec(l.b)))
	spec := l.spec(l.a)
	spec.Mode = mode
	asAdjusted(t, ephemeral, func() { l.ga = l.gateway(spec) })
	t.Cleanup(func() {
		if t.Failed() {
			text := l.ga.Output()
			t.Logf("the gateway says:\n%s", text[max(0, len(text)-4096):])
		}
	})
	l.report("ready")
	return l
}

// asAdjusted has what start starts inherit an oom_score_adj.
func asAdjusted(t *testing.T, adj int, start func()) {
	t.Helper()
	write := func(adj int) {
		must.Do(t, os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(adj)), 0))
	}
	write(adj)
	defer write(0)
	start()
}

func (l *pressedLab) limit(bytes int) {
	l.t.Helper()
	must.Do(l.t, l.a.LimitMemory(bytes))
}

// bytes returns the number in a file of the first pod's cgroup.
func (l *pressedLab) bytes(file string) int {
	l.t.Helper()
	text := must.Get(os.ReadFile(filepath.Join(l.a.PodCgroup, file)))(l.t)
	n := must.Get(strconv.Atoi(strings.TrimSpace(string(text))))(l.t)
	return n
}

func (l *pressedLab) events(name string) int {
	l.t.Helper()
	n := must.Get(l.a.MemoryEvent(name))(l.t)
	return n
}

// report logs where the memory is.
func (l *pressedLab) report(when string) {
	l.t.Helper()
	text := must.Get(os.ReadFile(filepath.Join(l.a.GatewayCgroup, "memory.stat")))(l.t)
	var parts []string
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "anon", "file", "kernel", "sock":
			n, _ := strconv.Atoi(value)
			parts = append(parts, fmt.Sprintf("%s %d KiB", name, n>>10))
		}
	}
	l.t.Logf("%s: pod %d of %d KiB, gateway: %s; %d processes killed", when, l.bytes("memory.current")>>10, l.bytes("memory.max")>>10,
		strings.Join(parts, ", "), l.events("oom_kill"))
}

// small starts the small application in the first pod.
func (l *pressedLab) small(args ...string) *netlab.Process { return l.smallIn(l.a, args...) }

func (l *pressedLab) smallIn(n *netlab.Node, args ...string) *netlab.Process {
	l.t.Helper()
	return n.Start(netlab.Command{Cgroup: n.AppCgroup, Path: l.self, Args: append([]string{"small"}, args...)})
}

// smallResult waits until a client says what became of its connections.
func (l *pressedLab) smallResult(p *netlab.Process) (r smallResult) {
	l.t.Helper()
	eventually(l.t, "a client has a result", func() error { return json.Unmarshal([]byte(p.Output()), &r) })
	return r
}

// adjustments returns the oom_score_adj of the gateway's supervisor and worker.
func (l *pressedLab) adjustments() (supervisor, worker string) {
	l.t.Helper()
	read := func(pid int) string {
		text := must.Get(os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)))(l.t)
		return strings.TrimSpace(string(text))
	}
	return read(l.ga.Pid), read(status(l.t, l.ga).Worker.PID)
}

// survived checks that the gateway works, that it carried or let in nothing in plaintext, and
// that a new connection is encrypted. It returns its status.
func (l *pressedLab) survived() *api.Status {
	l.t.Helper()
	select {
	case <-l.ga.Done():
		words, _ := l.ga.LastWords()
		l.t.Fatalf("the gateway is gone: %v; last words %q; %d processes were killed", l.ga.Wait(), words, l.events("oom_kill"))
	default:
	}
	awaitStatus(l.t, l.ga, "the gateway is ready", func(s *api.Status) bool { return s.State == api.Ready })
	before := status(l.t, l.ga)
	var last smallResult
	eventually(l.t, "a new connection is served", func() error {
		p := l.small("bulk", "1", l.b.Addr(portEcho), "1")
		last = l.smallResult(p)
		if last.Served != 1 || last.Received == 0 {
			return fmt.Errorf("%+v", last)
		}
		return nil
	})
	s := status(l.t, l.ga)
	if s.Traffic.Outbound.Encrypted <= before.Traffic.Outbound.Encrypted {
		l.t.Errorf("the new connection is not encrypted: %+v, before %+v", s.Traffic.Outbound, before.Traffic.Outbound)
	}
	// What a gateway carries in plaintext, or what passes it by, arrives at the other one as a stranger's.
	for name, s := range map[string]*api.Status{"here": s, "at the peer": status(l.t, l.gb)} {
		if n := s.Traffic.Outbound.Plaintext + s.Traffic.Inbound.Plaintext; n > 0 || len(s.Capture.Strangers) > 0 {
			l.t.Errorf("plaintext %s: %d carried, %+v, strangers %+v", name, n, s.Unencrypted, s.Capture.Strangers)
		}
	}
	if supervisor, worker := l.adjustments(); supervisor != "-1000" || worker != strconv.Itoa(ephemeral) {
		l.t.Errorf("oom_score_adj %s of the supervisor, %s of the worker", supervisor, worker)
	}
	l.report("at the end")
	l.t.Logf("worker restarts %d, outbound %+v, inbound %+v, unencrypted %+v", s.Worker.Restarts, s.Traffic.Outbound, s.Traffic.Inbound, s.Unencrypted)
	return s
}

// refusedFor returns how many connections a gateway refused for a reason.
func refusedFor(s *api.Status, word string) (n uint64) {
	for _, u := range s.Unencrypted {
		if u.Reason == word {
			n += u.Connections
		}
	}
	return n
}

// idle opens connections in both directions that stay open.
func (l *pressedLab) idle(each int) (out, in smallResult) {
	l.t.Helper()
	outbound := l.small("idle", strconv.Itoa(each), l.b.Addr(portEcho))
	inbound := l.smallIn(l.b, "idle", strconv.Itoa(each), l.a.Addr(portSmall))
	out, in = l.smallResult(outbound), l.smallResult(inbound)
	l.report(fmt.Sprintf("%d idle connections each way", each))
	l.t.Logf("out %+v, in %+v", out, in)
	whole := func(r smallResult) bool { return r.Served+r.Reset == each || r.Reset >= enoughResets }
	if len(out.Failed)+len(in.Failed) > 0 || !whole(out) || !whole(in) {
		l.t.Error("connections neither worked nor were they refused")
	}
	return out, in
}

// TestMemoryIdle opens more connections than there is memory for: those that there is none for are
// refused with that reason, on either side, and nothing is killed.
func TestMemoryIdle(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		t.Run(string(mode), func(t *testing.T) {
			l := pressed(t, 32, mode, true)
			out, in := l.idle(450)
			s := status(t, l.ga)
			if n := refusedFor(s, "no_memory"); n < uint64(out.Reset+in.Reset) || n == 0 {
				t.Errorf("%d connections were refused for want of memory, and %d were reset", n, out.Reset+in.Reset)
			}
			if out.Served+in.Served < 100 {
				t.Errorf("only %d connections of 900 were served", out.Served+in.Served)
			}
			if n := l.events("oom_kill"); n > 0 || s.Worker.Restarts > 0 {
				t.Errorf("the kernel killed %d processes, and the worker was started %d times again", n, s.Worker.Restarts)
			}
			// More memory is noticed.
			l.limit(l.bytes("memory.max") + 32*mebi)
			l.survived()
		})
	}
}

// TestMemoryBulk carries bulk over connections that fill every buffer, those of the applications
// included: streams that there is no memory for are refused with that reason, and no other one breaks.
func TestMemoryBulk(t *testing.T) {
	l := pressed(t, 64, api.Strict, true)
	l.idle(250)
	before := refusedFor(status(t, l.ga), "no_memory")
	outbound := l.small("bulk", "8", l.b.Addr(portEcho), "8")
	inbound := l.smallIn(l.b, "bulk", "8", l.a.Addr(portSmall), "8")
	awaitStatus(t, l.ga, "the streams flow", func(s *api.Status) bool { return s.Traffic.Outbound.Sent+s.Traffic.Inbound.Received > 8*mebi })
	l.report("bulk")
	out, in := l.smallResult(outbound), l.smallResult(inbound)
	t.Logf("out %+v, in %+v", out, in)
	s := l.survived()
	if reset := out.Reset + in.Reset; out.Served+in.Served+reset != 16 || refusedFor(s, "no_memory")-before < uint64(reset) || reset > 8 {
		t.Error("streams broke")
	}
	if s.Worker.Restarts > 0 || l.events("oom_kill") > 0 {
		t.Errorf("the kernel killed %d processes, and the worker was started %d times again", l.events("oom_kill"), s.Worker.Restarts)
	}
}

// TestMemoryHog has the application take all memory: the kernel prefers the gateway, whose worker
// dies and is replaced.
func TestMemoryHog(t *testing.T) {
	for name, c := range map[string]struct {
		mode  api.Mode
		group bool
	}{
		"group": {api.Permissive, true},
		"alone": {api.Strict, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := pressed(t, 64, c.mode, c.group)
			l.idle(20)
			pid := l.ga.Pid
			var hog *netlab.Process
			asAdjusted(t, application, func() { hog = l.small("hog", "8", "64") })
			eventually(t, "the kernel kills the worker", func() error {
				if s, err := l.ga.Status(t.Context()); err != nil || s.Worker.Restarts == 0 {
					return fmt.Errorf("%v, %+v", err, s)
				}
				return nil
			})
			eventually(t, "the kernel kills the application's processes", func() error {
				if n := l.events("oom_kill"); n < 4 {
					return fmt.Errorf("%d processes were killed", n)
				}
				return nil
			})
			// What is left of them goes as it does when a container ends.
			hog.Kill()
			l.report("hog")
			killAll(t, l.a.AppCgroup, "hog")
			if s := l.survived(); s.Worker.Restarts == 0 || l.ga.Pid != pid {
				t.Errorf("restarts: %d", s.Worker.Restarts)
			}
		})
	}
}

// killAll kills the processes in a cgroup that have a word among their arguments.
func killAll(t *testing.T, cgroup, word string) {
	t.Helper()
	text := must.Get(os.ReadFile(filepath.Join(cgroup, "cgroup.procs")))(t)
	for _, field := range strings.Fields(string(text)) {
		pid := must.Get(strconv.Atoi(field))(t)
		if line, err := os.ReadFile("/proc/" + field + "/cmdline"); err == nil && strings.Contains(string(line), "\x00"+word+"\x00") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
