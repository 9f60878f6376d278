//go:build linux

package supervisor

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
)

// siblingInterval is how often a terminating gateway checks whether the application still
// runs.
const siblingInterval = 100 * time.Millisecond

// waitForApplication returns when the application's containers have ended, or when ctx is
// done. The kubelet asks all containers of a pod to end at once, and an application that
// closes its connections cleanly needs its gateway for that. The kubelet's grace period
// bounds the wait.
func waitForApplication(ctx context.Context, podCgroup, ownCgroup string, gateways func() []uint64) {
	p := siblings{pod: podCgroup, own: ownCgroup, gateways: gateways}
	if mounts, err := os.Open("/proc/self/mountinfo"); err == nil {
		p.sandbox = sandboxID(mounts)
		mounts.Close()
	}
	ticker := time.NewTicker(siblingInterval)
	defer ticker.Stop()
	for p.applicationRuns() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// siblings are the cgroups below a pod's.
type siblings struct {
	// pod and own are the paths of the pod's cgroup and of the gateway's below it.
	pod, own string
	// gateways returns the IDs of all gateways' cgroups in the pod, if it is not nil.
	gateways func() []uint64
	// sandbox is the ID of the pod's sandbox, empty if it is unknown.
	sandbox string
}

// applicationRuns reports whether a process runs in more containers of the pod than those
// of gateways and the sandbox. cgroup.events covers the whole subtree, across PID namespaces.
func (s *siblings) applicationRuns() bool {
	entries, err := os.ReadDir(s.pod)
	if err != nil {
		return false
	}
	var gateways []uint64
	if s.gateways != nil {
		gateways = s.gateways()
	}
	others := 0
	for _, e := range entries {
		dir := filepath.Join(s.pod, e.Name())
		if !e.IsDir() || dir == s.own || monitors(e.Name()) || s.isSandbox(e.Name()) {
			continue
		}
		// Two gateways must not wait for each other.
		if c, err := bpf.OpenCgroup(dir); err == nil && slices.Contains(gateways, c.ID) {
			continue
		}
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && strings.Contains(string(events), "populated 1") {
			others++
		}
	}
	// Where nothing tells the sandbox from other containers, one of them is it.
	return others > 1 || others == 1 && s.sandbox != ""
}

// monitors reports whether a cgroup is that of a container's monitor, which CRI-O keeps in the
// pod's cgroup with conmon_cgroup=pod: crio-conmon-<ID> or crio-conmon-<ID>.scope.
func monitors(name string) bool { return strings.HasPrefix(name, "crio-conmon-") }

// isSandbox reports whether a cgroup is that of the pod's sandbox. containerd runs its pause
// program there. CRI-O runs none, unless the pod shares a PID namespace.
func (s *siblings) isSandbox(name string) bool {
	return s.sandbox != "" && strings.Contains(name, s.sandbox)
}

// idForm is the form of the IDs that containerd, CRI-O and Docker give to sandboxes.
var idForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// sandboxID returns the ID of the pod's sandbox, empty if it is unknown, from the mounts of a
// container (proc_pid_mountinfo(5)). Runtimes keep the pod's resolv.conf in a directory that is
// named after the sandbox (containerd: sandboxes/<ID>; CRI-O: overlay-containers/<ID>/userdata;
// Docker: containers/<ID>) and mount it into all containers of the pod.
func sandboxID(mounts io.Reader) string {
	all, err := mountinfo.GetMountsFromReader(mounts, mountinfo.SingleEntryFilter("/etc/resolv.conf"))
	if err != nil {
		return ""
	}
	for _, m := range all {
		for _, name := range slices.Backward(strings.Split(m.Root, "/")) {
			if idForm.MatchString(name) {
				return name
			}
		}
	}
	return ""
}
