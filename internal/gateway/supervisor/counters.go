//go:build linux

package supervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/proxy"
)

// createCounters makes a memory file for the traffic counters, which the
// worker writes and the supervisor reads: so a status needs no answer from the
// worker, and the totals survive it.
func createCounters() (*os.File, error) {
	fd, err := unix.MemfdCreate("kube-gateway-counters", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("creating a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "counters")
	if err := f.Truncate(int64(proxy.CountersSize)); err != nil {
		f.Close()
		return nil, fmt.Errorf("sizing the counters: %w", err)
	}
	// Without the seals a worker could shrink the file under the supervisor,
	// whose next read would then be a bus error.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("sealing the counters: %w", err)
	}
	return f, nil
}
