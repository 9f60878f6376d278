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

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestIdleGatewaySleeps: after its connections have ended, a gateway wakes up no more.
func TestIdleGatewaySleeps(t *testing.T) {
	l := newLab(t)
	a, b := l.gateway(l.spec(l.a)), l.gateway(l.spec(l.b))
	if r := l.talk(l.a, l.b.Addr(portEcho)); r.Error != "" {
		t.Fatalf("talking: %+v", r)
	}
	for _, g := range []int{a.Pid, status(t, a).Worker.PID, b.Pid, status(t, b).Worker.PID} {
		// Longer than the proxy's sweeps are apart. Go itself wakes up once a minute, so that there are such times.
		const still = 6 * time.Second
		deadline := time.Now().Add(patience)
		for before := waits(t, g); ; {
			time.Sleep(still)
			now := waits(t, g)
			if maps.Equal(before, now) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d does not sleep for %v: its threads waited %v times, then %v", g, still, before, now)
			}
			before = now
		}
	}
}

// waits returns how often each thread of a process has waited.
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
	if len(found) == 0 {
		t.Fatalf("process %d has no threads", pid)
	}
	return found
}
