package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// completes presses Tab in real shells that have kubectl's own completion, after the
// installed plugin has installed its.
func (m *machine) completes() {
	m.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/demo/pods" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"kind":"PodList","apiVersion":"v1","items":[
			{"metadata":{"name":"web-0","namespace":"demo"},"spec":{"containers":[{"name":"app"}]},"status":{"phase":"Running"}},
			{"metadata":{"name":"db-0","namespace":"demo"},"spec":{"containers":[{"name":"app"}]},"status":{"phase":"Running"}}]}`)
	}))
	defer server.Close()
	kube := filepath.Join(m.home, ".kube")
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],
		"contexts":[{"name":"c","context":{"cluster":"c","namespace":"demo"}}]}`, server.URL)
	if err := os.MkdirAll(kube, 0o755); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(kube, "config"), config)
	program := filepath.Join(m.home, ".krew", "bin", "kubectl_complete-gateway")
	if out := m.run("kubectl", "gateway", "completion", "--install"); out != program+": installed\n" {
		m.t.Fatalf("installing the completion: %q", out)
	}
	for shell, start := range map[string][]string{
		"bash": {"--noprofile", "--norc"}, "zsh": {"-f"}, "fish": {"--no-config"},
	} {
		if _, err := exec.LookPath(shell); err != nil {
			if os.Getenv("CI") == "true" {
				m.t.Errorf("%v: 'make tools' installs it", err)
			} else {
				m.t.Logf("not completed: %v: 'make tools' installs it", err)
			}
			continue
		}
		script := filepath.Join(m.home, shell)
		write(m.t, script, m.run("kubectl", "completion", shell))
		harness := filepath.Join(sourceTree(m.t), "test", "shells", "tab."+shell)
		for line, want := range map[string]string{
			"ena":                       "enable",
			"enable --wire inb":         "inband",
			"enable --on-f":             "--on-failure",
			"enable pod/w":              "pod/web-0",
			"-n demo enable web-0 d":    "db-0",
			"enable -n demo pod/web-0 ": "pod/db-0",
			"completion pow":            "powershell",
		} {
			var offers []string
			// Where the names do not come within the completion's two seconds, people press Tab again.
			for tries := 0; tries < 10 && strings.Join(offers, "") == ""; tries++ {
				out := m.run(shell, append(start, harness, script, "kubectl gateway "+line)...)
				offers = strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			}
			got, _, _ := strings.Cut(offers[0], "\t")
			if got = strings.TrimSuffix(strings.TrimSpace(got), "="); len(offers) != 1 || got != want {
				m.t.Errorf("%s: %q: %q, want %q", shell, line, offers, want)
			}
		}
	}
	if err := os.Remove(program); err != nil {
		m.t.Fatal(err)
	}
}
