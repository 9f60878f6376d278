//go:build linux

package memory

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestParseProgram(t *testing.T) {
	const smaps = `00400000-00522000 r-xp 00000000 fe:00 99                   /a/b c
Size:               1160 kB
Anonymous:             0 kB
00522000-00678000 r--p 00122000 fe:00 99                   /a/b c
Anonymous:             4 kB
00678000-00690000 r--p 00278000 fe:00 99                   /a/b c
Anonymous:             0 kB
00690000-006a0000 rw-p 00290000 fe:00 99                   /a/b c
Anonymous:             0 kB
7fba0ecf0000-7fba0ed40000 r--p 00000000 fe:00 98           /a/c c
Anonymous:             0 kB
7fba0ed40000-7fba0ed50000 rw-p 00000000 00:00 0
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac
`
	want := Program{{0x400000, 0x522000}, {0x678000, 0x690000}}
	if diff := cmp.Diff(want, parseProgram(smaps, "/a/b c"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

// Whoever has had all of its program in memory has given it back afterwards, and can go on.
func TestTidy(t *testing.T) {
	own := OwnProgram()
	size := 0
	for _, m := range own {
		size += int(m.end - m.begin)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.begin, m.end-m.begin, unix.MADV_POPULATE_READ); errno != 0 {
			t.Fatal(errno)
		}
	}
	before := mapped(t)
	own.Tidy()
	after := mapped(t)
	if size == 0 || before < size || after > before-size/2 {
		t.Errorf("of %d bytes %d were mapped before and %d after", size, before, after)
	}
}

// mapped returns how many bytes of files this process has in memory.
func mapped(t *testing.T) int {
	text := must.Get(os.ReadFile("/proc/self/status"))(t)
	kib := must.Get(strconv.Atoi(regexp.MustCompile(`RssFile:\s+(\d+) kB`).FindStringSubmatch(string(text))[1]))(t)
	return kib << 10
}
