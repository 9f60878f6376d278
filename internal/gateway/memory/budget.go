//go:build linux

package memory

import (
	"math"
	"math/bits"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// ConnectionCost is what a new connection takes, in bytes.
	ConnectionCost = api.ConnectionMemory
	// minReserve and maxReserve bound what is kept free for what goes on, a sixteenth of the limit: the
	// socket buffers of open connections, the garbage of one collection, and what the kernel charges in
	// advance (256 KiB for each processor: MEMCG_CHARGE_BATCH of include/linux/memcontrol.h).
	minReserve = 2 << 20
	maxReserve = 8 << 20
	// Scarce is how much must be left for buffers to be as large as the kernel and Go like.
	Scarce = 128 << 20
	// bufferShare is the part of what is left that one buffer of a socket may take. A stream has six
	// of them in the pod: two each of the application's socket, the worker's towards it, and that
	// towards the peer; and what a buffer holds counts twice as much (SO_RCVBUF in socket(7)).
	bufferShare = 512
	// MinBuffer holds a TLS record, MaxBuffer is within the default of net.core.rmem_max (208 KiB).
	MinBuffer = 16 << 10
	MaxBuffer = 128 << 10
	// minHeap is the least soft limit of the Go runtime. An idle worker has 7 MiB.
	minHeap = 12 << 20
	// heapStep is the least change of that limit: the runtime stops the world for it.
	heapStep = 1 << 20
	// handshakeShare is the part of what is left that handshakes with strangers may take, and
	// minHandshakes are always possible.
	handshakeShare = 4
	minHandshakes  = 16
	// idleShare is the part of what is left that connections may take which are kept for later.
	idleShare = 16
)

const (
	// readInterval bounds how often connections have the files read, while enough is left.
	readInterval = 20 * time.Millisecond
	// patience is how long connections wait, once there is no memory for more, until they are
	// refused, and retryInterval how often they look.
	patience      = time.Second
	retryInterval = 50 * time.Millisecond
	// tidyInterval is the least time between two collections for want of memory.
	tidyInterval = time.Second
)

// Reserve is what is kept free below a limit.
func Reserve(limit int64) int64 { return min(max(limit/16, minReserve), maxReserve) }

// Room is for how many more connections there is memory, math.MaxInt without a limit.
func (r Reading) Room() int {
	if r.Limit == Unlimited {
		return math.MaxInt
	}
	return int(max(0, r.Left-Reserve(r.Limit)) / ConnectionCost)
}

// buffer is how large the buffers of a socket may be, in bytes, where they are not larger already than
// current. 0 is as large as the kernel likes.
func (r Reading) buffer(current int) int {
	size := bufferFor(r.Left)
	// Buffers grow later than they shrink, so that they do not change all the time.
	if current != 0 && (size == 0 || size > current) {
		if later := bufferFor(r.Left / 3 * 2); later != 0 && later <= current {
			return current
		}
	}
	return size
}

func bufferFor(left int64) int {
	if left >= Scarce {
		return 0
	}
	part := max(uint64(left/bufferShare), MinBuffer)
	return min(1<<(bits.Len64(part)-1), MaxBuffer)
}

// heap is the soft limit of a Go runtime that has so many bytes: half of what is left is for sockets.
func (r Reading) heap(has int64) int64 {
	if r.Left >= Scarce {
		return math.MaxInt64
	}
	return max(has+max(0, r.Left-Reserve(r.Limit))/2, minHeap)
}

// Budget decides what a worker may do with what is left. It is safe for concurrent use. A nil Budget
// allows everything.
type Budget struct {
	gauge *Gauge
	// These are replaced in tests.
	now      func() time.Time
	tidy     func()
	has      func() int64
	setLimit func(int64) int64

	mu      sync.Mutex
	reading Reading
	readAt  time.Time
	// pending counts connections that do not have yet all that they take.
	pending int
	// shortSince is when memory was first missing, zero while it is not.
	shortSince time.Time
	tidiedAt   time.Time
	buffer     int
	heapLimit  int64
}

// NewBudget returns the Budget of what g shows, nil if g is nil.
func NewBudget(g *Gauge) *Budget {
	if g == nil {
		return nil
	}
	return &Budget{gauge: g, now: time.Now, tidy: debug.FreeOSMemory, has: runtimeHas, setLimit: debug.SetMemoryLimit,
		reading: Reading{Unlimited, Unlimited}, heapLimit: math.MaxInt64}
}

// runtimeHas returns what counts towards the soft limit of the Go runtime, in bytes.
func runtimeHas() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}

// Admit counts a connection for which there is memory, until Settle. If there is none, again is
// after how long the caller should ask again, or 0: then the connection is to be refused.
func (b *Budget) Admit() (ok bool, again time.Duration) {
	if b == nil {
		return true, 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if now.Sub(b.readAt) >= readInterval || !b.fits() {
		b.read(now)
	}
	if !b.fits() && now.Sub(b.tidiedAt) >= tidyInterval {
		b.tidy()
		b.tidiedAt = b.now()
		b.read(now)
	}
	if b.fits() {
		b.pending++
		b.shortSince = time.Time{}
		return true, 0
	}
	if b.shortSince.IsZero() {
		b.shortSince = now
	}
	if now.Sub(b.shortSince) >= patience {
		return false, 0
	}
	return false, retryInterval
}

func (b *Budget) fits() bool { return b.reading.Room() > b.pending }

// Settle is called once for each connection that was admitted, when it has all that it takes or has
// ended.
func (b *Budget) Settle() {
	if b == nil {
		return
	}
	b.mu.Lock()
	b.pending--
	b.mu.Unlock()
}

// Look reads what is left, and has the Go runtime follow it.
func (b *Budget) Look() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read(b.now())
}

// Buffer is how large the buffers of a socket may be, in bytes; 0 is as large as the kernel likes.
func (b *Budget) Buffer() int {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer
}

// Handshakes is how many handshakes with strangers may be under way, most at most.
func (b *Budget) Handshakes(most int) int {
	return b.share(handshakeShare, minHandshakes, most)
}

// Idle is how many connections may be kept open for later use, most at most.
func (b *Budget) Idle(most int) int { return b.share(idleShare, 0, most) }

// share is for how many connections there is room in one part of so many of what is left.
func (b *Budget) share(parts int64, least, most int) int {
	if b == nil {
		return most
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reading.Limit == Unlimited {
		return most
	}
	room := max(0, b.reading.Left-Reserve(b.reading.Limit)) / parts / ConnectionCost
	return min(max(int(room), least), most)
}

// read keeps the last reading if there is no other: an error is no reason to refuse anything.
func (b *Budget) read(now time.Time) {
	b.readAt = now
	r, err := b.gauge.Read(Scarce)
	if err != nil {
		return
	}
	b.reading = r
	b.buffer = r.buffer(b.buffer)
	if r.Left >= Scarce && b.heapLimit == math.MaxInt64 {
		return
	}
	if limit := r.heap(b.has()); limit == math.MaxInt64 || max(limit, b.heapLimit)-min(limit, b.heapLimit) >= heapStep {
		b.setLimit(limit)
		b.heapLimit = limit
	}
}
