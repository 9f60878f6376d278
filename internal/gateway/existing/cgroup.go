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

// podCgroups returns the IDs of the cgroup at pod and of all below it except own and gateways. A cgroup
// that disappears meanwhile has no process.
func podCgroups(pod, own string, gateways []uint64) (map[uint64]struct{}, error) {
	ids := make(map[uint64]struct{})
	err := filepath.WalkDir(pod, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != pod:
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case path == own:
			return fs.SkipDir
		case len(ids) == maxCgroups:
			return fmt.Errorf("%s has more than %d cgroups", pod, maxCgroups)
		}
		cgroup, err := bpf.OpenCgroup(path)
		if errors.Is(err, fs.ErrNotExist) && path != pod {
			return fs.SkipDir
		}
		if slices.Contains(gateways, cgroup.ID) {
			return fs.SkipDir
		}
		ids[cgroup.ID] = struct{}{}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pod's cgroups: %w", err)
	}
	delete(ids, 0)
	return ids, nil
}
