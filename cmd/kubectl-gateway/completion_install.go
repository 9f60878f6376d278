package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Names under which kubectl finds a plugin and its completion program.
const (
	pluginProgram     = "kubectl-gateway"
	completionProgram = "kubectl_complete-gateway"
)

// completionMark identifies a program that --install wrote.
const completionMark = `completes the words after "kubectl gateway"`

// completer returns the name and the text of the program that completes the plugin's
// words for kubectl on a system. It finds the plugin on $PATH as kubectl does, so that
// it survives upgrades of the plugin.
func completer(system string) (name, text string) {
	if system == "windows" {
		return completionProgram + ".cmd", "@rem This " + completionMark + ".\r\n@" + pluginProgram + " __complete %*\r\n"
	}
	return completionProgram, "#!/bin/sh\n# This " + completionMark + ".\nexec " + pluginProgram + " __complete \"$@\"\n"
}

// installCompletion writes the program to a directory, or to one of $PATH if wanted is
// empty, and tells what else is needed.
func installCompletion(a *app, wanted string) error {
	path := searchPath()
	name, text := completer(runtime.GOOS)
	dirs := path
	if wanted != "" {
		dir, err := filepath.Abs(wanted)
		if err != nil {
			return fmt.Errorf("finding %s: %w", line(wanted), err)
		}
		dirs = []string{dir}
	} else if plugin, err := exec.LookPath(pluginProgram); err == nil {
		// First where kubectl finds the plugin, without following links.
		first := filepath.Dir(plugin)
		dirs = slices.Insert(slices.DeleteFunc(slices.Clone(path), func(dir string) bool { return dir == first }), 0, first)
	}
	dir, changed, err := install(dirs, name, text)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, name)
	done := "installed"
	if !changed {
		done = "already installed"
	}
	if err := a.print("result", line(file)+": "+done+"\n"); err != nil {
		return err
	}
	switch found, err := exec.LookPath(completionProgram); {
	case !slices.Contains(path, dir):
		fmt.Fprintf(a.ErrOut, "warning: %s is not in $PATH, where kubectl looks\n", line(dir))
	case err == nil && !sameFile(found, file):
		fmt.Fprintf(a.ErrOut, "warning: kubectl finds %s first\n", line(found))
	}
	if _, err := exec.LookPath(pluginProgram); err != nil {
		fmt.Fprintf(a.ErrOut, "warning: %s is not in $PATH: neither kubectl nor completion finds it\n", pluginProgram)
	}
	fmt.Fprint(a.ErrOut, activation(os.Getenv("SHELL")))
	return nil
}

// searchPath returns the absolute directories of $PATH.
func searchPath() []string {
	var dirs []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if dir = filepath.Clean(dir); filepath.IsAbs(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// errForeign means that another program has the name already.
var errForeign = errors.New("it is not a program that --install has written")

// install writes a program to the first writable directory of dirs. changed is false if
// the program is there already.
func install(dirs []string, name, text string) (dir string, changed bool, err error) {
	var refused error
	for _, dir := range dirs {
		changed, err := installIn(dir, name, text)
		if err == nil {
			return dir, changed, nil
		}
		if errors.Is(err, errForeign) {
			return "", false, api.WithHint(fmt.Errorf("%s exists: %w", line(filepath.Join(dir, name)), err), "delete it, or choose another directory by --dir")
		}
		if refused == nil {
			refused = err
		}
	}
	const hint = "name a directory that is in $PATH and yours: --dir DIRECTORY"
	if len(dirs) == 1 {
		return "", false, api.WithHint(fmt.Errorf("writing to %s: %w", line(dirs[0]), refused), hint)
	}
	return "", false, api.WithHint(errors.New("no directory of $PATH can be written to"), hint)
}

// installIn writes a program to dir/name, whole or not at all.
func installIn(dir, name, text string) (changed bool, err error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, errors.New("it is not a directory")
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0:
		return false, errors.New("all users may write there")
	}
	file := filepath.Join(dir, name)
	old, err := os.ReadFile(file)
	switch {
	case err == nil && string(old) == text && executable(file):
		return false, nil
	case err == nil && !bytes.Contains(old, []byte(completionMark)):
		return false, errForeign
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return false, err
	}
	return true, writeWhole(file, 0o755, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}

// writeWhole makes a file of what write writes, or none. Only its owner can read it before it is whole.
func writeWhole(path string, mode os.FileMode, write func(io.Writer) error) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	err = write(temporary)
	if closed := temporary.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chmod(temporary.Name(), mode)
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name())
	}
	return err
}

// executable reports whether all users may run a file. On Windows the name alone makes
// a file a program.
func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && (runtime.GOOS == "windows" || info.Mode().Perm()&0o111 == 0o111)
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}

// activation returns what else the user's shell needs, or that of all shells if the
// shell is unknown.
func activation(shell string) string {
	lines := []struct{ shell, text string }{
		{"bash", "in ~/.bashrc, after bash-completion: source <(kubectl completion bash)"},
		{"zsh", "in ~/.zshrc, after compinit: source <(kubectl completion zsh)"},
		{"fish", "once: kubectl completion fish > ~/.config/fish/completions/kubectl.fish"},
		{"powershell", "in $PROFILE: kubectl completion powershell | Out-String | Invoke-Expression"},
	}
	name := strings.TrimSuffix(filepath.Base(shell), ".exe")
	if name == "pwsh" {
		name = "powershell"
	}
	var text strings.Builder
	for _, l := range lines {
		if l.shell == name {
			return "if Tab does not complete kubectl's own commands yet: " + l.text + "\n"
		}
		fmt.Fprintf(&text, "  %-11s %s\n", l.shell, l.text)
	}
	return "if Tab does not complete kubectl's own commands yet:\n" + text.String()
}
