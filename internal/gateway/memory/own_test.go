//go:build linux

package memory

import (
	"runtime"
	"testing"
)

func TestParseAnonymous(t *testing.T) {
	const rollup = `00400000-7ffc7a5c8000 ---p 00000000 00:00 0                              [rollup]
Rss:                7892 kB
Pss:                3730 kB
Anonymous:          2340 kB
LazyFree:              4 kB
`
	if n, ok := parseAnonymous([]byte(rollup)); !ok || n != 2340<<10 {
		t.Errorf("%d, %t", n, ok)
	}
	for _, text := range []string{"", "Anonymous:\n", "Anonymous: many kB\n", "LazyFree: 4 kB\n"} {
		if n, ok := parseAnonymous([]byte(text)); ok {
			t.Errorf("%q has %d", text, n)
		}
	}
}

func TestGrown(t *testing.T) {
	o := OpenOwn()
	const size = 32 << 20
	was := o.Grown()
	more := make([]byte, size)
	for i := range more {
		more[i] = 1
	}
	if by := o.Grown(); by < was+size/2 {
		t.Errorf("grown by %d, and by %d with %d more", was, by, size)
	}
	runtime.KeepAlive(more)
	var none *Own
	if by := none.Grown(); by != 0 {
		t.Errorf("nothing has grown by %d", by)
	}
}
