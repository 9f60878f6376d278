// Package parallel does the same thing to many items, some at a time.
package parallel

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Default is how many items are worked on at a time, unless the user says otherwise.
const Default = 16

// Each calls do with every item, at most limit (at least one) at a time, and
// report, if not nil, with each result as it comes; calls of report do not
// overlap. It returns the results in the order of items. Ending early is up to do.
func Each[T, R any](limit int, items []T, do func(*T) R, report func(R)) []R {
	var (
		group   errgroup.Group
		mu      sync.Mutex
		results = make([]R, len(items))
	)
	group.SetLimit(max(limit, 1))
	for i := range items {
		group.Go(func() error {
			result := do(&items[i])
			mu.Lock()
			defer mu.Unlock()
			results[i] = result
			if report != nil {
				report(result)
			}
			return nil
		})
	}
	_ = group.Wait()
	return results
}

// Once returns a function that calls get once for each key, and remembers the values.
// Those who ask for a value meanwhile wait for it.
func Once[K comparable, V any](get func(K) V) func(K) V {
	var (
		mu     sync.Mutex
		values = map[K]func() V{}
	)
	return func(key K) V {
		mu.Lock()
		value, ok := values[key]
		if !ok {
			value = sync.OnceValue(func() V { return get(key) })
			values[key] = value
		}
		mu.Unlock()
		return value()
	}
}

// Until calls do, and abandons it when ctx ends before: the error is that of ctx. What do changes
// is not for the caller's eyes then.
func Until(ctx context.Context, do func()) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return nil
	}
}
