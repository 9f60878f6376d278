//go:build linux

package memory

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// SmallPages has the kernel give this process, and all that it starts, pages of the usual size.
// Where transparent huge pages are on for every program, as on Debian and RHEL, a heap of which
// little is used takes 2 MiB here and there: 8 MiB of the 19 of an idle gateway.
func SmallPages() error {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("turning transparent huge pages off: %w", err)
	}
	return nil
}

// Program is what the kernel has mapped of this process's executable and can read from there again: its code and
// its constants.
type Program []mapping

// mapping is where something is mapped.
type mapping struct{ begin, end uintptr }

// OwnProgram returns the Program of this process, which is empty where /proc does not tell. A process that is confined
// asks before.
func OwnProgram() Program {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return nil
	}
	return parseProgram(string(smaps), exe)
}

// parseProgram finds the mappings of exe in smaps that are as in the file: no page of theirs was written to, by a
// dynamic linker for instance.
func parseProgram(smaps, exe string) (p Program) {
	var last mapping
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case strings.Contains(fields[0], "-"):
			last = mapping{}
			if !strings.HasSuffix(line, " "+exe+"\n") || fields[1] != "r-xp" && fields[1] != "r--p" {
				continue
			}
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &last.begin, &last.end); err != nil {
				last = mapping{}
			}
		case fields[0] == "Anonymous:" && fields[1] == "0" && last.end != 0:
			p = append(p, last)
		}
	}
	return p
}

// Tidy gives back what a process does not need while it has nothing to do: garbage, and its Program.
func (p Program) Tidy() {
	// Pools let go of their buffers in the second collection, which is part of FreeOSMemory.
	runtime.GC()
	debug.FreeOSMemory()
	p.Drop()
}

// Drop gives back the pages of p alone. The process finds them in the page cache when it goes on, 64 KiB at a time.
func (p Program) Drop() {
	for _, m := range p {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_DONTNEED)
	}
}
