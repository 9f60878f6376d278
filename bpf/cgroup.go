//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Cgroup is a directory of the cgroup2 hierarchy.
type Cgroup struct {
	// Path is the absolute path of the directory, as this process sees it.
	Path string
	// Rel is the path below the mount point, for messages.
	Rel string
	// ID is what bpf_get_current_cgroup_id returns for its processes: the inode
	// number of the directory (64-bit Linux, since 5.5).
	ID uint64
}

// maxCgroupDepth keeps Rel well below CGROUP_LEVELS of decide.h, because a cgroup
// namespace hides the levels above its root.
const maxCgroupDepth = 20

const cgroupHint = "the gateway's container must be privileged and share the node's cgroup namespace"

// OpenCgroup returns the cgroup at an absolute path.
func OpenCgroup(path string) (Cgroup, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Cgroup{}, fmt.Errorf("looking at cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return Cgroup{}, fmt.Errorf("%s is not a directory of cgroup2", path)
	}
	return statCgroup(path, path)
}

func statCgroup(path, rel string) (Cgroup, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Cgroup{}, fmt.Errorf("looking at cgroup %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return Cgroup{}, fmt.Errorf("looking at cgroup %s: not a directory", path)
	}
	return Cgroup{Path: path, Rel: rel, ID: st.Ino}, nil
}

// PodCgroup returns the cgroup of the pod that this process runs in, and that of
// its own container, the level right below. It fails unless a directory above
// this process is named after the pod. It guesses nothing: programs attached one level
// too high would capture other pods.
func PodCgroup(podUID string) (pod, own Cgroup, err error) {
	pod, own, err = findPodCgroup("/proc/self/mountinfo", "/proc/self/cgroup", "/", podUID)
	if err != nil {
		return Cgroup{}, Cgroup{}, fmt.Errorf("finding the pod's cgroup: %w", err)
	}
	for _, c := range []Cgroup{pod, own} {
		if _, err := OpenCgroup(c.Path); err != nil {
			return Cgroup{}, Cgroup{}, fmt.Errorf("finding the pod's cgroup: %w", err)
		}
	}
	return pod, own, nil
}

// uidForm is the form of a UID that the API server gives out. Static pods have a
// hash without hyphens, and cannot have ephemeral containers.
var uidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// findPodCgroup is PodCgroup with the two files of proc(5) and the root of the
// file system that mount points are relative to.
func findPodCgroup(mounts, self, root, podUID string) (pod, own Cgroup, err error) {
	if !uidForm.MatchString(podUID) {
		return pod, own, fmt.Errorf("pod UID %q is not one that the API server gives out", podUID)
	}
	current, err := unifiedPath(self)
	if err != nil {
		return pod, own, err
	}
	mount, rel, err := cgroup2Mount(mounts, current)
	if err != nil {
		return pod, own, err
	}

	// The deepest directory that is named after the pod is the pod's.
	names := strings.Split(strings.Trim(rel, "/"), "/")
	at := -1
	for i, name := range names {
		if namesPod(name, podUID) {
			at = i
		}
	}
	switch {
	case at < 0:
		return pod, own, api.WithHint(
			fmt.Errorf("no part of %s is named after pod %s", current, podUID), cgroupHint)
	case at == len(names)-1:
		return pod, own, fmt.Errorf("%s is the pod's cgroup itself: the gateway has none of its own", current)
	case len(names) > maxCgroupDepth:
		return pod, own, fmt.Errorf("%s has more than %d levels", current, maxCgroupDepth)
	}
	at++
	podRel, ownRel := "/"+path.Join(names[:at]...), "/"+path.Join(names[:at+1]...)
	if pod, err = statCgroup(filepath.Join(root, mount, podRel), podRel); err != nil {
		return Cgroup{}, Cgroup{}, api.WithHint(err, cgroupHint)
	}
	if own, err = statCgroup(filepath.Join(root, mount, ownRel), ownRel); err != nil {
		return Cgroup{}, Cgroup{}, api.WithHint(err, cgroupHint)
	}
	return pod, own, nil
}

// namesPod reports whether a directory's name is that of the pod's cgroup:
// "pod<uid>" of the kubelet's cgroupfs driver, "<parents>-pod<uid>.slice" with
// underscores in the UID of its systemd driver.
func namesPod(name, uid string) bool {
	if name == "pod"+uid {
		return true
	}
	stem, ok := strings.CutSuffix(name, ".slice")
	if !ok {
		return false
	}
	uid = strings.ReplaceAll(uid, "-", "_")
	return stem == "pod"+uid || strings.HasSuffix(stem, "-pod"+uid)
}

// unifiedPath returns the cgroup2 path of a process from its /proc/<pid>/cgroup.
func unifiedPath(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading this process's cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		switch {
		case !ok:
			continue
		case p == "/":
			return "", api.WithHint(errors.New("this process has a cgroup namespace of its own, and is at its root"), cgroupHint)
		case !path.IsAbs(p) || strings.HasPrefix(p, "/../") || strings.HasSuffix(p, " (deleted)"):
			return "", fmt.Errorf("this process's cgroup %q cannot be used", p)
		}
		return path.Clean(p), nil
	}
	return "", api.WithHint(errors.New("this process has no cgroup of version 2"),
		"the node needs cgroup2, mounted alone or beside version 1")
}

// cgroup2Mount returns a mount point of cgroup2 that shows the path current, and
// the path of current below it.
func cgroup2Mount(file, current string) (mount, rel string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", "", fmt.Errorf("reading the mounts: %w", err)
	}
	defer f.Close()
	all, err := mountinfo.GetMountsFromReader(f, mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", "", fmt.Errorf("reading the mounts: %w", err)
	}
	for _, m := range all {
		if m.Root == "/" {
			return m.Mountpoint, current, nil
		}
		if below, ok := strings.CutPrefix(current, m.Root+"/"); ok && mount == "" {
			mount, rel = m.Mountpoint, "/"+below
		}
	}
	switch {
	case len(all) == 0:
		return "", "", api.WithHint(errors.New("cgroup2 is not mounted"), cgroupHint)
	case mount == "":
		return "", "", api.WithHint(fmt.Errorf("no mount of cgroup2 shows %s", current), cgroupHint)
	}
	return mount, rel, nil
}
