//go:build linux

package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rootPrefix begins the name of every directory that a Lab makes right below the
// mount point, and below the directory for temporary files, followed by
// "<pid>-<n>".
const rootPrefix = "kubectl-gateway-test-"

// cgroupMount returns where cgroup2 is mounted: alone, or beside version 1.
func cgroupMount() (string, error) {
	for _, path := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return path, nil
		}
	}
	return "", errors.New("cgroup2 is not mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")
}

func makeRoot(mount string) (string, error) {
	for n := 1; ; n++ {
		path := filepath.Join(mount, fmt.Sprintf("%s%d-%d", rootPrefix, os.Getpid(), n))
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("making a cgroup: %w", err)
		}
		return path, nil
	}
}

// removeStale removes the cgroups, ends the processes in them, and removes the files of
// those that made them and are gone.
func removeStale(mount string) (errs []error) {
	for _, dir := range ownedByDead(mount) {
		if err := removeTree(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, dir := range ownedByDead(os.TempDir()) {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// ownedByDead returns the directories of Labs in dir whose process is no more.
func ownedByDead(dir string) (found []string) {
	paths, err := filepath.Glob(filepath.Join(dir, rootPrefix+"*"))
	if err != nil {
		return nil
	}
	for _, path := range paths {
		owner, _, ok := strings.Cut(strings.TrimPrefix(filepath.Base(path), rootPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if ok && err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			found = append(found, path)
		}
	}
	return found
}

// removeTree ends every process in a cgroup tree of ours and removes it.
func removeTree(root string) error {
	if !strings.HasPrefix(filepath.Base(root), rootPrefix) {
		return fmt.Errorf("%s is no cgroup of a test", root)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		busy, err := removeOnce(root)
		if err != nil || !busy {
			return err
		}
		// cgroup.procs empties, and rmdir stops saying EBUSY, only once the
		// processes are reaped; there is no event to wait for on old kernels.
		if time.Now().After(deadline) {
			return fmt.Errorf("removing cgroup %s: still busy", root)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func removeOnce(root string) (busy bool, err error) {
	var dirs []string
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		procs, err := os.ReadFile(filepath.Join(dirs[i], "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return false, err
		}
		for _, field := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 && pid != os.Getpid() {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		switch err := unix.Rmdir(dirs[i]); {
		case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY):
			busy = true
		case err != nil && !errors.Is(err, unix.ENOENT):
			return false, fmt.Errorf("removing cgroup %s: %w", dirs[i], err)
		}
	}
	return busy, nil
}
