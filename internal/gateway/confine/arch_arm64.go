//go:build linux

package confine

import "golang.org/x/sys/unix"

// auditArch names the numbers of system calls that table uses.
const auditArch = unix.AUDIT_ARCH_AARCH64

// archRules returns rules for calls that only some architectures have.
func archRules() []rule { return nil }
