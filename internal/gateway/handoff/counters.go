//go:build linux

package handoff

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// countersSize is in bytes.
const countersSize = int(unsafe.Sizeof(traffic.Counters{}))

// NewCounters makes counters in memory that workers share, one after the other: so a
// status needs no answer from the worker, and the totals survive it. The file is for
// ForWorker.
func NewCounters() (*traffic.Counters, *os.File, error) {
	// Without the seals a worker could shrink the file under the supervisor, whose next
	// read would then be a bus error.
	f, err := memoryFile("counters", unix.F_SEAL_SHRINK|unix.F_SEAL_GROW,
		func(f *os.File) error { return f.Truncate(int64(countersSize)) })
	if err != nil {
		return nil, nil, err
	}
	counters, err := mapCounters(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return counters, f, nil
}

// mapCounters returns the counters in f for as long as the process lives; f may be closed
// before.
func mapCounters(f *os.File) (*traffic.Counters, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	if info.Size() != int64(countersSize) {
		return nil, fmt.Errorf("mapping the counters: the file has %d bytes instead of %d", info.Size(), countersSize)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, countersSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	return (*traffic.Counters)(unsafe.Pointer(unsafe.SliceData(memory))), nil
}
