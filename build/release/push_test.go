package main

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// TestPush pushes an image of two platforms to a registry and looks what is there.
func TestPush(t *testing.T) {
	registry := serveRegistry(t)
	work := t.TempDir()
	program := filepath.Join(work, "program")
	if err := os.WriteFile(program, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	name, archive := registry+"/team/kube-gateway:v0.1.0", filepath.Join(work, "image.tar")
	run(t, "go", "-C", filepath.Join("..", "image"), "run", ".", "--name", name, "--version", "v0.1.0", "--output", archive,
		"amd64="+program, "arm64="+program)
	printed := strings.TrimSpace(run(t, "./push", archive, name))
	digest, err := imageDigest(archive)
	if err != nil {
		t.Fatal(err)
	}
	if want := registry + "/team/kube-gateway@sha256:" + digest; !strings.HasSuffix(printed, want) {
		t.Errorf("it prints %q, want %s, which is what gets signed", printed, want)
	}

	response, err := http.Get("http://" + registry + "/v2/team/kube-gateway/manifests/v0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Manifests []struct {
			Platform struct{ OS, Architecture string }
		}
	}
	if err := json.Unmarshal(text, &index); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v\n%s", response.Status, err, text)
	}
	var found []string
	for _, m := range index.Manifests {
		found = append(found, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	if slices.Sort(found); !slices.Equal(found, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("the registry has %q:\n%s", found, text)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// serveRegistry starts an empty registry on loopback and returns its address.
func serveRegistry(t *testing.T) string {
	t.Helper()
	script := read(t, "push")
	crane := regexp.MustCompile(`(?m)^crane=(\S+)$`).FindStringSubmatch(script)
	if crane == nil {
		t.Fatal("push does not say which crane it uses")
	}
	dir := t.TempDir()
	install := exec.CommandContext(t.Context(), "go", "install", crane[1])
	install.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(filepath.Join(dir, "crane"), "registry", "serve", "--address", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := make(chan string, 1)
	go func() {
		port := regexp.MustCompile(`serving on port (\d+)`)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if m := port.FindStringSubmatch(lines.Text()); m != nil {
				address <- "127.0.0.1:" + m[1]
			}
		}
		close(address)
	}()
	select {
	case a := <-address:
		if a != "" {
			return a
		}
	case <-time.After(time.Minute):
	}
	t.Fatal("the registry does not start")
	return ""
}

// TestWorkflow: what the release's workflow asks of make exists.
func TestWorkflow(t *testing.T) {
	root := sourceTree(t)
	text := read(t, filepath.Join(root, ".github", "workflows", "release.yml"))
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	// The one that signs is who the page tells users to ask for.
	if page := read(t, filepath.Join(root, "docs", "SECURITY.md")); !strings.Contains(page, "/.github/workflows/release.yml@refs/tags/$v\n") {
		t.Error("docs/SECURITY.md does not name the workflow as the one that signs")
	}
	may := map[string]string{"contents": "write", "packages": "write", "id-token": "write", "attestations": "write"}
	if got := w.Jobs["release"].Permissions; !maps.Equal(got, may) {
		t.Errorf("the workflow may %v, want %v", got, may)
	}
	targets := map[string]bool{}
	for _, job := range w.Jobs {
		for _, step := range job.Steps {
			for _, m := range regexp.MustCompile(`(?m)\bmake ([a-z-]+)`).FindAllStringSubmatch(step.Run, -1) {
				targets[m[1]] = true
			}
		}
	}
	for _, needed := range []string{"test-release", "release", "release-push"} {
		if !targets[needed] {
			t.Errorf("the workflow does not 'make %s'", needed)
		}
	}
	for target := range targets {
		if out := run(t, "make", "-C", root, "--dry-run", target, "VERSION=v0.1.0"); strings.Contains(out, "Nothing to be done") {
			t.Errorf("make knows no target %s:\n%s", target, out)
		}
	}
}
