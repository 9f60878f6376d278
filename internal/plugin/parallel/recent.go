package parallel

import (
	"sync"
	"sync/atomic"
	"time"
)

// Recent is a value that is read again when it has become too old. Its zero value is ready.
type Recent[T any] struct {
	mu    sync.Mutex
	value T
	at    time.Time
	// outdated is set while the value is read, too.
	outdated atomic.Bool
}

// Outdate has the value read again, however old it is.
func (r *Recent[T]) Outdate() { r.outdated.Store(true) }

// Get returns the value, after reading it if it is older than age or was declared
// outdated. Those who come meanwhile wait for the same reading. After an error
// the next one reads again.
func (r *Recent[T]) Get(age time.Duration, read func() (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// What changes while it is read counts for the next time.
	if !r.outdated.Swap(false) && !r.at.IsZero() && time.Since(r.at) < age {
		return r.value, nil
	}
	value, err := read()
	if err != nil {
		r.at = time.Time{}
		return value, err
	}
	r.value, r.at = value, time.Now()
	return value, nil
}
