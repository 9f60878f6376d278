package parallel

import (
	"slices"
	"sync/atomic"
	"testing"
)

func TestEach(t *testing.T) {
	items := make([]int, 100)
	for i := range items {
		items[i] = i
	}
	var running, most atomic.Int64
	reporting := false
	var reported []int
	results := Each(4, items, func(i *int) int {
		now := running.Add(1)
		defer running.Add(-1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		return *i * 2
	}, func(r int) {
		if reporting {
			t.Error("reports overlap")
		}
		reporting = true
		reported = append(reported, r)
		reporting = false
	})
	for i, r := range results {
		if r != 2*i {
			t.Errorf("result %d is %d", i, r)
		}
	}
	slices.Sort(reported)
	if !slices.Equal(reported, results) {
		t.Errorf("reported %v", reported)
	}
	if most.Load() > 4 {
		t.Errorf("%d at a time", most.Load())
	}
}

// TestEachWithoutLimit: no limit is no reason to wait for ever.
func TestEachWithoutLimit(t *testing.T) {
	if got := Each(0, []int{1}, func(i *int) int { return *i }, nil); !slices.Equal(got, []int{1}) {
		t.Errorf("got %v", got)
	}
}
