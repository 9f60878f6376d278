//go:build linux

package netlab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	// DriverVariable names the environment variable that says whose names the pods'
	// cgroups have. With "systemd" they are those of the kubelet's systemd driver and
	// containerd, with "cgroupfs", the default, those of the other driver.
	DriverVariable = "NETLAB_CGROUP_DRIVER"
	// MemoryVariable names the environment variable that limits the memory of each pod,
	// in the words of memory.max: a number of bytes, perhaps with K, M or G. By
	// default there is no limit. The memory controller must be enabled at the mount point.
	MemoryVariable = "NETLAB_MEMORY"
)

// podCgroups says what the cgroups of pods are like.
type podCgroups struct {
	systemd bool
	memory  string // "": without a limit
}

func podsOfEnvironment() (podCgroups, error) {
	p := podCgroups{memory: os.Getenv(MemoryVariable)}
	switch driver := os.Getenv(DriverVariable); driver {
	case "systemd":
		p.systemd = true
	case "cgroupfs", "":
	default:
		return p, fmt.Errorf("%s=%s: neither cgroupfs nor systemd", DriverVariable, driver)
	}
	return p, nil
}

// make makes the cgroups of a node below root, and notes where they are.
func (p podCgroups) make(root string, n *Node) error {
	between := p.name(root, n)
	for _, dir := range between {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, dir := range []string{n.PodCgroup, n.GatewayCgroup, n.AppCgroup, n.OtherCgroup} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if p.memory == "" {
		return nil
	}
	if err := enableMemory(append([]string{root}, between...)...); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.PodCgroup, "memory.max"), []byte(p.memory), 0)
}

// name sets the paths of a pod's cgroups and returns those between root and the pod.
func (p podCgroups) name(root string, n *Node) (between []string) {
	if !p.systemd {
		n.PodCgroup = filepath.Join(root, "pod"+n.UID)
		n.GatewayCgroup = filepath.Join(n.PodCgroup, "gateway")
		n.AppCgroup = filepath.Join(n.PodCgroup, "app")
		return nil
	}
	all := filepath.Join(root, "kubepods.slice")
	class := filepath.Join(all, "kubepods-burstable.slice")
	// systemd reads a dash as a step down the tree.
	n.PodCgroup = filepath.Join(class, "kubepods-burstable-pod"+strings.ReplaceAll(n.UID, "-", "_")+".slice")
	container := func(name string) string {
		return filepath.Join(n.PodCgroup, fmt.Sprintf("cri-containerd-%x.scope", sha256.Sum256([]byte(n.UID+name))))
	}
	n.GatewayCgroup, n.AppCgroup = container("gateway"), container("app")
	return []string{all, class}
}

// outOfMemory says how many processes of pods the kernel killed at the limit.
func (l *Lab) outOfMemory() (err error) {
	if l.pods.memory == "" {
		return nil
	}
	for i, n := range l.nodes {
		if n.mayKill {
			continue
		}
		killed, readErr := n.MemoryEvent("oom_kill")
		if readErr != nil {
			return readErr
		}
		if killed > 0 {
			err = errors.Join(err, fmt.Errorf("the kernel killed %d processes of node %d at %s=%s", killed, i, MemoryVariable, l.pods.memory))
		}
	}
	return err
}
