//go:build linux

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestIdleGatewaySleeps: after its connections have ended, a gateway wakes up no more.
func TestIdleGatewaySleeps(t *testing.T) {
	l := newLab(t)
	a, b := l.gateway(l.spec(l.a)), l.gateway(l.spec(l.b))
	if r := l.talk(l.a, l.b.Addr(portEcho)); r.Error != "" {
		t.Fatalf("talking: %+v", r)
	}
	worker := func(g *gatewaylab.Gateway) func() int { return func() int { return status(t, g).Worker.PID } }
	supervisor := func(g *gatewaylab.Gateway) func() int { return func() int { return g.Pid } }
	for _, process := range []func() int{supervisor(a), worker(a), supervisor(b), worker(b)} {
		// Longer than the proxy's sweeps are apart. Go itself wakes up once a minute, so that there are such times.
		const still = 6 * time.Second
		deadline := time.Now().Add(patience)
		for pid, before := 0, map[string]string(nil); ; {
			if len(before) == 0 { // also if a fresh worker has taken its place
				pid = process()
				before = waits(t, pid)
			}
			time.Sleep(still)
			now := waits(t, pid)
			if len(now) > 0 && maps.Equal(before, now) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d does not sleep for %v: its threads waited %v times, then %v", pid, still, before, now)
			}
			before = now
		}
	}
}

// waits returns how often each thread of a process has waited, none if it has ended.
func waits(t *testing.T, pid int) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, file := range must.Get(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)))(t) {
		text, err := os.ReadFile(file)
		if err != nil { // a thread that has ended
			continue
		}
		found[file] = string(regexp.MustCompile(`\nvoluntary_ctxt_switches:\s*(\d+)`).FindSubmatch(text)[1])
	}
	return found
}
