//go:build linux

package memory

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Find returns a Gauge of this process's container and pod, given their directories in cgroup2. Where
// version 1 has the memory controller, it reads the directories of the same names there.
func Find(own, pod string) (*Gauge, error) {
	g, err := Open(own, pod)
	if !errors.Is(err, ErrNoController) {
		return g, err
	}
	dirs, findErr := legacyDirs("/proc/self/cgroup", "/proc/self/mountinfo", "/", filepath.Base(pod))
	if findErr != nil {
		return nil, findErr
	}
	return Open(dirs...)
}

// legacyDirs returns the directories of this process in version 1's hierarchy of memory, from its own
// up to the one that is called podName, given two files of proc(5) and the root of the file system.
func legacyDirs(self, mounts, root, podName string) (dirs []string, err error) {
	text, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	current := ""
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && slices.Contains(strings.Split(fields[1], ","), "memory") {
			current = path.Clean(fields[2])
		}
	}
	if !slices.Contains(strings.Split(current, "/"), podName) {
		return nil, fmt.Errorf("%w, and version 1 has no directory %s for this process", ErrNoController, podName)
	}
	f, err := os.Open(mounts)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all, err := mountinfo.GetMountsFromReader(f, mountinfo.FSTypeFilter("cgroup"))
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	for _, m := range all {
		below, ok := strings.CutPrefix(current, strings.TrimSuffix(m.Root, "/")+"/")
		if !ok || !slices.Contains(strings.Split(m.VFSOptions, ","), "memory") {
			continue
		}
		for dir := "/" + below; dir != "/"; dir = path.Dir(dir) {
			dirs = append(dirs, filepath.Join(root, m.Mountpoint, dir))
			if path.Base(dir) == podName {
				return dirs, nil
			}
		}
		dirs = nil
	}
	return nil, fmt.Errorf("%w, and no mount of version 1 shows %s", ErrNoController, current)
}
