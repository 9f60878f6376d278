package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// machine is a user's: with kubectl and krew, and nothing of this one's.
type machine struct {
	t    *testing.T
	bin  string // kubectl and krew
	home string
}

// newMachine has kubectl and krew, and krew's own validator.
func newMachine(t *testing.T) *machine {
	t.Helper()
	return &machine{t: t, bin: tools, home: t.TempDir()}
}

var (
	// tools is where TestMain has built what a user has installed.
	tools string
	// site is where users download releases, and siteURL its address.
	site, siteURL string
	// released makes the release of firstVersion on the site, once, and returns its directory,
	// which tests only read. Each system and each architecture is among its platforms, and with
	// TestGatewayArchitectures the gateway's: none of our files is for a pair of them.
	released = sync.OnceValues(func() (string, error) {
		dir := filepath.Join(site, firstVersion)
		return dir, command(context.Background(), []string{"--version", firstVersion, "--output", dir,
			"--platforms", "linux/amd64,darwin/arm64,windows/amd64", "--url", siteURL + "/" + firstVersion})
	})
)

// firstVersion is one that comes before others in all that compare versions.
const firstVersion = "v0.1.0-rc.1"

// firstRelease returns the directory of the release that most tests look at.
func firstRelease(t *testing.T) string {
	t.Helper()
	dir, err := released()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "release-tests-")
	if err == nil {
		defer os.RemoveAll(dir)
		tools, site = filepath.Join(dir, "tools"), filepath.Join(dir, "site")
		server := httptest.NewServer(http.FileServer(http.Dir(site)))
		defer server.Close()
		siteURL = server.URL
		err = buildTools(tools)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildTools(dir string) error {
	for program, source := range map[string]string{
		"kubectl": "./kubectl", "kubectl-krew": "sigs.k8s.io/krew/cmd/krew",
		"validate-krew-manifest": "sigs.k8s.io/krew/cmd/validate-krew-manifest",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, program), source)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

func (m *machine) command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(m.t.Context(), name, args...)
	cmd.Dir = dir
	root := filepath.Join(m.home, ".krew")
	cmd.Env = []string{
		"HOME=" + m.home, "KREW_ROOT=" + root, "KREW_NO_UPGRADE_CHECK=1",
		"PATH=" + strings.Join([]string{filepath.Join(root, "bin"), m.bin, "/usr/local/bin", "/usr/bin", "/bin"}, ":"),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=release", "GIT_AUTHOR_EMAIL=release@example.org",
		"GIT_COMMITTER_NAME=release", "GIT_COMMITTER_EMAIL=release@example.org",
	}
	// The first program found by name is this process's, not the machine's.
	if path := filepath.Join(m.bin, name); exists(path) {
		cmd.Path, cmd.Err = path, nil
	}
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// run runs a command that must succeed, and returns what it printed.
func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	return m.runIn(m.home, name, args...)
}

