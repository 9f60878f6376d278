package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestShellsComplete presses Tab in real shells that complete the plugin's own name.
// What kubectl completes with the plugin's help is tested with the release.
func TestShellsComplete(t *testing.T) {
	bin := t.TempDir()
	must.Do(t, os.Symlink(must.Get(os.Executable())(t), filepath.Join(bin, pluginProgram)))
	kubeconfig := (&tabServer{apiServer: apiServer{pods: tabPods()}}).kubeconfig(t)
	for shell, start := range map[string][]string{
		"bash": {"--noprofile", "--norc"}, "zsh": {"-f"}, "fish": {"--no-config"},
	} {
		t.Run(shell, func(t *testing.T) {
			if _, err := exec.LookPath(shell); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%v: 'make tools' installs it", err)
				}
				t.Skipf("%v: 'make tools' installs it", err)
			}
			home := t.TempDir()
			run := func(name string, args ...string) string {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Env = []string{envMain + "=1", "HOME=" + home, "KUBECONFIG=" + kubeconfig, "PATH=" + bin + ":/usr/local/bin:/usr/bin:/bin", "TERM=xterm"}
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil || stderr.Len() > 0 {
					t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &stderr)
				}
				return string(out)
			}
			script := filepath.Join(home, "script")
			must.Do(t, os.WriteFile(script, []byte(run(filepath.Join(bin, pluginProgram), "completion", shell)), 0o600))
			for line, want := range map[string]string{
				"ena":                        "enable",
				"enable --wire inb":          "inband",
				"enable --on-f":              "--on-failure",
				"enable pod/ol":              "pod/old",
				"enable deployments.apps/w":  "deployments.apps/web",
				"disable sts":                "sts/db",
				"enable -n other ":           "pod/far",
				"mode pod/agent-x perm":      "permissive",
				"mode -o ya":                 "yaml",
				"mode -o jsonpath-f":         "jsonpath-file",
				"status --context arn:aws:e": "arn:aws:eks",
				"completion pow":             "powershell",
				"tail --max-log-r":           "--max-log-requests",
				"enable pod/old pod/db":      "pod/db-0",
			} {
				if shell == "bash" && strings.Contains(want, ":") {
					continue // colons divide words in bash: the package bash-completion undoes that
				}
				var offers []string
				// Where the names do not come within completionTimeout, people press Tab again.
				for tries := 0; tries < 10 && strings.Join(offers, "") == ""; tries++ {
					out := run(shell, append(start, filepath.Join("..", "..", "test", "shells", "tab."+shell), script, pluginProgram+" "+line)...)
					offers = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
				}
				got, _, _ := strings.Cut(offers[0], "\t")
				if got = strings.TrimSuffix(strings.TrimSpace(got), "="); len(offers) != 1 || strings.ReplaceAll(got, `\:`, ":") != want {
					t.Errorf("%q: %q, want %q", line, offers, want)
				}
			}
		})
	}
}
