//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
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
