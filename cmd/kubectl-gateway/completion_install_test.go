package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// executablesIn writes programs that print their name and arguments.
func executablesIn(t *testing.T, dir string, programs ...string) {
	t.Helper()
	for _, program := range programs {
		text := "#!/bin/sh\necho \"" + program + "\"\nfor word; do echo \"[$word]\"; done\n"
		must.Do(t, os.WriteFile(filepath.Join(dir, program), []byte(text), 0o755))
	}
}

func needSh(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("programs are shell scripts here")
	}
}

func TestInstallsCompletion(t *testing.T) {
	needSh(t)
	other, linked, store := t.TempDir(), t.TempDir(), t.TempDir()
	executablesIn(t, store, pluginProgram)
	must.Do(t, os.Symlink(filepath.Join(store, pluginProgram), filepath.Join(linked, pluginProgram)))
	t.Setenv("PATH", strings.Join([]string{"relative", other, linked, os.Getenv("PATH")}, ":"))
	t.Setenv("SHELL", "/usr/bin/zsh")
	run := (&apiServer{}).start(t)
	file := filepath.Join(linked, completionProgram)
	advice := "if Tab does not complete kubectl's own commands yet: in ~/.zshrc, after compinit: source <(kubectl completion zsh)\n"
	for _, want := range []string{"installed", "already installed"} {
		code, stdout, stderr := run("completion", "--install")
		if code != 0 || stdout != file+": "+want+"\n" || stderr != advice {
			t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
		}
	}
	// kubectl hands on each word, and an empty one where a new word begins.
	out, err := exec.Command(file, "enable", "a b", "").CombinedOutput()
	if want := pluginProgram + "\n[__complete]\n[enable]\n[a b]\n[]\n"; err != nil || string(out) != want {
		t.Errorf("%v, %q", err, out)
	}
	// One of another version is replaced, one that is no program is made one.
	for _, change := range []func() error{
		func() error {
			return os.WriteFile(file, []byte("#!/bin/sh\n# It "+completionMark+".\nexec false\n"), 0o755)
		},
		func() error { return os.Chmod(file, 0o600) },
	} {
		must.Do(t, change())
		if _, stdout, _ := run("completion", "--install"); stdout != file+": installed\n" {
			t.Errorf("%q", stdout)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if entries, err := os.ReadDir(linked); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// In another place it is found too late, or never.
	late, away := t.TempDir(), t.TempDir()
	t.Setenv("PATH", os.Getenv("PATH")+":"+late)
	prints(t, run,
		printed{"completion --install --dir " + late, 0, "", "warning: kubectl finds " + file + " first\n"},
		printed{"completion --install --dir " + away, 0, "", "warning: " + away + " is not in $PATH"},
	)
}

func TestInstallOfCompletionFails(t *testing.T) {
	needSh(t)
	foreign, open := t.TempDir(), t.TempDir()
	executablesIn(t, foreign, completionProgram)
	must.Do(t, os.Chmod(open, 0o777))
	t.Setenv("SHELL", "")
	run := (&apiServer{}).start(t)
	for _, c := range []struct{ path, dir, want string }{
		{foreign, foreign, "error: " + filepath.Join(foreign, completionProgram) + " exists: it is not a program that --install has written\nhint: delete it"},
		{foreign, "", "hint: delete it"},
		{open, open, "error: writing to " + open + ": all users may write there\nhint: name a directory"},
		{open, open + "/none", "no such file"},
		{open + ":." + ":/nonexistent", "", "error: no directory of $PATH can be written to\nhint: name a directory"},
	} {
		t.Setenv("PATH", c.path)
		args := []string{"completion", "--install"}
		if c.dir != "" {
			args = append(args, "--dir", c.dir)
		}
		if code, stdout, stderr := run(args...); code != 1 || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%+v: exit code %d, %q, %q", c, code, stdout, stderr)
		}
	}
	// A directory that cannot be written to is passed over, and what is not
	// there is told.
	mine := t.TempDir()
	t.Setenv("PATH", open+":"+mine)
	code, stdout, stderr := run("completion", "--install")
	if code != 0 || stdout != filepath.Join(mine, completionProgram)+": installed\n" || !strings.Contains(stderr, "warning: kubectl-gateway is not in $PATH") ||
		strings.Count(stderr, "kubectl completion") != 4 {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
}

func TestCompleterOfWindows(t *testing.T) {
	name, text := completer("windows")
	if name != "kubectl_complete-gateway.cmd" || !strings.HasSuffix(text, "@kubectl-gateway __complete %*\r\n") || !strings.Contains(text, completionMark) {
		t.Errorf("%s: %q", name, text)
	}
}
