//go:build linux

package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// HideMemory keeps processes of the same user from the memory and the open files of this one, also
// from a core dump, until it ends.
func HideMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protecting the process's memory: %w", err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("protecting the process's memory: %w", err)
	}
	if dumpable != 0 {
		return errors.New("protecting the process's memory: the kernel leaves it open")
	}
	return nil
}

// Apply confines all threads of this process to what its role needs, for good. It returns what is in force,
// together with an error if that is not everything; a kernel without Landlock is none. The
// process must not be able to gain privileges (no_new_privs), or be root.
func Apply(role Role) (api.Confinement, error) {
	// The runtime reads the file of its time zone when it first needs it.
	_, _ = time.Now().Zone()
	var c api.Confinement
	var errs [2]error
	// The filter refuses what Landlock takes to be set up.
	if c.Landlock, errs[0] = restrictSelf(role); errs[0] != nil {
		errs[0] = fmt.Errorf("confining by Landlock: %w", errs[0])
	}
	errs[1] = install(filter(ofRole(table(os.Getpid()), role)))
	if c.Seccomp = errs[1] == nil; !c.Seccomp {
		errs[1] = fmt.Errorf("filtering system calls: %w", errs[1])
	}
	return c, errors.Join(errs[:]...)
}

func ofRole(rules []rule, role Role) []rule {
	return slices.DeleteFunc(rules, func(r rule) bool { return r.roles&role == 0 })
}

// install puts a filter in force for all threads of this process.
func install(program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		code[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: unsafe.SliceData(code)}
	// All threads, those that exist included. Refused calls are in the kernel's audit log. Nothing foreign
	// runs in this process that could read its memory by speculation: without the flag, kernels before 5.16 would
	// slow it down for that.
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	switch {
	case errno != 0:
		return errno
	case thread != 0:
		return fmt.Errorf("thread %d has another filter", thread)
	}
	return nil
}
