//go:build linux

package supervisor

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestUntilRecycling: the first wish is granted at once, the next one when the interval is over.
func TestUntilRecycling(t *testing.T) {
	s := supervisor{Options: Options{RecycleInterval: time.Hour}}
	if d := s.untilRecycling(); d != 0 {
		t.Errorf("the first waits for %v", d)
	}
	s.recycled = time.Now()
	if d := s.untilRecycling(); d < time.Hour-time.Minute || d > time.Hour {
		t.Errorf("the second waits for %v", d)
	}
	s.recycled = time.Now().Add(-2 * time.Hour)
	if d := s.untilRecycling(); d != 0 {
		t.Errorf("hours later it waits for %v", d)
	}
}

// TestHasRoom: two workers at a time need what the reserve does not.
func TestHasRoom(t *testing.T) {
	for _, c := range []struct {
		max, current string
		want         bool
	}{
		{"max", "1000000000", true},
		{"67108864", "20000000", true},
		{"67108864", "50000000", false},
		{"67108864", "90000000", false},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"memory.max": c.max, "memory.current": c.current, "memory.stat": "anon 0"} {
			must.Do(t, os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644))
		}
		m := podMemory{gauge: must.Get(memory.Open(dir))(t)}
		if got := m.hasRoom(workerMemory); got != c.want {
			t.Errorf("%s of %s: %t", c.current, c.max, got)
		}
		m.gauge.Close()
	}
	if !new(podMemory).hasRoom(workerMemory) {
		t.Error("no room where nothing is known")
	}
}
