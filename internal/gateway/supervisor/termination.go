//go:build linux

package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// TerminationMessagePath is the default of a container's
// terminationMessagePath: the kubelet copies what is in it to the pod's status.
const TerminationMessagePath = "/dev/termination-log"

// maxTerminationMessage is what the kubelet keeps of it, in bytes.
const maxTerminationMessage = 4096

// LastWords leaves the reason of the gateway's end at path, where the plugin reads
// it without another request: in the pod's status. It never creates the file,
// which is the kubelet's to provide.
func LastWords(path string, err error) {
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

// lastSiblings is the number of populated cgroups beside the gateway's own that
// are left when the application has ended: the pod's sandbox.
const lastSiblings = 1

// siblingInterval is how often a terminating gateway looks whether the
// application is still there.
const siblingInterval = 100 * time.Millisecond

// waitForApplication returns once the application's containers have ended, or
// when ctx is done. The kubelet asks all containers of a pod to end at once,
// and an application that says goodbye over the network needs its gateway for
// that. The kubelet's grace period bounds the wait.
func waitForApplication(ctx context.Context, podCgroup, ownCgroup string) {
	ticker := time.NewTicker(siblingInterval)
	defer ticker.Stop()
	for applicationRuns(podCgroup, ownCgroup) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// applicationRuns reports whether more than the sandbox runs beside the gateway.
func applicationRuns(podCgroup, ownCgroup string) bool {
	return populatedSiblings(podCgroup, ownCgroup) > lastSiblings
}

// populatedSiblings counts the containers of the pod, other than this one, in
// which a process runs. cgroup.events tells it for the whole subtree and
// across PID namespaces.
func populatedSiblings(podCgroup, ownCgroup string) int {
	entries, err := os.ReadDir(podCgroup)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		dir := filepath.Join(podCgroup, e.Name())
		if !e.IsDir() || dir == ownCgroup {
			continue
		}
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && strings.Contains(string(events), "populated 1") {
			n++
		}
	}
	return n
}
