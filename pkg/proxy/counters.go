//go:build linux

package proxy

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Counters counts the connections of a gateway. Its layout is fixed, so that
// it can lie in memory that two processes share: the worker counts, the
// supervisor reads, and a worker that crashes takes no totals with it.
type Counters struct {
	outbound, inbound direction
	// ended counts connections that are over, aborted those of them that were
	// aborted for the end of Serve.
	ended, aborted atomic.Uint64
}

// CountersSize is the size in bytes of the file that MapCounters maps.
const CountersSize = int(unsafe.Sizeof(Counters{}))

type direction struct {
	active                        atomic.Int64
	encrypted, plaintext, refused atomic.Uint64
	// inband is part of encrypted, notAllowed of refused, and optionLost of
	// plaintext and refused.
	inband, notAllowed, optionLost atomic.Uint64
	sent, received                 atomic.Uint64
	// reasons are parts of plaintext and refused: each of those connections has one.
	reasons [maxReasons]atomic.Uint64
}

// NewCounters returns counters in ordinary memory, all zero.
func NewCounters() *Counters { return new(Counters) }

// MapCounters returns the counters that lie in f, which must be readable,
// writable and at least CountersSize bytes long; a memfd will do. The mapping
// lasts as long as the process; f may be closed afterwards. Whoever shares f
// with a process that it does not trust must keep that one from shrinking the
// file (F_SEAL_SHRINK), or reading the counters ends with SIGBUS.
func MapCounters(f *os.File) (*Counters, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	if info.Size() < int64(CountersSize) {
		return nil, fmt.Errorf("mapping the counters: the file has %d bytes instead of %d", info.Size(), CountersSize)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, CountersSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	return (*Counters)(unsafe.Pointer(unsafe.SliceData(memory))), nil
}

// Traffic returns the counts so far. Bytes of open connections are included
// up to a few seconds ago.
func (c *Counters) Traffic() api.Traffic {
	return api.Traffic{Outbound: c.outbound.read(), Inbound: c.inbound.read()}
}

// ResetActive sets the numbers of open connections to zero, as is true when
// the process that counted them is gone.
func (c *Counters) ResetActive() {
	c.outbound.active.Store(0)
	c.inbound.active.Store(0)
}

// Ended returns how many connections are over, whatever their end was, and how many
// of them were aborted because Serve was to end.
func (c *Counters) Ended() (ended, aborted uint64) { return c.ended.Load(), c.aborted.Load() }

func (d *direction) read() api.Direction {
	return api.Direction{
		Active:     d.active.Load(),
		Encrypted:  d.encrypted.Load(),
		Plaintext:  d.plaintext.Load(),
		Refused:    d.refused.Load(),
		Inband:     d.inband.Load(),
		NotAllowed: d.notAllowed.Load(),
		OptionLost: d.optionLost.Load(),
		Sent:       d.sent.Load(),
		Received:   d.received.Load(),
	}
}
