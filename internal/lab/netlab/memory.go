//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// HasMemory reports whether cgroup2 has the memory controller, enabled at the mount point.
func HasMemory() bool {
	mount, err := cgroupMount()
	if err != nil {
		return false
	}
	text, err := os.ReadFile(filepath.Join(mount, "cgroup.subtree_control"))
	return err == nil && slices.Contains(strings.Fields(string(text)), "memory")
}

// LimitMemory gives the pod a limit of bytes, without swap. The memory controller must be there,
// see [HasMemory]. A process that the kernel kills there does not fail the test.
func (n *Node) LimitMemory(bytes int) error {
	dirs := []string{n.PodCgroup}
	for dirs[0] != n.lab.root {
		dirs = slices.Insert(dirs, 0, filepath.Dir(dirs[0]))
	}
	if err := enableMemory(dirs...); err != nil {
		return err
	}
	n.mayKill = true
	// The file is missing in a kernel without swap.
	if err := os.WriteFile(filepath.Join(n.PodCgroup, "memory.swap.max"), []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(filepath.Join(n.PodCgroup, "memory.max"), []byte(strconv.Itoa(bytes)), 0)
}

// enableMemory enables the memory controller below dirs, from the top.
func enableMemory(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			return fmt.Errorf("enabling the memory controller: %w", err)
		}
	}
	return nil
}

// MemoryEvent returns a number of the pod's memory.events.
func (n *Node) MemoryEvent(name string) (int, error) {
	path := filepath.Join(n.PodCgroup, "memory.events")
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.Atoi(strings.TrimSpace(count))
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
