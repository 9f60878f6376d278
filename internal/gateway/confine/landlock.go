//go:build linux

package confine

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlockRulePort is LANDLOCK_RULE_NET_PORT, and portRule its attribute (include/uapi/linux/landlock.h).
const landlockRulePort = 2

type portRule struct{ access, port uint64 }

// restrictSelf has Landlock refuse what role does not need, and returns the version of its ABI. It is 0 for
// kernels without Landlock.
//
// The signals of Landlock are not used: threads that it confines one by one cannot send each other
// any before Linux 6.15, which Go's scheduler does. The filter of system calls refuses signals to others.
func restrictSelf(role Role) (abi int, err error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
		return 0, nil
	}
	if errno != 0 {
		return 0, errno
	}
	abi = int(version)
	attr := attributes(role, abi)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return 0, fmt.Errorf("making the rules: %w", errno)
	}
	defer unix.Close(int(fd))
	if role == Worker && attr.Handled_access_net != 0 {
		// Connections to applications come from a chosen address, and a port that the kernel chooses.
		anyPort := portRule{access: unix.LANDLOCK_ACCESS_NET_BIND_TCP}
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, landlockRulePort, uintptr(unsafe.Pointer(&anyPort)), 0, 0, 0); errno != 0 {
			return 0, fmt.Errorf("adding a rule: %w", errno)
		}
	}
	// Landlock confines one thread, and those that it starts.
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		if errno == unix.ENOTSUP {
			return 0, errors.New("a program with cgo cannot confine all threads")
		}
		return 0, errno
	}
	return abi, nil
}

// attributes returns what is refused by the ABI of a kernel (landlock(7)): every path of the file system,
// TCP sockets with a port of their own, and for an exporter connections; abstract Unix sockets of others.
func attributes(role Role, abi int) (attr unix.LandlockRulesetAttr) {
	attr.Handled_access_fs = unix.LANDLOCK_ACCESS_FS_REFER - 1
	if abi >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP
		if role == Exporter {
			attr.Handled_access_net |= unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
		}
	}
	if abi >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return attr
}
