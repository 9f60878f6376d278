//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestRecycle: a worker that has grown is replaced once it is idle. Traffic that begins in that moment loses nothing, and no SYN
// is sent again. Totals, edges and the log go on, the fresh worker is as small as the first, and settings reach it.
func TestRecycle(t *testing.T) {
	for _, mode := range []api.Mode{api.Permissive, api.Strict} {
		for _, wire := range []api.Wire{api.WirePort, api.WireInband} {
			t.Run(fmt.Sprintf("%s %s", mode, wire), func(t *testing.T) { recycle(t, mode, wire) })
		}
	}
}

func recycle(t *testing.T, mode api.Mode, wire api.Wire) {
	l := newLab(t)
	nodes := []*netlab.Node{l.a, l.b}
	var gateways [2]*gatewaylab.Gateway
	var first, small [2]int
	for i, n := range nodes {
		spec := with(l.spec(n), func(c *api.Config) { c.Wire = wire })
		spec.Mode, spec.RecycleInterval = mode, time.Millisecond
		gateways[i] = l.gateway(spec)
		first[i] = status(t, gateways[i]).Worker.PID
	}
	smallAgain := func(i int) {
		t.Helper()
		eventually(t, "a worker is small", func() error {
			has, err := anonymous(status(t, gateways[i]).Worker.PID)
			switch {
			case err != nil:
				return err
			case small[i] == 0 && has < 6<<10:
				small[i] = has
			case has > small[i]+1<<10:
				return fmt.Errorf("%d KiB", has)
			}
			return nil
		})
	}
	smallAgain(0)
	smallAgain(1)
	const many = 400
	if r := l.client(l.a, l.a.AppCgroup, "concurrent", l.b.Addr(portEcho), strconv.Itoa(many)); r.Error != "" {
		t.Fatal(r.Error)
	}
	if n := connectionsOf(t, gateways[0]); n != many {
		t.Errorf("the edges have %d connections", n)
	}
	again := synsAgain(t, l.a) + synsAgain(t, l.b)

	// The traffic meets the worker that ends, which goes on then, or the one that begins. On a busy machine it may be late for both.
	eventually(t, "a fresh worker is started", func() error {
		for i, g := range gateways {
			if all := children(t, g.Pid); len(all) != 1 || all[0] != strconv.Itoa(first[i]) {
				return nil
			}
		}
		return errors.New("there is none")
	})
	out := l.traffic(l.a, 200*time.Millisecond, l.b.Addr(portTraffic), l.b.Addr6(portTraffic))
	awaitStatus(t, gateways[0], "traffic flows", func(s *api.Status) bool { return s.Traffic.Outbound.Encrypted >= many+200 })
	s := out.stop()
	s.perfect(t)
	if n := synsAgain(t, l.a) + synsAgain(t, l.b); n != again {
		t.Errorf("%d SYNs were sent again", n-again)
	}

	for i, g := range gateways {
		awaitStatus(t, g, "a fresh worker serves", func(s *api.Status) bool { return s.Worker.PID != first[i] })
		smallAgain(i)
		now := status(t, g)
		n := now.Traffic.Outbound
		if i == 1 {
			n = now.Traffic.Inbound
		}
		if now.State != api.Ready || now.Worker.Restarts != 0 || strings.Contains(g.Output(), "the worker ended") {
			t.Errorf("gateway %d is %s: %+v", i, now.State, now.Worker)
		}
		if n.Encrypted < many+200 || n.Plaintext+n.Refused != 0 || n.Active != 0 {
			t.Errorf("gateway %d counts %+v", i, n)
		}
		if e := connectionsOf(t, g); e != n.Encrypted {
			t.Errorf("gateway %d has edges of %d connections, and counts %d", i, e, n.Encrypted)
		}
		if lines := len(must.Get(g.Connections())(t)); uint64(lines)+now.Log.DroppedLines != n.Encrypted {
			t.Errorf("gateway %d has written %d lines and dropped %d, and counts %d connections", i, lines, now.Log.DroppedLines, n.Encrypted)
		}
		ask[api.Status](t, g, "mode", string(api.Strict))
		ask[api.Status](t, g, "mode", string(api.Permissive))
	}
	l.talk(l.a, l.b.Addr(portEcho))
	disable(t, l.a, gateways[0], time.Minute)
}

// anonymous returns the memory of its own that a process has, in KiB.
func anonymous(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`\nRssAnon:\s*(\d+) kB`).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.Atoi(string(found[1]))
}

// children returns the processes that a process has started.
func children(t *testing.T, pid int) (all []string) {
	t.Helper()
	for _, file := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)))(t) {
		if text, err := os.ReadFile(file); err == nil { // the thread may have ended
			all = append(all, strings.Fields(string(text))...)
		}
	}
	return all
}

// synsAgain returns how often SYNs were sent again in a pod.
func synsAgain(t *testing.T, n *netlab.Node) (count int) {
	t.Helper()
	must.Do(t, n.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
		count, err = strconv.Atoi(values[slices.Index(names, "TCPSynRetrans")])
		return err
	}))
	return count
}

// connectionsOf returns how many connections a gateway's edges have.
func connectionsOf(t *testing.T, g *gatewaylab.Gateway) (n uint64) {
	t.Helper()
	for _, e := range ask[api.Edges](t, g, "edges").Edges {
		n += e.Connections
	}
	return n
}
