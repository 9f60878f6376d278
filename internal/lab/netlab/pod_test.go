//go:build linux

package netlab_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

func TestSystemdNames(t *testing.T) {
	t.Setenv(netlab.DriverVariable, "systemd")
	lab := netlab.New(t, 2)
	seen := make(map[string]bool)
	for _, node := range lab.Nodes() {
		pod := "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + strings.ReplaceAll(node.UID, "-", "_") + ".slice"
		if !strings.HasSuffix(node.PodCgroup, pod) {
			t.Errorf("the pod's cgroup is %s, want ...%s", node.PodCgroup, pod)
		}
		for _, path := range []string{node.GatewayCgroup, node.AppCgroup} {
			p := node.Start(netlab.Command{Cgroup: path, Helper: "where"})
			if err := p.Wait(); err != nil {
				t.Fatalf("%v: %s", err, p.Output())
			}
			line, _, _ := strings.Cut(p.Output(), "\n")
			if !regexp.MustCompile(regexp.QuoteMeta(pod)+`/cri-containerd-[0-9a-f]{64}\.scope$`).MatchString(line) || seen[line] {
				t.Errorf("a container is in %q", line)
			}
			seen[line] = true
		}
	}
}
