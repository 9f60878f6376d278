// Package walls keeps what runs in the pod and what runs on the laptop apart.
package walls

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
)

const module = "github.com/kubectl-gateway/kubectl-gateway"

// TestWalls: neither program contains a package of the other's wing, and what both
// share contains one of neither. What is privileged in the pod contains nothing of the data
// path, and what serves metrics there contains nothing that is privileged.
func TestWalls(t *testing.T) {
	for _, part := range []struct {
		name      string
		forbidden []string // import paths, with all below them
	}{
		{"cmd/kube-gateway", []string{"k8s.io", "sigs.k8s.io", module + "/internal/plugin", module + "/internal/lab", module + "/pkg/inject"}},
		{"cmd/kubectl-gateway", []string{"github.com/cilium/ebpf", module + "/bpf", module + "/internal/gateway", module + "/internal/lab", module + "/pkg/proxy"}},
		{"pkg/ca", []string{"k8s.io", "sigs.k8s.io", module + "/internal/plugin", module + "/internal/gateway", module + "/internal/lab"}},
		{"internal/gateway/supervisor", []string{module + "/pkg/proxy"}},
		{"internal/gateway/exporter", []string{"github.com/cilium/ebpf", module + "/bpf", module + "/pkg/proxy", module + "/internal/gateway/supervisor"}},
	} {
		t.Run(part.name, func(t *testing.T) {
			var found []string
			for _, path := range dependencies(t, part.name) {
				if slices.ContainsFunc(part.forbidden, func(wall string) bool { return below(path, wall) }) {
					found = append(found, path)
				}
			}
			expect.Equal(t, "what "+part.name+" imports behind a wall", []string(nil), found)
		})
	}
}

// dependencies returns the import paths of all packages in a program for Linux.
func dependencies(t *testing.T, program string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}} {{.Dir}}", module+"/"+program)
	list.Env = append(list.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	output, err := list.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", program, err)
	}
	var paths []string
	for line := range strings.Lines(string(output)) {
		path, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		paths = append(paths, path)
		// go test repeats a cached result unless a file changed that the test has read.
		if below(path, module) {
			if _, err := os.ReadDir(dir); err != nil {
				t.Fatalf("reading the sources of %s: %v", path, err)
			}
		}
	}
	if !slices.Contains(paths, module+"/"+program) {
		t.Fatalf("go list -deps %s does not list the program itself: %q", program, paths)
	}
	return paths
}

// below reports whether an import path is wall, or lies below it.
func below(path, wall string) bool {
	return path == wall || strings.HasPrefix(path, wall+"/")
}
