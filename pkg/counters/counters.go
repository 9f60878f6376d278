// Package counters holds the traffic counters of a gateway in memory that the
// worker writes and the supervisor reads: so a status needs no answer from the
// worker, and the totals survive it.
package counters

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// Direction counts the connections of one direction; see api.Direction.
type Direction struct {
	Active    atomic.Int64
	Encrypted atomic.Uint64
	Plaintext atomic.Uint64
	Refused   atomic.Uint64
	Sent      atomic.Uint64
	Received  atomic.Uint64
	// The directions are written by different connections: this keeps them on
	// cache lines (64 bytes on amd64 and arm64) of their own.
	_ [16]byte
}

// Traffic is the whole set.
type Traffic struct {
	Outbound Direction
	Inbound  Direction
}

const size = int(unsafe.Sizeof(Traffic{}))

// Create makes a memory file that holds one Traffic, all zero.
func Create() (*os.File, error) {
	fd, err := unix.MemfdCreate("kube-gateway-counters", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("creating a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "counters")
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, fmt.Errorf("sizing the counters: %w", err)
	}
	// Without this a worker could shrink the file under the supervisor, whose
	// next read would then be a bus error.
	if err := seal(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func seal(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("sealing the counters: %w", err)
	}
	return nil
}

// Map returns the Traffic in a file that Create made. It stays mapped until
// the process ends.
func Map(f *os.File) (*Traffic, error) {
	memory, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping the counters: %w", err)
	}
	return (*Traffic)(unsafe.Pointer(&memory[0])), nil
}

// Restart forgets what only a live worker can have: open connections.
func (t *Traffic) Restart() {
	t.Outbound.Active.Store(0)
	t.Inbound.Active.Store(0)
}

// Read returns the numbers as a status reports them.
func (t *Traffic) Read() api.Traffic {
	return api.Traffic{Outbound: t.Outbound.read(), Inbound: t.Inbound.read()}
}

func (d *Direction) read() api.Direction {
	return api.Direction{
		Active:    d.Active.Load(),
		Encrypted: d.Encrypted.Load(),
		Plaintext: d.Plaintext.Load(),
		Refused:   d.Refused.Load(),
		Sent:      d.Sent.Load(),
		Received:  d.Received.Load(),
	}
}
