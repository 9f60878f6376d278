//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// outbound returns the pod and the source of each outbound connection to the port
// of the echo server in lines of "tail -o json", sorted.
func outbound(t *testing.T, lines string) []string {
	t.Helper()
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		if line == "" {
			continue
		}
		c := parse[struct{ Pod, Direction, Source, Destination string }](t, line)
		if c.Direction == "outbound" && strings.HasSuffix(c.Destination, fmt.Sprint(":", portEcho)) {
			all = append(all, c.Pod+" "+c.Source)
		}
	}
	slices.Sort(all)
	return all
}

// TestTail follows what is labelled while pods join, gateways end and others
// begin, and the API server is away. Each connection is told of once.
func TestTail(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	f := newFront(t)
	tail := start(t, "kubectl", "gateway", "--kubeconfig="+f.kubeconfig, "-n", ns, "tail", "-l", "test=e2e", "-o", "json")
	count := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " connections are shown"), func() error {
			if got := outbound(t, tail.stdout.String()); len(got) != n {
				return fmt.Errorf("shown are %q", got)
			}
			return nil
		})
	}
	talk := func(from, to *pod, n int) {
		t.Helper()
		for i := range n {
			from.talk(to.addr(portEcho), fmt.Sprint("hello ", i))
		}
	}

	tail.says("waiting for some")
	enable(t, nil, a)
	tail.says("pod/a -n " + ns + ": has a gateway, following it")
	talk(a, b, 2)
	count(2)
	enable(t, nil, b)
	tail.says("pod/b -n " + ns + ": has a gateway, following it")
	talk(b, a, 2)
	count(4)

	// The API server goes away in the middle.
	f.down()
	tail.says("pod/a -n " + ns + ": warning: the log stream broke")
	tail.says("pod/b -n " + ns + ": warning: the log stream broke")
	talk(a, b, 3)
	talk(b, a, 3)
	f.up()
	count(10)
	talk(a, b, 1)
	count(11)
	var truth []string
	for _, p := range []*pod{a, b} {
		truth = append(truth, outbound(t, gateway(t, "-n", ns, "tail", p.String(), "--no-follow", "--tail=-1", "-o", "json").stdout)...)
	}
	slices.Sort(truth)
	if got := outbound(t, tail.stdout.String()); !slices.Equal(got, truth) {
		t.Errorf("shown are %q, the logs have %q", got, truth)
	}

	// A gateway ends, another begins in the same pod.
	gateway(t, "-n", ns, "disable", a.String(), "--drain-timeout=0s")
	tail.says("pod/a -n " + ns + ": the gateway was disabled")
	enable(t, nil, a)
	await(t, "the second gateway is followed", func() bool {
		return strings.Count(tail.stderr.String(), "pod/a -n "+ns+": has a gateway, following it") == 2
	})
	talk(a, b, 1)
	count(12)

	// A pod that joins after it was made, and goes.
	c := startPods(t, ns, podSpec("c", node1))[0]
	enable(t, nil, c)
	tail.says("pod/c -n " + ns + ": has a gateway, following it")
	talk(c, b, 1)
	count(13)
	kubectl(t, "-n", ns, "delete", "pod", "c", "--wait=false")
	await(t, "pod c leaves", func() bool {
		return slices.ContainsFunc(strings.Split(tail.stderr.String(), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "pod/c ") && (strings.Contains(line, "gone") || strings.Contains(line, "ended"))
		})
	})

	// Ctrl-C is no failure.
	if err := tail.interrupt(); err != nil {
		t.Errorf("after Ctrl-C: %v\n%s", err, &tail.stderr)
	}

	// What has not been encrypted, in a line of one's own.
	gateway(t, "-n", ns, "disable", b.String(), "--drain-timeout=0s")
	talk(a, b, 1)
	eventually(t, "the plaintext is shown", func() error {
		got := gateway(t, "-n", ns, "tail", a.String(), "--no-follow", "--plaintext-only", "--template={{.Pod}} {{.Destination}} {{.Encrypted}}").stdout
		if got != "a "+b.addr(portEcho)+" false\n" {
			return fmt.Errorf("shown is %q", got)
		}
		return nil
	})
}

// rotations is the files that a kubelet has rotated a gateway's log to.
type rotations struct {
	t       *testing.T
	pattern string
	seen    map[string]bool
}

// await waits until the kubelet has rotated the log n more times.
func (r *rotations) await(n int) {
	r.t.Helper()
	before := len(r.seen)
	eventually(r.t, fmt.Sprint(n, " more rotations"), func() error {
		for _, path := range must.Get(filepath.Glob(r.pattern))(r.t) {
			// They are compressed later, under the same name.
			r.seen[strings.TrimSuffix(strings.TrimSuffix(path, ".tmp"), ".gz")] = true
		}
		if len(r.seen) < before+n {
			return fmt.Errorf("%d of %d", len(r.seen)-before, n)
		}
		return nil
	})
}

