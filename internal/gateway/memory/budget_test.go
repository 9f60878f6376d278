//go:build linux

package memory

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

const mebi = 1 << 20

func TestRoom(t *testing.T) {
	for _, c := range []struct {
		r    Reading
		want int
	}{
		{Reading{Unlimited, Unlimited}, math.MaxInt},
		{Reading{32 * mebi, 12 * mebi}, 213}, // 10 MiB
		{Reading{32 * mebi, 2*mebi + ConnectionCost}, 1},
		{Reading{32 * mebi, 2*mebi + ConnectionCost - 1}, 0},
		{Reading{64 * mebi, 4 * mebi}, 0},
		{Reading{16 << 30, 8*mebi + ConnectionCost}, 1},
		{Reading{16 << 30, 0}, 0},
	} {
		if got := c.r.Room(); got != c.want {
			t.Errorf("%+v: room for %d connections, want %d", c.r, got, c.want)
		}
	}
}

func TestBuffer(t *testing.T) {
	for _, c := range []struct {
		left    int64
		current int
		want    int
	}{
		{Unlimited, 0, 0},
		{128 * mebi, 0, 0},
		{128*mebi - 1, 0, 128 << 10},
		{40 * mebi, 0, 64 << 10},
		{10 * mebi, 128 << 10, 16 << 10},
		{0, 0, 16 << 10},
		// It grows once there is half as much again.
		{36 * mebi, 32 << 10, 32 << 10},
		{48 * mebi, 32 << 10, 64 << 10},
		{130 * mebi, 128 << 10, 128 << 10},
		{192 * mebi, 128 << 10, 0},
	} {
		if got := (Reading{1 << 30, c.left}).buffer(c.current); got != c.want {
			t.Errorf("%d MiB left, buffers of %d: %d, want %d", c.left/mebi, c.current, got, c.want)
		}
	}
}

func TestHeap(t *testing.T) {
	for _, c := range []struct{ left, has, want int64 }{
		{Unlimited, 10 * mebi, math.MaxInt64},
		{128 * mebi, 10 * mebi, math.MaxInt64},
		{24 * mebi, 10 * mebi, 20 * mebi}, // 4 MiB of 64 are reserved
		{2 * mebi, 30 * mebi, 30 * mebi},
		{0, 8 * mebi, 12 * mebi},
	} {
		if got := (Reading{64 * mebi, c.left}).heap(c.has); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// budgetOf returns a Budget of a cgroup in a directory, and its clock.
func budgetOf(t *testing.T, dir string) (b *Budget, now *time.Time) {
	t.Helper()
	b = NewBudget(must.Get(Open(dir))(t))
	t.Cleanup(b.gauge.Close)
	now = new(time.Time)
	*now = time.Unix(1000, 0)
	b.now = func() time.Time { return *now }
	b.has = func() int64 { return 10 * mebi }
	b.setLimit = func(int64) int64 { return 0 }
	b.tidy = func() {}
	return b, now
}

// withLeft writes the files of a cgroup with a limit in which so much is left. None of it is page cache.
func withLeft(t *testing.T, dir string, limit, left int64) {
	t.Helper()
	cgroupDir(t, dir, map[string]string{"memory.max": fmt.Sprint(limit), "memory.current": fmt.Sprint(limit - left), "memory.stat": "anon 1\n"})
}

type answer struct {
	OK    bool
	Again time.Duration
}

func admit(b *Budget) answer {
	ok, again := b.Admit()
	return answer{ok, again}
}

// TestAdmit: those that are being set up count before they have what they need, and one that there is no
// memory for waits, and is refused.
func TestAdmit(t *testing.T) {
	dir := t.TempDir()
	withLeft(t, dir, 32*mebi, 2*mebi+2*ConnectionCost)
	b, now := budgetOf(t, dir)
	tidied := 0
	b.tidy = func() { tidied++ }
	yes, later, no := answer{true, 0}, answer{false, retryInterval}, answer{false, 0}
	step := func(what string, want answer) {
		t.Helper()
		if diff := cmp.Diff(want, admit(b)); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
	}
	step("the first", yes)
	step("the second", yes)
	step("the third", later)
	if tidied != 1 {
		t.Errorf("tidied %d times", tidied)
	}
	*now = now.Add(patience - 1)
	step("still", later)
	*now = now.Add(1)
	step("too long", no)
	step("the next one, at once", no)
	if tidied != 2 {
		t.Errorf("tidied %d times within a second", tidied)
	}
	// One has ended, or has what it takes and that was given back elsewhere.
	b.Settle()
	step("there is room again", yes)
	step("another time", later)
	b.Settle()
	b.Settle()
	withLeft(t, dir, 32*mebi, 2*mebi)
	*now = now.Add(patience)
	step("what they took is missing", no)
	b.tidy = func() { withLeft(t, dir, 32*mebi, 3*mebi) }
	*now = now.Add(tidyInterval)
	step("garbage was in the way", yes)
	// The limit is lifted.
	cgroupDir(t, dir, map[string]string{"memory.max": "max"})
	*now = now.Add(readInterval)
	for range 100 {
		step("without a limit", yes)
	}
}

// TestReadsSeldom: while enough is left, the files are not read for every connection.
func TestReadsSeldom(t *testing.T) {
	dir := t.TempDir()
	withLeft(t, dir, 512*mebi, 400*mebi)
	b, now := budgetOf(t, dir)
	admit(b)
	withLeft(t, dir, 512*mebi, 0)
	*now = now.Add(readInterval - 1)
	if !admit(b).OK {
		t.Error("read again at once")
	}
	*now = now.Add(1)
	if admit(b).OK {
		t.Error("not read again")
	}
}

// TestFollows: buffers and heap follow what is left, and the kernel's and Go's own bounds are back with
// the memory.
func TestFollows(t *testing.T) {
	dir := t.TempDir()
	withLeft(t, dir, 512*mebi, 0)
	b, _ := budgetOf(t, dir)
	var limits []int64
	b.setLimit = func(l int64) int64 { limits = append(limits, l); return 0 }
	type state struct{ Buffer, Handshakes int }
	var got []state
	for _, left := range []int64{400 * mebi, 40 * mebi, 40*mebi + 100, 8 * mebi, 400 * mebi, 400 * mebi} {
		withLeft(t, dir, 512*mebi, left)
		b.Look()
		got = append(got, state{b.Buffer(), b.Handshakes(1000)})
	}
	if diff := cmp.Diff([]state{{0, 1000}, {64 << 10, 170}, {64 << 10, 170}, {16 << 10, 16}, {0, 1000}, {0, 1000}}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int64{26 * mebi, 12 * mebi, math.MaxInt64}, limits); diff != "" {
		t.Errorf("soft limits (-want +got):\n%s", diff)
	}
}

// TestUnreadable: nothing is refused because a file could not be read.
func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	withLeft(t, dir, 64*mebi, 0)
	b, _ := budgetOf(t, dir)
	b.gauge.Close()
	if !admit(b).OK {
		t.Error("refused")
	}
	var none *Budget
	none.Look()
	none.Settle()
	if ok, _ := none.Admit(); !ok || none.Buffer() != 0 || none.Handshakes(7) != 7 || NewBudget(nil) != nil {
		t.Error("no budget bounds something")
	}
}
