//go:build linux

package memory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Unlimited is the limit of a cgroup that has none. Version 1 shows the largest number of whole
// pages instead (include/linux/page_counter.h: PAGE_COUNTER_MAX).
const Unlimited = math.MaxInt64

// ErrNoController means that a cgroup has no files about memory.
var ErrNoController = errors.New("the cgroup has no memory controller")

// fileNames are the files of a cgroup that a Gauge reads: the limit, what is used, and of what kind
// that is. Version 2 has the first names (Documentation/admin-guide/cgroup-v2.rst), version 1 the
// second (cgroup-v1/memory.rst).
var fileNames = [2][filesOfCgroup]string{
	{"memory.max", "memory.current", "memory.stat"},
	{"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"},
}

const filesOfCgroup = 3

// cgroup holds the open files of one.
type cgroup struct{ max, current, stat *os.File }

// Gauge reads how much memory may be used, from a cgroup and those above it. Its files stay open: to
// read them needs no right, and another process can have them.
type Gauge struct {
	mu      sync.Mutex
	cgroups []cgroup
	// text is what a file is read into.
	text [8 << 10]byte
}

// Open returns a Gauge of the cgroups at some paths, the gateway's own first. The error is
// ErrNoController where none of them has the files.
func Open(dirs ...string) (*Gauge, error) {
	var files []*os.File
	for _, dir := range dirs {
		opened, err := openCgroup(dir)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("reading the memory of cgroup %s: %w", dir, err)
		}
		files = append(files, opened...)
	}
	return FromFiles(files), nil
}

func openCgroup(dir string) ([]*os.File, error) {
	for _, names := range fileNames {
		var files []*os.File
		for _, name := range names {
			f, err := os.Open(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				closeAll(files)
				return nil, err
			}
			files = append(files, f)
		}
		if len(files) == filesOfCgroup {
			return files, nil
		}
		closeAll(files)
	}
	return nil, ErrNoController
}

// FromFiles returns the Gauge with these Files, nil for none.
func FromFiles(files []*os.File) *Gauge {
	if len(files) == 0 {
		return nil
	}
	g := new(Gauge)
	for ; len(files) >= filesOfCgroup; files = files[filesOfCgroup:] {
		g.cgroups = append(g.cgroups, cgroup{files[0], files[1], files[2]})
	}
	return g
}

// Files returns the files of g, for FromFiles in another process. A nil Gauge has none.
func (g *Gauge) Files() []*os.File {
	if g == nil {
		return nil
	}
	var files []*os.File
	for _, c := range g.cgroups {
		files = append(files, c.max, c.current, c.stat)
	}
	return files
}

// Close closes the files of g, which may be nil.
func (g *Gauge) Close() { closeAll(g.Files()) }

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Reading is what a Gauge shows at one moment, in bytes.
type Reading struct {
	// Limit is that of the cgroup in which least is left, Unlimited if none has a limit.
	Limit int64
	// Left is what of it is not used, what the kernel can reclaim included: Unlimited, or 0 to Limit.
	Left int64
}

// Read reads what is left. What can be reclaimed is read only where less than enough is left without it:
// the kernel adds it up for every reader.
func (g *Gauge) Read(enough int64) (Reading, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	least := Reading{Unlimited, Unlimited}
	for _, c := range g.cgroups {
		limit, err := g.number(c.max)
		if err != nil {
			return Reading{}, err
		}
		if limit == Unlimited {
			continue
		}
		used, err := g.number(c.current)
		if err != nil {
			return Reading{}, err
		}
		if limit-used < enough {
			text, err := g.read(c.stat)
			if err != nil {
				return Reading{}, err
			}
			used -= reclaimable(text)
		}
		if left := min(max(limit-used, 0), limit); left < least.Left {
			least = Reading{limit, left}
		}
	}
	return least, nil
}

// Own returns how much memory the first cgroup uses, in bytes, page cache included.
func (g *Gauge) Own() (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.number(g.cgroups[0].current)
}

func (g *Gauge) number(f *os.File) (int64, error) {
	text, err := g.read(f)
	if err != nil {
		return 0, err
	}
	n, err := parse(text)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	return n, nil
}

// read returns the present text of a file until the next call. Reading from the beginning has the
// kernel write it anew.
func (g *Gauge) read(f *os.File) ([]byte, error) {
	n, err := f.ReadAt(g.text[:], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return g.text[:n], nil
}

// parse reads a number of bytes, or "max".
func parse(text []byte) (int64, error) {
	word := string(bytes.TrimSpace(text))
	if word == "max" {
		return Unlimited, nil
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		return 0, err
	}
	// No machine has as much.
	if n >= 1<<60 {
		return Unlimited, nil
	}
	return int64(n), nil
}

// reclaimable adds up what the kernel drops before it kills: page cache, be it in use or not, and its
// own caches. Files on tmpfs are not among it. The totals of version 1 include the cgroups below, as
// all numbers of version 2 do.
func reclaimable(stat []byte) int64 {
	var sum, total int64
	for line := range bytes.Lines(stat) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			continue
		}
		switch string(name) {
		case "inactive_file", "active_file", "slab_reclaimable":
			sum += n
		case "total_inactive_file", "total_active_file":
			total += n
		}
	}
	return max(sum, total)
}