func (m *machine) runIn(dir, name string, args ...string) string {
	m.t.Helper()
	cmd := m.command(dir, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// newIndex returns a repository that is an index without any plugin.
func (m *machine) newIndex() string {
	m.t.Helper()
	repository := m.t.TempDir()
	m.runIn(repository, "git", "init", "--quiet")
	if err := os.MkdirAll(filepath.Join(repository, "plugins"), 0o755); err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(repository, "plugins", ".gitkeep"), "")
	m.runIn(repository, "git", "add", "plugins")
	m.runIn(repository, "git", "commit", "--quiet", "-m", "an empty index")
	return repository
}

func (m *machine) addIndex(name, repository string) {
	m.t.Helper()
	m.run("kubectl", "krew", "index", "add", name, repository)
}

// here is the platform of this machine.
const here = "linux/" + runtime.GOARCH

// TestKrewFromFiles installs from a manifest and an archive that were downloaded
// before, upgrades nothing, and uninstalls.
func TestKrewFromFiles(t *testing.T) {
	m := newMachine(t)
	dir := firstRelease(t)
	// krew uninstalls nothing as long as it has no index at all.
	m.addIndex("empty", m.newIndex())
	m.run("sh", "-c", strings.NewReplacer("dist/release", dir, "amd64", runtime.GOARCH).Replace(readme(t, "kubectl krew install --manifest=")))
	if out := m.run("kubectl", "gateway", "version", "--client"); !strings.Contains(out, firstVersion) {
		t.Errorf("the installed plugin says %q", out)
	}
	if !exists(filepath.Join(m.home, ".krew", "store", "gateway", firstVersion, "LICENSE")) {
		t.Error("the licence was not installed")
	}
	// man(1) reads the pages that came along, as the README says.
	cmd := m.command(m.home, "sh", "-c", readme(t, "man -M "))
	cmd.Env = append(cmd.Env, "MANPAGER=cat", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "kubectl-gateway-enable - ") {
		t.Errorf("the man page: %v, %.300s", err, out)
	}
	m.completes()
	m.run("kubectl", "krew", "uninstall", "gateway")
	if out, err := m.command(m.home, "kubectl", "gateway", "version", "--client").CombinedOutput(); err == nil {
		t.Errorf("after uninstalling: %s", out)
	}

	// An archive that is not the released one is refused.
	archive := filepath.Join(t.TempDir(), platform{"linux", runtime.GOARCH}.archive())
	write(t, archive, "another")
	out, err := m.command(m.home, "kubectl", "krew", "install", "--manifest", filepath.Join(dir, "plugins", "gateway.yaml"), "--archive", archive).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "checksum") {
		t.Errorf("a wrong archive: %v, %s", err, out)
	}
}

// readme returns the command in the README that begins so.
func readme(t *testing.T, beginning string) string {
	t.Helper()
	text := read(t, filepath.Join(sourceTree(t), "README.md"))
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "$ "); ok && strings.HasPrefix(command, beginning) {
			return strings.TrimSpace(command)
		}
	}
	t.Fatalf("the README has no command that begins with %q", beginning)
	return ""
}

// TestKrewIndex uses a repository like this one as a custom index: installs,
// upgrades to the next release, and uninstalls.
func TestKrewIndex(t *testing.T) {
	m := newMachine(t)
	repository := m.newIndex()

	// publish puts the manifest of a release into the repository.
	publish := func(version, dir string) {
		if err := os.RemoveAll(filepath.Join(repository, "plugins")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(repository, "plugins"), os.DirFS(filepath.Join(dir, "plugins"))); err != nil {
			t.Fatal(err)
		}
		m.runIn(repository, "git", "add", "plugins")
		m.runIn(repository, "git", "commit", "--quiet", "-m", version)
	}
	publish(firstVersion, firstRelease(t))
	m.run("sh", "-c", strings.Replace(readme(t, "kubectl krew index add "), "https://"+module+".git", repository, 1))
	m.run("sh", "-c", readme(t, "kubectl krew install gateway/"))
	if out := m.run("kubectl", "gateway", "version", "--client"); !strings.Contains(out, firstVersion) {
		t.Errorf("the installed plugin says %q", out)
	}
	next := build(t, sourceTree(t), "v0.2.0", siteURL+"/v0.2.0", here)
	if err := os.CopyFS(filepath.Join(site, "v0.2.0"), os.DirFS(next)); err != nil {
		t.Fatal(err)
	}
	publish("v0.2.0", next)
	m.run("kubectl", "krew", "update")
	m.run("kubectl", "krew", "upgrade", "gateway")
	if out := m.run("kubectl", "gateway", "version", "--client"); !strings.Contains(out, "v0.2.0") {
		t.Errorf("the upgraded plugin says %q", out)
	}
	m.run("kubectl", "krew", "uninstall", "gateway")
}

// TestManifestIsValid asks krew's own validator, which also installs the archive of every
// platform.
func TestManifestIsValid(t *testing.T) {
	m := newMachine(t)
	m.run("validate-krew-manifest", "-manifest", filepath.Join(firstRelease(t), "plugins", "gateway.yaml"))
}
