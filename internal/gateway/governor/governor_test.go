//go:build linux

package governor

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestFitProcessors(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		current, ceiling int
		used             time.Duration
		want             int
	}{
		{1, 8, 0, 1},
		{1, 8, second * 5 / 10, 1},
		{1, 8, second * 6 / 10, 2},
		{1, 1, second * 2, 1},
		{2, 8, second * 4 / 10, 2},
		{2, 8, second * 10 / 10, 2},
		{2, 8, second * 11 / 10, 4},
		{2, 3, second * 2, 3},
		{2, 8, second * 3 / 10, 1},
		{3, 3, second * 7 / 10, 3},
		{3, 3, second * 6 / 10, 2},
		{8, 8, second * 8, 8},
		{8, 8, second * 13 / 10, 4},
		{8, 8, 0, 4},
	} {
		if got := fitProcessors(c.current, c.ceiling, c.used, second); got != c.want {
			t.Errorf("%d of %d processors that used %v in a second: %d, want %d", c.current, c.ceiling, c.used, got, c.want)
		}
	}
}

// A load that does not change must not change the number of processors for ever.
func TestFitProcessorsSettles(t *testing.T) {
	const ceiling = 12
	for percent := range 100 * ceiling {
		used, n, last := time.Duration(percent)*time.Millisecond*10, 1, 0
		for range 8 {
			last, n = n, fitProcessors(n, ceiling, used, time.Second)
		}
		if n != last {
			t.Errorf("%v of CPU time a second: between %d and %d processors", used, last, n)
		}
	}
}

// The governor starts with one processor, does as it is told each time that CPU
// time has been used, says when that ends, and leaves everything as it was.
func TestRun(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var busy atomic.Int64
	quiet := make(chan struct{}, 1)
	go func() {
		ended <- run(ctx, func(current, ceiling int, used, elapsed time.Duration) int {
			if current != 1 && current != 3 || ceiling != 4 || used <= 0 || elapsed < lookWindow {
				t.Errorf("asked about %d of %d processors, %v used of %v", current, ceiling, used, elapsed)
			}
			return 3
		}, func() { busy.Add(1) }, func() { quiet <- struct{}{} })
	}()
	for _, want := range []int{1, 3} {
		// Waiting uses the CPU time that the governor goes by.
		for start := time.Now(); runtime.GOMAXPROCS(0) != want; {
			if time.Since(start) > time.Minute {
				t.Fatalf("%d processors, want %d", runtime.GOMAXPROCS(0), want)
			}
		}
	}
	<-quiet
	cancel()
	must.Do(t, <-ended)
	if busy.Load() == 0 {
		t.Error("nobody was told that the process is busy")
	}
	if n := runtime.GOMAXPROCS(0); n != 4 {
		t.Errorf("%d processors afterwards, want 4", n)
	}
}
