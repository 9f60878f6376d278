//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestPodTerminates: asked to end together with the application, as the kubelet asks
// all containers of a pod, the gateway serves both directions as long as the
// application runs, and ends soon after it without an error. So does the pod of a
// Job: the kubelet asks what still runs to end once the application is done.
func TestPodTerminates(t *testing.T) {
	sandbox := strings.Repeat("5", 64)
	for name, c := range map[string]struct {
		mode    api.Mode
		sandbox string
		// others are cgroups of the pod that run on.
		others []string
	}{
		"permissive": {api.Permissive, sandbox, []string{"cri-containerd-" + sandbox + ".scope"}},
		"strict":     {api.Strict, sandbox, []string{sandbox}},
		// CRI-O runs no process for the sandbox, but may run its monitors in the pod's cgroup.
		"CRI-O":                       {api.Strict, sandbox, nil},
		"CRI-O, monitors in the pod":  {api.Permissive, sandbox, []string{"crio-conmon-" + strings.Repeat("a", 64), "crio-conmon-" + strings.Repeat("b", 64) + ".scope"}},
		"a runtime that is not known": {api.Permissive, "", []string{"sandbox"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			for _, other := range c.others {
				other = filepath.Join(l.a.PodCgroup, other)
				must.Do(t, os.Mkdir(other, 0o755))
				l.a.Start(netlab.Command{Cgroup: other, Path: l.app, Args: []string{"sleep"}})
			}
			spec := l.spec(l.a)
			spec.Mode, spec.Sandbox = c.mode, c.sandbox
			g := l.gateway(spec)
			gb := l.gateway(l.spec(l.b))
			must.Do(t, g.Signal(syscall.SIGTERM))
			says(t, g.Process, "asked to end")
			l.talk(l.a, l.b.Addr(portEcho))
			l.talk(l.b, l.a.Addr(portEcho))
			if n := status(t, gb).Traffic; n.Inbound.Encrypted != 1 || n.Outbound.Encrypted != 1 {
				t.Errorf("not served while the application runs: %+v", n)
			}
			held := l.hold(l.b, l.a.Addr(portEcho))
			held.say("until the end")
			l.endApplication(l.a)
			start := time.Now()
			if err := ended(t, g); err != nil {
				t.Errorf("the gateway's end: %v\n%s", err, g.Output())
			}
			t.Logf("the gateway ended after %v", time.Since(start))
			if words, err := g.LastWords(); err != nil || words != "" {
				t.Errorf("the termination message is %q, %v", words, err)
			}
		})
	}
}

// endApplication ends all processes of the application in a pod. It does without
// cgroup.kill, which came with Linux 5.14.
func (l *lab) endApplication(n *netlab.Node) {
	l.t.Helper()
	eventually(l.t, "the application has ended", func() error {
		text, err := os.ReadFile(filepath.Join(n.AppCgroup, "cgroup.procs"))
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
				return err
			}
		}
		if len(text) > 0 {
			return fmt.Errorf("processes %q", strings.Fields(string(text)))
		}
		return nil
	})
}
