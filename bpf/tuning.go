//go:build linux

package bpf

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// TuningOf returns how the application at the other end of a connection has tuned its socket: the
// connection is one accepted from the capture listener, or one that [PresentAs] was called for. Options
// that the application's socket, or its listener, had before [Programs.AttachSockets] are missing.
// It needs no privilege.
func TuningOf(fd int) (tuning.Tuning, error) {
	// The programs find the application's socket in this call.
	var name unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(name))
	if _, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return tuning.Tuning{}, fmt.Errorf("asking for the application's options: %w", errno)
	}
	var t objectsTuning
	size = uint32(unsafe.Sizeof(t))
	if errno := getsockopt(fd, sockoptTuning, unsafe.Pointer(&t), &size); errno != 0 {
		return tuning.Tuning{}, fmt.Errorf("asking for the application's options: %w", errno)
	}
	return t.tuning(), nil
}

func (t *objectsTuning) tuning() (all tuning.Tuning) {
	if t.Set == 0 {
		return all
	}
	for number, o := range [...]tuning.Option{
		tuneKeepAlive: tuning.KeepAlive, tuneKeepIdle: tuning.KeepIdle, tuneKeepInterval: tuning.KeepInterval, tuneKeepCount: tuning.KeepCount,
		tuneUserTimeout: tuning.UserTimeout, tuneTOS: tuning.TOS, tuneTrafficClass: tuning.TrafficClass, tunePriority: tuning.Priority,
	} {
		if t.Set&(1<<number) != 0 {
			all.Set(o, int32(t.Value[number]))
		}
	}
	if t.Set&(1<<tuneCongestion) != 0 {
		name := make([]byte, 0, len(t.Congestion))
		for _, c := range t.Congestion {
			if c == 0 {
				break
			}
			name = append(name, byte(c))
		}
		all.Congestion = string(name)
	}
	return all
}
