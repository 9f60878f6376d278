//go:build linux

package bpf

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Urgent returns a file for [MapUrgent]. Who has it can read whether there was urgent data, and change nothing.
func (p *Programs) Urgent() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(p.objects.KgwUrgent.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "urgent"), nil
}

// MapUrgent returns what becomes 1 before the first urgent byte can be read from any socket that [UrgentAt] knows, and stays so. It is
// there for as long as the process lives; f may be closed before. It needs no privilege.
func MapUrgent(f *os.File) (*atomic.Uint32, error) {
	memory, err := unix.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(atomic.Uint32{})), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping what is known of urgent data: %w", err)
	}
	return (*atomic.Uint32)(unsafe.Pointer(unsafe.SliceData(memory))), nil
}
