//go:build linux

package memory

import (
	"bytes"
	"math"
	"os"
	"strconv"
	"sync"
)

// Own follows how much memory of its own this process has, in no file. It is safe for concurrent use.
type Own struct {
	rollup *os.File
	mu     sync.Mutex
	// least is the least that was seen, in bytes.
	least int64
}

// OpenOwn opens what shows the memory. A process that is confined asks before. It returns nil where /proc does not tell.
func OpenOwn() *Own {
	f, err := os.Open("/proc/self/smaps_rollup")
	if err != nil {
		return nil
	}
	o := &Own{rollup: f, least: math.MaxInt64}
	o.Grown()
	return o
}

// Grown returns how many bytes more this process has than the least that was seen, 0 where that is unknown. The kernel goes
// through all its pages.
func (o *Own) Grown() int64 {
	if o == nil {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var text [2048]byte
	// Reading from the beginning has the kernel write it anew.
	n, _ := o.rollup.ReadAt(text[:], 0)
	has, ok := parseAnonymous(text[:n])
	if !ok {
		return 0
	}
	o.least = min(o.least, has)
	return has - o.least
}

// parseAnonymous returns the bytes that smaps_rollup names, or false.
func parseAnonymous(rollup []byte) (int64, bool) {
	for line := range bytes.Lines(rollup) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "Anonymous:" {
			kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}
