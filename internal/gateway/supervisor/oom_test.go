//go:build linux

package supervisor

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/memory"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestUnprotect: a child bears what the kubelet intended, and one that cannot is not left running.
func TestUnprotect(t *testing.T) {
	child := exec.Command("cat")
	input := must.Get(child.StdinPipe())(t)
	must.Do(t, child.Start())
	before := must.Get(os.ReadFile(oomScoreAdj(strconv.Itoa(child.Process.Pid))))(t)
	check := func(what, want string) {
		t.Helper()
		got := must.Get(os.ReadFile(oomScoreAdj(strconv.Itoa(child.Process.Pid))))(t)
		if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %s instead of %s", what, got, want)
		}
	}
	must.Do(t, protection{missing: fs.ErrPermission}.unprotect(child.Process.Pid))
	check("of a supervisor that is not excepted", strings.TrimSpace(string(before)))
	must.Do(t, protection{was: "999"}.unprotect(child.Process.Pid))
	check("of one that is", "999")
	must.Do(t, input.Close())
	must.Do(t, child.Wait())
	if err := (protection{was: "999"}).unprotect(child.Process.Pid); err == nil {
		t.Error("a process that is gone was changed")
	}
}

func TestMissingProtection(t *testing.T) {
	missing := protection{missing: &fs.PathError{Op: "write", Path: "x", Err: fs.ErrPermission}}
	for _, c := range []struct {
		p      protection
		memory *api.Memory
		want   []string
	}{
		{missing, &api.Memory{Limit: 1}, []string{"a", api.MissingProtection + ": write x: permission denied"}},
		{missing, &api.Memory{}, []string{"a"}},
		{missing, nil, []string{"a"}},
		{protection{was: "0"}, &api.Memory{Limit: 1}, []string{"a"}},
	} {
		st := &api.Status{Missing: []string{"a"}, Memory: c.memory}
		c.p.describe(st)
		if diff := cmp.Diff(c.want, st.Missing); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c, diff)
		}
	}
}

func TestPodMemory(t *testing.T) {
	dir := t.TempDir()
	write := func(file, text string) { must.Do(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600)) }
	write("memory.max", "67108864\n")
	write("memory.current", "47185920\n")
	write("memory.stat", "inactive_file 1048576\n")
	m := podMemory{own: dir, gauge: must.Get(memory.Open(dir))(t)}
	ended := errors.New("the worker ended")
	if err := m.explain(ended); err != ended {
		t.Errorf("nothing is counted: %v", err)
	}
	write("memory.events", "oom 3\noom_kill 2\noom_group_kill 1\n")
	if err := m.explain(ended); !errors.Is(err, ended) || !strings.HasSuffix(err.Error(), "the pod's memory was used up") {
		t.Errorf("killed: %v", err)
	}
	if err := m.explain(ended); err != ended {
		t.Errorf("ended in another way: %v", err)
	}
	want := &api.Memory{Used: 45 << 20, Limit: 64 << 20, Left: 20 << 20, Room: 341, Killed: 2}
	if diff := cmp.Diff(want, m.describe()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	write("memory.max", "max\n")
	if diff := cmp.Diff(&api.Memory{Used: 45 << 20, Killed: 2}, m.describe()); diff != "" {
		t.Errorf("without a limit (-want +got):\n%s", diff)
	}
	m.gauge.Close()
	if got := m.describe(); got != nil || (&podMemory{}).describe() != nil {
		t.Errorf("what cannot be read: %+v", got)
	}
}
