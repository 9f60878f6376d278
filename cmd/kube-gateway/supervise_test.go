//go:build linux

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// TestSecondSupervisor: whoever may exec into a gateway's container cannot start another one
// there. The first one keeps its control socket, and its last words.
func TestSecondSupervisor(t *testing.T) {
	l := newLab(t)
	spec := l.spec(l.a)
	g := l.gateway(spec)
	env := must.Get(spec.Environment())(t)
	for _, verb := range []string{"supervise", "clean"} {
		second := l.a.Start(g.In(netlab.Command{Cgroup: l.a.GatewayCgroup, Path: l.self, Args: []string{verb}, Env: env}))
		if err := second.Wait(); err == nil || !strings.Contains(second.Output(), "runs in this container already") {
			t.Errorf("%s: %v, %s", verb, err, second.Output())
		}
	}
	if words, err := g.LastWords(); err != nil || words != "" {
		t.Errorf("last words %q, %v", words, err)
	}
	status(t, g)
	l.talk(l.a, l.b.Addr(portEcho))
}

// TestNoPathsFromTheCommandLine: a privileged program writes to no file that somebody names.
func TestNoPathsFromTheCommandLine(t *testing.T) {
	for _, args := range [][]string{
		{"supervise", "--control-socket=/tmp/x"}, {"supervise", "--termination-log=/tmp/x"}, {"clean", "--termination-log=/tmp/x"},
	} {
		var stderr bytes.Buffer
		if code := run(args, nil, &stderr, &stderr); code == 0 || !strings.Contains(stderr.String(), "flag provided but not defined") {
			t.Errorf("%q: exit code %d, %s", args, code, stderr.String())
		}
	}
}
