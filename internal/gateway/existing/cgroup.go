//go:build linux

package existing

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

// maxCgroups bounds the directories of a pod. A container that runs containers may have hundreds.
const maxCgroups = 1 << 14

// eachCgroup calls visit with the cgroup at pod and with all below it. The error of visit may be
// fs.SkipDir. A cgroup that disappears meanwhile is left out: it has no process.
func eachCgroup(pod string, visit func(bpf.Cgroup) error) error {
	err := filepath.WalkDir(pod, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			return nil
		}
		var cgroup bpf.Cgroup
		if err == nil {
			cgroup, err = bpf.OpenCgroup(path)
		}
		if errors.Is(err, fs.ErrNotExist) && path != pod {
			return fs.SkipDir
		}
		if err != nil {
			return err
		}
		return visit(cgroup)
	})
	if err != nil {
		return fmt.Errorf("listing the pod's cgroups: %w", err)
	}
	return nil
}

// podCgroups returns the IDs of the cgroup at pod and of all below it except own and gateways.
func podCgroups(pod, own string, gateways []uint64) (map[uint64]struct{}, error) {
	ids := make(map[uint64]struct{})
	return ids, eachCgroup(pod, func(c bpf.Cgroup) error {
		switch {
		case c.Path == own, slices.Contains(gateways, c.ID):
			return fs.SkipDir
		case len(ids) == maxCgroups:
			return fmt.Errorf("%s has more than %d cgroups", pod, maxCgroups)
		}
		ids[c.ID] = struct{}{}
		return nil
	})
}
