//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/tuning"
)

// TuningOf returns how the application at the other end of a connection has tuned its socket: the
// connection is one accepted from the capture listener, or one that [PresentAs] was called for. Options
// that the application's socket, or its listener, had before [Programs.AttachSockets] are missing.
// It needs no privilege.
func TuningOf(fd int) (tuning.Tuning, error) {
	t, ok, err := namedTuning(fd)
	if !ok && err == nil {
		t, err = foundTuning(fd)
	}
	if err != nil {
		return tuning.Tuning{}, fmt.Errorf("asking for the application's options: %w", err)
	}
	return t.tuning(), nil
}

// foundTuning returns what the programs have found in the last namedTuning.
func foundTuning(fd int) (t objectsTuning, err error) {
	size := uint32(unsafe.Sizeof(t))
	if errno := getsockopt(fd, sockoptTuning, unsafe.Pointer(&t), &size); errno != 0 {
		return t, errno
	}
	return t, nil
}

// namedTuning asks the programs to find the application's socket, and reports whether they have named how that is tuned. They
// do so after [OriginalDestination] or [HandedOver]; in the place of any other tuning they leave the other end's address.
func namedTuning(fd int) (t objectsTuning, ok bool, err error) {
	var name unix.RawSockaddrInet6
	size := uint32(unsafe.Sizeof(name))
	if _, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return t, false, errno
	}
	ip := netip.AddrFrom16(name.Addr).Unmap()
	if name.Family == unix.AF_INET {
		ip = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&name)).Addr)
	}
	if !ip.Is4() {
		return t, false, nil
	}
	bytes := ip.As4()
	n := binary.BigEndian.Uint32(bytes[:])
	if n&tuningNameMask != tuningNamePrefix {
		return t, false, nil
	}
	// bits returns those of n from first on, up to next.
	bits := func(first, next int) uint32 { return n & (1<<next - 1) >> first }
	t.Set = n &^ tuningNameMask >> tuningNameSet
	t.Value[tuneKeepAlive] = bits(tuningNameKeepAlive, tuningNameSet)
	t.Value[tuneKeepIdle] = uint32(networkOrder(name.Port)) // both families have it at the same place
	t.Value[tuneKeepInterval] = bits(tuningNameKeepInterval, tuningNameKeepCount)
	t.Value[tuneKeepCount] = bits(tuningNameKeepCount, tuningNameKeepAlive)
	return t, true, nil
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
