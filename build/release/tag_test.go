package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// repository is a clone of this project as somebody has it who releases.
type repository struct {
	*machine
	dir string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	r := &repository{newMachine(t), filepath.Join(t.TempDir(), "clone")}
	copyTree(t, sourceTree(t), r.dir)
	r.git("init", "--quiet", "--initial-branch=main")
	r.commit("everything")
	return r
}

func (r *repository) git(args ...string) { r.t.Helper(); r.runIn(r.dir, "git", args...) }

func (r *repository) commit(message string) {
	r.t.Helper()
	r.git("add", "--all")
	r.git("commit", "--quiet", "-m", message)
}

// add appends to a file.
func (r *repository) add(name, text string) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	write(r.t, path, read(r.t, path)+text)
}

// release does what "make release" does, for this machine's platform.
func (r *repository) release(output string) error {
	return command(r.t.Context(), []string{"--source", r.dir, "--version", "v0.1.0", "--tagged", "--output", output, "--platforms", here})
}

// TestTaggedRelease goes the way of a release up to the index that krew installs from,
// and every wrong turning of it.
func TestTaggedRelease(t *testing.T) {
	r := newRepository(t)
	output := filepath.Join(t.TempDir(), "release")
	index := filepath.Join(r.dir, indexFile)
	refused := func(want string) {
		t.Helper()
		if err := r.release(output); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
		if exists(output) || exists(index) {
			t.Error("something was written all the same")
		}
	}
	refused("no heading '## v0.1.0'")
	r.add("CHANGELOG.md", "\n## v0.1.0 (2030-01-01)\n")
	refused("there is no tag v0.1.0")
	r.git("tag", "v0.1.0")
	refused("has changes that tag v0.1.0 does not have:\nM CHANGELOG.md")
	r.commit("v0.1.0 is told")
	refused("the source is not tag v0.1.0")
	r.git("tag", "--force", "v0.1.0")
	write(t, filepath.Join(r.dir, "cmd", "kubectl-gateway", "stray.go"), "package main\n")
	refused("stray.go")
	if err := os.Remove(filepath.Join(r.dir, "cmd", "kubectl-gateway", "stray.go")); err != nil {
		t.Fatal(err)
	}

	if err := r.release(output); err != nil {
		t.Fatal(err)
	}
	manifest := read(t, filepath.Join(output, indexFile))
	published := read(t, index)
	if published != manifest {
		t.Errorf("%s is not the release's:\n%s", indexFile, published)
	}
	if want := "https://" + module + "/releases/download/v0.1.0/kubectl-gateway_linux_" + runtime.GOARCH + ".tar.gz"; !strings.Contains(manifest, want) {
		t.Errorf("%s does not have %s", manifest, want)
	}
	// The index may be written a second time, and is no part of the archives.
	if err := r.release(output); err != nil {
		t.Fatal(err)
	}
	if read(t, index) != published {
		t.Error("a second release of the tag is another")
	}
	r.commit("the index")
	r.add("README.md", "later\n")
	r.commit("later")
	verify := []string{"--source", r.dir, "--verify"}
	if err := command(t.Context(), verify); err != nil {
		t.Errorf("verifying: %v", err)
	}
	checkIndex(t, r.dir)
	archive := "kubectl-gateway_linux_" + runtime.GOARCH + ".tar.gz"
	before, _, _ := strings.Cut(read(t, filepath.Join(output, "checksums.txt")), "  "+archive+"\n")
	sum := before[strings.LastIndex(before, "\n")+1:]
	write(t, index, strings.Replace(published, sum, strings.Repeat("f", 64), 1))
	if err := command(t.Context(), verify); err == nil || !strings.Contains(err.Error(), "offers "+strings.Repeat("f", 64)+", and the tag v0.1.0 gives "+sum) {
		t.Errorf("a wrong checksum: %v", err)
	}
}

// TestIndex: this repository is an index as soon as it has a manifest.
func TestIndex(t *testing.T) {
	if !exists(filepath.Join(sourceTree(t), indexFile)) {
		t.Logf("there is no %s before the first release", indexFile)
		return
	}
	checkIndex(t, sourceTree(t))
}

// checkIndex has krew read the plugin from a repository's index, and looks for its
// version in the changelog.
func checkIndex(t *testing.T, root string) {
	t.Helper()
	m := newMachine(t)
	index := t.TempDir()
	if err := os.CopyFS(filepath.Join(index, "plugins"), os.DirFS(filepath.Join(root, "plugins"))); err != nil {
		t.Fatal(err)
	}
	m.runIn(index, "git", "init", "--quiet")
	m.runIn(index, "git", "add", "plugins")
	m.runIn(index, "git", "commit", "--quiet", "-m", "the index")
	m.addIndex("kubectl-gateway", index)
	info := m.run("kubectl", "krew", "info", "kubectl-gateway/gateway")
	var version string
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, "VERSION: "); ok {
			version = strings.TrimSpace(value)
		}
	}
	if err := inChangelog(root, version); err != nil {
		t.Errorf("%s is of version %q: %v", indexFile, version, err)
	}
	if want := "/releases/download/" + version + "/"; !strings.Contains(info, want) {
		t.Errorf("krew would download from elsewhere than %s:\n%s", want, info)
	}
}

// TestVerifyRefuses what is no index of this project.
func TestVerifyRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 `is of version ""`,
		"spec: {version: v1.0.0, what: 1}": "unknown field",
		"spec: {version: --upload-pack=x}": "is of version",
		"spec: {version: v9.9.9}":          "offers nothing",
		"spec: {version: v9.9.9, platforms: [{uri: x}]}": "getting the tag",
	} {
		root := t.TempDir()
		if out, err := exec.CommandContext(t.Context(), "git", "-C", root, "init", "--quiet").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := os.MkdirAll(filepath.Join(root, "plugins"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, indexFile), text)
		if err := verify(t.Context(), root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
