//go:build linux

// Package journal bounds and numbers the lines of a gateway's log. The kubelet counts them against
// the pod's ephemeral storage, so they must not grow with the traffic, and what is missing must be
// seen to be missing.
package journal

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Class is how much a line matters, as the quarters of a bound that lines like it may use. So
// connections leave room for refusals, and both for what happens to the gateway itself.
type Class int64

const (
	Ordinary Class = 2
	Refusal  Class = 3
	State    Class = 4

	quarters = 4
)

// overhead is what container runtimes write in front of a line: time, stream and tag.
const overhead = int64(len("2006-01-02T15:04:05.000000000Z stdout F "))

// Budget bounds the log of one process, by a token bucket. It has a fixed size and no pointers, so
// that it can lie in memory that processes share; one of them writes, others read. Without Set it
// bounds nothing. Its zero value is ready for use.
type Budget struct {
	level        atomic.Int32
	limit, total atomic.Int64
	// full is when the bucket is full again, by the writer's clock in nanoseconds.
	full                                 atomic.Int64
	number, bytes, dropped, droppedBytes atomic.Uint64
}

// Shares of the bounds of a gateway, in quarters. The supervisor's own keeps a worker from silencing
// it.
const (
	Worker     = 3
	Supervisor = 1
)

// Set bounds the log by a share of c.
func (b *Budget) Set(c *api.LogConfig, share int64) {
	b.level.Store(int32(slices.Index(api.Logs(), c.Log.OrDefault())))
	b.limit.Store(c.LimitOrDefault() * share / quarters)
	b.total.Store(c.LogTotal * share / quarters)
}

// Wants reports whether a connection of this class is logged at all.
func (b *Budget) Wants(class Class) bool {
	switch b.level.Load() {
	case 0:
		return true
	case 1:
		return class > Ordinary
	}
	return class > Refusal
}

// Spend takes a line from the budget, and returns its number. It reports false, and counts the
// line as dropped, if there is no room. One goroutine at a time calls it, with the time of a clock
// that never goes back.
func (b *Budget) Spend(class Class, line int, now time.Duration) (uint64, bool) {
	size := int64(line) + overhead
	if total := b.total.Load(); total > 0 && int64(b.bytes.Load())+size > total*int64(class)/quarters {
		b.Drop(line)
		return 0, false
	}
	if limit := b.limit.Load(); limit > 0 {
		const window = time.Hour / api.LogBurst
		// A limit that was lower before must not be waited for.
		full := min(max(time.Duration(b.full.Load()), now), now+window) + time.Duration(size*int64(time.Hour)/limit)
		if full-now > window*time.Duration(class)/quarters {
			b.Drop(line)
			return 0, false
		}
		b.full.Store(int64(full))
	}
	b.bytes.Add(uint64(size))
	return b.number.Add(1), true
}

// Drop counts a line that is not written.
func (b *Budget) Drop(line int) {
	b.dropped.Add(1)
	b.droppedBytes.Add(uint64(int64(line) + overhead))
}

// exhausted reports whether the total leaves no room for connections, forever.
func (b *Budget) exhausted() bool {
	total := b.total.Load()
	return total > 0 && int64(b.bytes.Load())+overhead > total*int64(Ordinary)/quarters
}

// Add adds what the budget has counted to a status.
func (b *Budget) Add(to *api.LogStatus) {
	to.Lines += b.number.Load()
	to.Bytes += b.bytes.Load()
	to.DroppedLines += b.dropped.Load()
	to.DroppedBytes += b.droppedBytes.Load()
}
