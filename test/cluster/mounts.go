//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setUpMounts turns our own mount namespace into a node's: its own /sys with
// its control groups, its own /run, /var/lib and /var/log, everything else the
// machine's. Nothing of it is visible outside, and it ends with the last process.
//
// keep are directories of the machine that must stay reachable at their paths.
func setUpMounts(private string, keep ...string) error {
	// First cut off from the machine, at the end shared again among the
	// node's own: kubelet's Bidirectional mounts need that.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	kept := map[string]*os.File{}
	for _, dir := range keep {
		file, err := os.Open(dir)
		if err != nil {
			return fmt.Errorf("opening a directory to keep: %w", err)
		}
		defer file.Close()
		kept[dir] = file
	}
	binds := map[string]string{}
	for _, dir := range []string{"lib", "log"} {
		source := filepath.Join(private, dir)
		if err := os.MkdirAll(source, 0o755); err != nil {
			return fmt.Errorf("making a node's directory: %w", err)
		}
		binds["/var/"+dir] = source
	}
	steps := []struct{ what, source, target, fstype string }{
		// sysfs shows the network of the namespace that mounts it.
		{"/sys", "sysfs", "/sys", "sysfs"},
		// Mounted from inside a cgroup namespace, this shows the node's groups only.
		{"control groups", "cgroup2", "/sys/fs/cgroup", "cgroup2"},
		{"the BPF file system", "bpf", "/sys/fs/bpf", "bpf"},
		{"/run", "tmpfs", "/run", "tmpfs"},
	}
	// Lazily, because the machine's control groups are mounted below it.
	if err := unix.Unmount("/sys", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmounting the machine's /sys: %w", err)
	}
	for _, step := range steps {
		if err := unix.Mount(step.source, step.target, step.fstype, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", step.what, err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("filling /run: %w", err)
		}
	}
	for target, source := range binds {
		// Through kept, since the source may itself lie below /run or /var/lib.
		if err := bindKept(kept, source, target); err != nil {
			return err
		}
	}
	for dir, file := range kept {
		if _, err := os.Stat(dir); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("looking for %s: %w", dir, err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("keeping %s: %w", dir, err)
		}
		if err := bind(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), dir); err != nil {
			return err
		}
	}
	if err := maskSysctls("/run/sysctl"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts: %w", err)
	}
	return nil
}

// bindKept binds source over target, by way of the kept directory that holds it.
func bindKept(kept map[string]*os.File, source, target string) error {
	for dir, file := range kept {
		if rest, ok := strings.CutPrefix(source, dir+"/"); ok {
			source = fmt.Sprintf("/proc/self/fd/%d/%s", file.Fd(), rest)
			break
		}
	}
	return bind(source, target)
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding %s over %s: %w", source, target, err)
	}
	return nil
}

// kubeletSysctls are what kubelet insists on, and would set, for the whole
// machine (pkg/kubelet/cm setupKernelTunables).
func kubeletSysctls() map[string]string {
	return map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	}
}

// maskSysctls puts files over those sysctls: kubelet reads there what it wants
// to read, and the machine keeps its settings.
func maskSysctls(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("masking sysctls: %w", err)
	}
	for name, value := range kubeletSysctls() {
		target := "/proc/sys/" + name
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		source := filepath.Join(dir, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(source, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("masking sysctls: %w", err)
		}
		if err := bind(source, target); err != nil {
			return err
		}
	}
	return nil
}

// isOverlay tells whether a directory is on an overlay file system.
func isOverlay(dir string) (bool, error) {
	var stat unix.Statfs_t
	err := unix.Statfs(dir, &stat)
	return stat.Type == unix.OVERLAYFS_SUPER_MAGIC, err
}
