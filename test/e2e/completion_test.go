//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// tab is the environment of a shell in which kubectl completes the plugin's words.
type tab struct {
	t   *testing.T
	env []string
}

// newTab installs the completion for kubectl in a directory of its own.
func newTab(t *testing.T) *tab {
	t.Helper()
	dir := t.TempDir()
	x := &tab{t: t, env: append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+dir, "SHELL=/bin/bash")}
	cmd := exec.CommandContext(t.Context(), "kubectl", "gateway", "completion", "--install", "--dir", dir)
	cmd.Env = x.env
	out, err := cmd.CombinedOutput()
	if want := filepath.Join(dir, "kubectl_complete-gateway") + ": installed\n"; err != nil || !strings.HasPrefix(string(out), want) || strings.Contains(string(out), "warning") {
		t.Fatalf("installing: %v\n%s", err, out)
	}
	return x
}

// run runs a command in the shell's environment and returns its standard output.
func (x *tab) run(stdin, name string, args ...string) string {
	x.t.Helper()
	cmd := exec.CommandContext(x.t.Context(), name, args...)
	cmd.Env, cmd.Stdin = x.env, strings.NewReader(stdin)
	out := outputOf(x.t, cmd)
	if out.code != 0 {
		x.t.Fatalf("%s %v: exit %d\n%s%s", name, args, out.code, out.stdout, out.stderr)
	}
	return out.stdout
}

// press returns what kubectl offers for the last of words, a line each.
func (x *tab) press(words ...string) string {
	x.t.Helper()
	return x.run("", "kubectl", append([]string{"__complete", "gateway"}, words...)...)
}

// TestCompletion presses Tab in kubectl itself, before and after enable, and in
// shells.
func TestCompletion(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	a, _ := twoPods(t, ns)
	x := newTab(t)
	for _, want := range []string{"\nenable\t", "\ncompletion\t", "\ntail\t"} {
		if got := "\n" + x.press(""); !strings.Contains(got, want) {
			t.Errorf("%q is not among the verbs:\n%s", want, got)
		}
	}
	if got, want := x.press("-n", ns, "enable", ""), "pod/a\tno gateway\npod/b\tno gateway\n:36\n"; got != want {
		t.Errorf("before enable: %q, want %q", got, want)
	}
	if got, want := x.press("-n", ns, "disable", ""), ":36\n"; got != want {
		t.Errorf("before enable: %q, want %q", got, want)
	}
	enable(t, nil, a)
	if got, want := x.press("enable", "-n", ns, ""), "pod/b\tno gateway\npod/a\tgateway runs\n:36\n"; got != want {
		t.Errorf("after enable: %q, want %q", got, want)
	}
	for _, verb := range []string{"disable", "status", "tail", "rotate"} {
		if got, want := x.press(verb, "-n", ns, ""), "pod/a\tgateway runs\n:36\n"; got != want {
			t.Errorf("%s: %q, want %q", verb, got, want)
		}
	}
	if got := x.press("mode", "-n", ns, "pod/a", "s"); !strings.HasPrefix(got, "strict\t") {
		t.Errorf("the mode: %q", got)
	}
	if got := x.press("enable", "-n", ns[:len(ns)-2]); !strings.Contains("\n"+got, "\n"+ns+"\n") {
		t.Errorf("namespaces: %q does not have %s", got, ns)
	}
	if got := x.press("enable", "--wire", ""); !strings.Contains(got, "inband\t") {
		t.Errorf("wires: %q", got)
	}
	for shell, start := range map[string][]string{
		"bash": {"--noprofile", "--norc"}, "zsh": {"-f"}, "fish": {"--no-config"},
	} {
		script := filepath.Join(t.TempDir(), "script")
		must.Do(t, os.WriteFile(script, []byte(x.run("", "kubectl", "completion", shell)), 0o600))
		for line, want := range map[string]string{
			"kubectl gateway enable -n " + ns + " pod/b":     "pod/b",
			"kubectl gateway disable -n " + ns + " po":       "pod/a",
			"kubectl gateway mode -n " + ns + " pod/a perm":  "permissive",
			"kubectl gateway enable -n " + ns + " --on-f":    "--on-failure",
			"kubectl gateway status -n " + ns[:len(ns)-1]:    ns,
			"kubectl gateway tail -n " + ns + " --max-log-r": "--max-log-requests",
		} {
			out := x.run("", shell, append(start, filepath.Join("..", "shells", "tab."+shell), script, line)...)
			if got := strings.Fields(out); len(got) == 0 || strings.TrimSuffix(got[0], "=") != want {
				t.Errorf("%s: %q becomes %q, want %q", shell, line, got, want)
			}
		}
	}
}
