//go:build linux

package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TerminationMessagePath is the default of a container's
// terminationMessagePath: the kubelet copies what is in it to the pod's status.
const TerminationMessagePath = "/dev/termination-log"

// maxTerminationMessage is what the kubelet keeps of it, in bytes.
const maxTerminationMessage = 4096

// WriteTerminationMessage writes the reason of the gateway's end to path. The plugin reads
// it in the pod's status. The kubelet provides the file; it is never created here.
func WriteTerminationMessage(path string, err error) {
	text := err.Error()
	if hint := api.Hint(err); hint != "" {
		text += "\nhint: " + hint
	}
	text = text[:min(len(text), maxTerminationMessage)]
	f, openErr := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if openErr != nil {
		return
	}
	defer f.Close()
	f.WriteString(text)
}

// lastSiblings is the number of populated cgroups beside those of gateways when the
// application has ended: the pod's sandbox.
const lastSiblings = 1

// siblingInterval is how often a terminating gateway checks whether the application still
// runs.
const siblingInterval = 100 * time.Millisecond

// waitForApplication returns when the application's containers have ended, or when ctx is
// done. The kubelet asks all containers of a pod to end at once, and an application that
// closes its connections cleanly needs its gateway for that. The kubelet's grace period
// bounds the wait.
func waitForApplication(ctx context.Context, podCgroup, ownCgroup string, gateways func() []uint64) {
	ticker := time.NewTicker(siblingInterval)
	defer ticker.Stop()
	for applicationRuns(podCgroup, ownCgroup, gateways()) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// applicationRuns reports whether a process runs in more containers of the pod than those of
// gateways and the sandbox. cgroup.events covers the whole subtree, across PID namespaces.
func applicationRuns(podCgroup, ownCgroup string, gateways []uint64) bool {
	entries, err := os.ReadDir(podCgroup)
	if err != nil {
		return false
	}
	n := 0
	for _, e := range entries {
		dir := filepath.Join(podCgroup, e.Name())
		if !e.IsDir() || dir == ownCgroup {
			continue
		}
		// Two gateways must not wait for each other.
		if c, err := bpf.OpenCgroup(dir); err == nil && slices.Contains(gateways, c.ID) {
			continue
		}
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && strings.Contains(string(events), "populated 1") {
			n++
		}
	}
	return n > lastSiblings
}
