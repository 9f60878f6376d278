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
	old, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, append(old, text...), 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
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
	if err := os.WriteFile(filepath.Join(r.dir, "cmd", "kubectl-gateway", "stray.go"), []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused("stray.go")
	if err := os.Remove(filepath.Join(r.dir, "cmd", "kubectl-gateway", "stray.go")); err != nil {
		t.Fatal(err)
	}

	if err := r.release(output); err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(output, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	published, err := os.ReadFile(index)
	if err != nil || string(published) != string(manifest) {
		t.Errorf("%s is not the release's: %v\n%s", indexFile, err, published)
	}
	if want := "https://" + module + "/releases/download/v0.1.0/kubectl-gateway_linux_" + runtime.GOARCH + ".tar.gz"; !strings.Contains(string(manifest), want) {
		t.Errorf("%s does not have %s", manifest, want)
	}
	// The index may be written a second time, and is no part of the archives.
	first := string(published)
	if err := r.release(output); err != nil {
		t.Fatal(err)
	}
	if published, _ = os.ReadFile(index); string(published) != first {
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
	sums, err := os.ReadFile(filepath.Join(output, "checksums.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sum, _, _ := strings.Cut(strings.Split(string(sums), "\n")[1], " ")
	if err := os.WriteFile(index, []byte(strings.Replace(first, sum, strings.Repeat("f", 64), 1)), 0o644); err != nil {
		t.Fatal(err)
	}
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
		if err := os.WriteFile(filepath.Join(root, indexFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := verify(t.Context(), root); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