// maxLog is the size, in bytes, at which the kubelets rotate a log: that of the cluster's kubelet.yaml.
const maxLog = 2 << 20

// settle waits until no rotation is due: what is logged next stays in the newest file, the only one that can be read.
func (r *rotations) settle() {
	r.t.Helper()
	eventually(r.t, "the newest log is short", func() error {
		newest := must.Get(filepath.Glob(strings.TrimSuffix(r.pattern, ".*")))(r.t)
		if len(newest) != 1 {
			return fmt.Errorf("it is %q", newest)
		}
		// It may have been renamed meanwhile.
		info, err := os.Stat(newest[0])
		if err == nil && info.Size() >= maxLog {
			err = fmt.Errorf("it has %d bytes", info.Size())
		}
		return err
	})
}

// numbered is what "tail -o json" shows of the lines that a gateway's workers number.
type numbered struct {
	// first and last are numbers of lines, and shown is how many there are.
	first, last, shown uint64
	// lost is how many are said to be missing.
	lost uint64
}

var lostLines = regexp.MustCompile(`warning: (\d+) lines (?:of the log|before the first one) are lost`)

// readNumbered reads the output of "tail -o json". Each line must be shown once, in its order.
func readNumbered(t *testing.T, stdout, stderr string) (n numbered) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(stdout), "\n") {
		l := parse[struct {
			N  uint64
			By string
		}](t, line)
		if l.By != "" {
			continue
		}
		if l.N <= n.last {
			t.Fatalf("line %d is shown after line %d", l.N, n.last)
		}
		if n.shown == 0 {
			n.first = l.N
		}
		n.last = l.N
		n.shown++
	}
	for _, match := range lostLines.FindAllStringSubmatch(stderr, -1) {
		n.lost += must.Get(strconv.ParseUint(match[1], 10, 64))(t)
	}
	return n
}

// TestTailRotated has the kubelet rotate the log of a gateway several times under traffic, while it
// is followed and while nobody can read it. Each line is shown, or counted as lost.
func TestTailRotated(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, b := twoPods(t, ns)
	enable(t, nil, a)
	// More than a gateway may log by default.
	gateway(t, "-n", ns, "log", a.String(), "connections", "--limit=2Gi")
	f := newFront(t)
	tail := start(t, "kubectl", "gateway", "--kubeconfig="+f.kubeconfig, "-n", ns, "tail", a.String(), "--tail=-1", "-o", "json")
	// shows talks until that is shown: one line may be among those that are lost.
	shows := func(text string) {
		t.Helper()
		eventually(t, "the connection is shown", func() error {
			c := a.talk(b.addr(portEcho), text)
			for range 50 {
				for line := range strings.SplitSeq(tail.stdout.String(), "\n") {
					if strings.Contains(line, `"`+c.Local+`"`) && strings.Contains(line, `"`+b.addr(portEcho)+`"`) {
						return nil
					}
				}
				time.Sleep(100 * time.Millisecond)
			}
			return fmt.Errorf("it says %s", &tail.stderr)
		})
	}
	shows("first")
	log := &rotations{t, filepath.Join(filesOf(t, node1), "var/log/pods", strings.Join([]string{ns, a.name, a.uid}, "_"), "kube-gateway/*.log.*"), map[string]bool{}}

	// Without a gateway at the other end: connections that cost little. Those to one address would use nearly all
	// ports, which the kernel tries one by one for one that is free.
	a.appCommand("traffic", "start", "--held=0", "--workers=2", "--pause=1ms", b.addr(portTraffic), netip.AddrPortFrom(b.ips[1], portTraffic).String())
	log.await(1)
	f.down()
	tail.says("warning: the log stream broke")
	log.await(1)
	f.up()
	shows("again")
	log.await(1)
	a.appCommand("traffic", "stop")
	log.settle()
	shows("last")
	if err := tail.interrupt(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	n := readNumbered(t, tail.stdout.String(), tail.stderr.String())
	t.Logf("%d rotations: %+v", len(log.seen), n)
	if n.first != 1 || n.shown+n.lost != n.last || n.lost == 0 {
		t.Errorf("of %d lines %d are shown, from number %d on, and %d are said to be lost:\n%s", n.last, n.shown, n.first, n.lost, &tail.stderr)
	}

	// The node has the newest lines.
	for _, flag := range []string{"--tail=-1", "--since=1h"} {
		out := gateway(t, "-n", ns, "tail", a.String(), "--no-follow", "-o", "json", flag)
		if r := readNumbered(t, out.stdout, out.stderr); r.last != n.last || r.shown+r.lost != r.last || r.lost == 0 {
			t.Errorf("%s: %+v of %d lines, and it says %s", flag, r, n.last, out.stderr)
		}
	}
}
