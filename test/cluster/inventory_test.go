//go:build linux

package main

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// inventory is the state of the machine that a cluster must not change.
type inventory struct {
	network string            // interfaces, routes, rules and tables of our network namespace
	sysctls map[string]string // that kubelet and kube-proxy like to set
	paths   map[string]bool   // where components like to leave something
	cgroups map[string]bool
}

func takeInventory(t *testing.T) inventory {
	t.Helper()
	found := inventory{sysctls: map[string]string{}, paths: map[string]bool{}, cgroups: podCgroups(t)}
	for _, command := range []string{"ip -oneline -brief link", "ip route show table all", "ip -6 route show table all", "ip rule", "nft list tables"} {
		words := strings.Fields(command)
		output, err := exec.CommandContext(t.Context(), words[0], words[1:]...).Output()
		if err != nil && words[0] != "nft" { // a kernel may have no nftables before the cluster
			t.Fatalf("%s: %v", command, err)
		}
		found.network += command + ":\n" + string(output)
	}
	names := slices.Collect(maps.Keys(kubeletSysctls()))
	names = append(names, "net/netfilter/nf_conntrack_max", "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
	for _, name := range names {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			found.sysctls[name] = strings.TrimSpace(string(value))
		}
	}
	for _, pattern := range []string{
		"/run/containerd*", "/run/containerd/s/*", "/run/netns*", "/run/netns/*", "/run/nri*", "/run/runc*", "/run/flannel*",
		"/var/lib/containerd*", "/var/lib/kubelet*", "/var/lib/cni*", "/var/lib/etcd*", "/var/lib/kube*",
		"/var/log/containers*", "/var/log/pods*", "/etc/cni*", "/etc/kubernetes*", "/etc/containerd*",
		"/opt/containerd*", "/opt/cni*", "/usr/libexec/kubernetes*",
	} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range matches {
			// Those of clusters beside this one come and go as they like.
			if !strings.HasPrefix(path, defaultDir) {
				found.paths[path] = true
			}
		}
	}
	return found
}

// checkNothingLeft compares the machine with what it was before the cluster,
// and looks for anything that refers to it. Other things may have come and gone
// meanwhile: only what is the cluster's counts.
func (r *rig) checkNothingLeft(before inventory, spaces map[string]bool) {
	r.Helper()
	after := takeInventory(r.T)
	if after.network != before.network {
		r.Errorf("the machine's network changed from\n%s\nto\n%s", before.network, after.network)
	}
	if !maps.Equal(after.sysctls, before.sysctls) {
		r.Errorf("sysctls changed from %v to %v", before.sysctls, after.sysctls)
	}
	for path := range after.paths {
		if !before.paths[path] {
			r.Errorf("%s was left", path)
		}
	}
	if _, err := os.Stat(r.cluster.Dir); !os.IsNotExist(err) {
		r.Errorf("the state directory is still there: %v", err)
	}
	r.checkProcesses(spaces)
	r.checkMounts(spaces)
	r.checkCgroups(before.cgroups, after.cgroups)
}

// checkProcesses looks for processes in the cluster's namespaces, and for such
// that were started from its directory.
func (r *rig) checkProcesses(spaces map[string]bool) {
	r.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		r.Fatal(err)
	}
	for _, entry := range entries {
		if strings.Trim(entry.Name(), "0123456789") != "" {
			continue
		}
		// One that has ended, and that the machine's init has yet to notice, is
		// only an entry in a table.
		if status, _ := os.ReadFile("/proc/" + entry.Name() + "/status"); bytes.Contains(status, []byte("\nState:\tZ")) {
			continue
		}
		for space := range namespacesOf(entry.Name()) {
			if spaces[space] {
				r.Errorf("process %s is still in %s", entry.Name(), space)
			}
		}
		environment, _ := os.ReadFile("/proc/" + entry.Name() + "/environ") // it may just have ended
		command, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if bytes.Contains(environment, []byte(r.cluster.Dir)) || bytes.Contains(command, []byte(r.cluster.Dir)) {
			r.Errorf("process %s is still there: %q", entry.Name(), command)
		}
	}
}

// checkMounts looks for mounts of the cluster's files or namespaces.
func (r *rig) checkMounts(spaces map[string]bool) {
	r.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, r.cluster.Dir) || strings.Contains(line, r.cluster.ID) {
			r.Errorf("a mount is left: %s", line)
		}
		for space := range spaces {
			if strings.Contains(line, " "+space+" ") {
				r.Errorf("a namespace is kept by a mount: %s", line)
			}
		}
	}
}

// checkCgroups looks for control groups in all hierarchies, v1 ones included.
func (r *rig) checkCgroups(before, after map[string]bool) {
	r.Helper()
	for path := range after {
		if filepath.Base(path) == r.cluster.ID {
			r.Errorf("the control group %s is left", path)
		} else if !before[path] && filepath.Base(path) == "kubepods" {
			r.Errorf("the control group %s was left outside of the cluster's", path)
		}
	}
}

// podCgroups returns the control groups that clusters have, this one or another:
// ours by their names, and those called kubepods which are not in one of ours.
func podCgroups(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil // somebody else's may vanish as we look
		}
		ours := strings.HasPrefix(entry.Name(), "kubectl-gateway-cluster-")
		if ours || entry.Name() == "kubepods" {
			found[path] = true
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
