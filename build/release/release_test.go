package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// build makes a release and returns its directory.
func build(t *testing.T, source, version, url, platforms string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "release")
	if err := command(t.Context(), []string{"--source", source, "--version", version, "--output", dir, "--platforms", platforms, "--url", url}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// read returns what is in a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sourceTree returns the top of this source tree.
func sourceTree(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestRepeatable builds a release once more, from another directory and for some of its
// platforms, and compares every byte.
func TestRepeatable(t *testing.T) {
	one := firstRelease(t)
	copied := filepath.Join(t.TempDir(), "elsewhere")
	copyTree(t, sourceTree(t), copied)
	other := build(t, copied, firstVersion, siteURL+"/"+firstVersion, "linux/amd64,windows/amd64")
	names := []string{
		"checksums.txt", "kube-gateway-" + strings.TrimPrefix(firstVersion, "v") + ".tgz", "kubectl-gateway_linux_amd64.cdx.json", "kubectl-gateway_linux_amd64.tar.gz",
		"kubectl-gateway_windows_amd64.cdx.json", "kubectl-gateway_windows_amd64.zip", "plugins/gateway.yaml",
	}
	if found := files(t, other); !slices.Equal(found, names) {
		t.Errorf("a release has %q", found)
	}
	for _, name := range names[1:6] {
		a, errA := checksum(filepath.Join(one, name))
		b, errB := checksum(filepath.Join(other, name))
		if err := errors.Join(errA, errB); err != nil || a != b {
			t.Errorf("%s differs (%v)", name, err)
		}
	}
	sums := strings.SplitAfter(read(t, filepath.Join(one, names[0])), "\n")
	for line := range strings.Lines(read(t, filepath.Join(other, names[0]))) {
		if !slices.Contains(sums, line) {
			t.Errorf("%s differs: %s", names[0], line)
		}
	}
}

// copyTree copies what the plugin is built from.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	for _, name := range []string{"cmd", "pkg", "internal", "bpf", "krew", "docs/man", "install"} {
		if err := os.CopyFS(filepath.Join(to, name), os.DirFS(filepath.Join(from, name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", "CHANGELOG.md", "README.md"} {
		write(t, filepath.Join(to, name), read(t, filepath.Join(from, name)))
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// TestContent looks into the archives as those who download them do.
func TestContent(t *testing.T) {
	dir := firstRelease(t)
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "checksums.txt")
	check.Dir = dir
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("checksums.txt: %v\n%s", err, out)
	}
	for archive, want := range map[string][]string{
		"kubectl-gateway_darwin_arm64.tar.gz": append([]string{"kubectl-gateway", "LICENSE"}, manPages(t)...),
		"kubectl-gateway_windows_amd64.zip":   {"kubectl-gateway.exe", "LICENSE"},
	} {
		if got := members(t, filepath.Join(dir, archive)); !slices.Equal(got, want) {
			t.Errorf("%s holds %q", archive, got)
		}
	}
	text := read(t, filepath.Join(dir, "kubectl-gateway_windows_amd64.cdx.json"))
	var list struct {
		BOMFormat  string
		Components []struct{ Name, Version, Purl string }
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil || list.BOMFormat != "CycloneDX" {
		t.Fatalf("%v in %.200s", err, text)
	}
	found := map[string]string{}
	for _, c := range list.Components {
		found[c.Name] = c.Version
	}
	if found["std"] == "" || found["k8s.io/client-go"] == "" || found["github.com/cilium/ebpf"] != "" {
		t.Errorf("the plugin is said to be made of %v", found)
	}
}

// manPages are the pages of this source tree as archives hold them.
func manPages(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, name := range files(t, filepath.Join(sourceTree(t), "docs", "man")) {
		names = append(names, "man/man1/"+name)
	}
	if !slices.Contains(names, "man/man1/kubectl-gateway-enable.1") {
		t.Fatalf("the man pages are %q", names)
	}
	return names
}

// members lists an archive whose programs can be executed.
func members(t *testing.T, path string) (names []string) {
	t.Helper()
	add := func(name string, mode os.FileMode) {
		if names = append(names, name); strings.HasPrefix(name, "kubectl-gateway") && mode.Perm()&0o111 == 0 {
			t.Errorf("%s in %s has mode %v", name, path, mode)
		}
	}
	if strings.HasSuffix(path, ".zip") {
		archive, err := zip.OpenReader(path)
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		for _, f := range archive.File {
			add(f.Name, f.Mode())
		}
		return names
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	uncompressed, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(uncompressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		add(header.Name, header.FileInfo().Mode())
	}
}

func TestBadOptions(t *testing.T) {
	for _, args := range [][]string{
		{"--version", "1.2.3", "--output", "x"}, {"--version", "v1.2", "--output", "x"}, {"--version", "v1.2.3"},
		{"--version", "v1.2.3", "--output", "x", "--platforms", "plan9/amd64"}, {"--version", "v1.2.3", "--output", "x", "y"},
	} {
		if err := command(t.Context(), args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	if _, err := os.Stat("x"); err == nil {
		t.Error("something was written all the same")
	}
}
