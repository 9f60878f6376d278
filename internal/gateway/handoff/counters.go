//go:build linux

package handoff

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
)

// countersSize is in bytes, and that of the pages in front of the spool.
const (
	pageSize     = 64 << 10 // the largest that Linux has
	countersSize = (int(unsafe.Sizeof(traffic.Counters{})) + pageSize - 1) / pageSize * pageSize
	sharedSize   = countersSize + journal.SpoolSize
)

// SharedMemory is memory that workers share with their supervisor, one after the other.
type SharedMemory struct {
	// Counters are there so that a status needs no answer from the worker, and the totals survive it.
	Counters *traffic.Counters
	// Spool has the lines that a worker has not written when it dies.
	Spool *journal.Spool
}

// NewSharedMemory makes such memory. The file is for ForWorker.
func NewSharedMemory() (*SharedMemory, *os.File, error) {
	// Without the seals a worker could shrink the file under the supervisor, whose next
	// read would then be a bus error.
	f, err := memoryFile("counters", unix.F_SEAL_SHRINK|unix.F_SEAL_GROW,
		func(f *os.File) error { return f.Truncate(int64(sharedSize)) })
	if err != nil {
		return nil, nil, err
	}
	shared, err := mapShared(f)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return shared, f, nil
}

// mapShared returns what is in f for as long as the process lives; f may be closed
// before.
func mapShared(f *os.File) (*SharedMemory, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	if info.Size() != int64(sharedSize) {
		return nil, fmt.Errorf("mapping the counters: the file has %d bytes instead of %d", info.Size(), sharedSize)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	return &SharedMemory{(*traffic.Counters)(unsafe.Pointer(unsafe.SliceData(memory))), journal.NewSpool(memory[countersSize:])}, nil
}

// FreeSpool gives back the memory of the spool in such a file, whose lines are lost: everything in it is zero then.
func FreeSpool(f *os.File) error {
	return os.NewSyscallError("fallocate",
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(countersSize), journal.SpoolSize))
}
