//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The control groups of a cluster, below the machine's cgroup2 hierarchy:
//
//	<ID>/supervisor
//	<ID>/build               compilers that up started
//	<ID>/control-plane
//	<ID>/node-N              root of the node's cgroup namespace
//	<ID>/node-N/system       its daemons; a leaf, as cgroup2 wants for processes
//	<ID>/node-N/exec         commands of the verb exec
//	<ID>/node-N/kubepods/…   pods
//
// Every process is born into the tree (CLONE_INTO_CGROUP) and only this program
// puts processes there, so membership is what identifies the cluster's own.

// cgroup2Mount returns where the machine's cgroup2 hierarchy is mounted:
// /sys/fs/cgroup, or /sys/fs/cgroup/unified beside cgroup v1.
func cgroup2Mount() (string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("finding cgroup2: %w", err)
	}
	defer file.Close()
	return findCgroup2(file)
}

// findCgroup2 finds the mount point in the text of mountinfo, see proc(5).
func findCgroup2(mountinfo io.Reader) (string, error) {
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		// 35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(left)
		if ok && len(fields) >= 5 && fields[3] == "/" && strings.HasPrefix(right, "cgroup2 ") {
			return fields[4], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("finding cgroup2: %w", err)
	}
	return "", withHint(errors.New("no cgroup2 hierarchy is mounted"), "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
}

// cgroup returns the directory of one of the cluster's control groups.
func (c *Cluster) cgroup(elements ...string) (string, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	return filepath.Join(append([]string{mount, c.ID}, elements...)...), nil
}

// openCgroup makes a control group and opens it for SysProcAttr.CgroupFD.
func (c *Cluster) openCgroup(elements ...string) (*os.File, error) {
	dir, err := c.cgroup(elements...)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a control group: %w", err)
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening a control group: %w", err)
	}
	return file, nil
}

// joinCgroup moves the calling process into an existing or new control group.
func (c *Cluster) joinCgroup(elements ...string) error {
	dir, err := c.cgroup(elements...)
	if err != nil {
		return err
	}
	return enterCgroup(dir)
}

func enterCgroup(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making a control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("joining a control group: %w", err)
	}
	return nil
}

// owns tells whether a process is alive and in the cluster's control group.
func (c *Cluster) owns(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err == nil && inCgroup(string(data), c.ID)
}

// inCgroup tells from the text of /proc/<pid>/cgroup whether the process is in
// the control group id or below it. The path starts at the root of the reader's
// cgroup namespace, which has the cluster's group as a direct child.
func inCgroup(text, id string) bool {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/"); ok {
			first, _, _ := strings.Cut(path, "/")
			// A process that has ended, but whose parent has not noticed,
			// outlives its group.
			return first == id && !strings.HasSuffix(path, " (deleted)")
		}
	}
	return false
}

// processes lists every process of a control group and of those below it.
func processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		// Groups of containers come and go while we read.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EOPNOTSUPP) {
			return nil
		}
		for field := range strings.FieldsSeq(string(data)) {
			// 0 stands for a process outside of our PID namespace.
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the processes of %s: %w", dir, err)
	}
	slices.Sort(pids)
	return pids, nil
}

// killCgroup ends every process of a control group and waits until they are
// gone, mounts and namespaces with them. It is no error when there is none.
func killCgroup(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := await(ctx, func() error {
		if err := killOnce(dir); err != nil {
			return err
		}
		pids, err := processes(dir)
		if err == nil && len(pids) > 0 {
			err = fmt.Errorf("%d processes are still alive, the first is %d", len(pids), pids[0])
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("ending the processes of %s: %w", dir, err)
	}
	return nil
}

// killOnce kills all at once where the kernel can (cgroup.kill, Linux 5.14), so
// that nothing can fork away from it; killCgroup's repetition serves the others.
func killOnce(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644)
	if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	pids, err := processes(dir)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("killing process %d: %w", pid, err)
		}
	}
	return nil
}

// removeCgroup removes an empty control group and all below it.
func removeCgroup(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	// A group stays busy for a moment after its last process has gone.
	return await(ctx, func() error {
		var groups []string
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("listing the control groups of %s: %w", dir, err)
		}
		for _, group := range slices.Backward(groups) {
			if err := unix.Rmdir(group); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing control group %s: %w", group, err)
			}
		}
		return nil
	})
}
