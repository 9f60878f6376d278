//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// requireRootForTest skips a test for a developer who is not root on Linux, and
// fails it in CI, where nobody would notice a skip.
func requireRootForTest(t *testing.T) {
	t.Helper()
	switch {
	case runtime.GOOS == "linux" && os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("this test needs root on Linux")
	default:
		t.Skip("this test needs root on Linux")
	}
}

func runVerb(t *testing.T, args ...string) (status int, out, err string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status = run(t.Context(), args, streams{strings.NewReader(""), &stdout, &stderr})
	return status, stdout.String(), stderr.String()
}

func TestVerbsWithoutACluster(t *testing.T) {
	t.Setenv(dirVariable, filepath.Join(t.TempDir(), "state"))
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{nil, 2, "usage: cluster VERB"},
		{[]string{"--help"}, 0, "usage: cluster VERB"},
		{[]string{"sideways"}, 1, `error: unknown verb "sideways"`},
		{[]string{"status"}, 1, "error: the cluster is down\nhint: start it with up\n"},
		{[]string{"kubeconfig"}, 1, "error: the cluster is down\nhint: start it with up\n"},
		{[]string{"kubectl", "get", "nodes"}, 1, "error: the cluster is down\n"},
		{[]string{"exec", "node-1", "true"}, 1, "error: the cluster is down\n"},
		{[]string{"exec", "node-1", "--"}, 1, "error: exec takes a node and a command\n"},
		{[]string{"load", "image.tar"}, 1, "error: the cluster is down\n"},
		{[]string{"load"}, 1, "error: load takes image archives\n"},
		{[]string{"stop", "control-plane/etcd"}, 1, "error: the cluster is down\n"},
		{[]string{"start", "control-plane/etcd"}, 1, "error: the cluster is down\n"},
		{[]string{"up", "--nodes", "0"}, 1, "error: --nodes must be at least 1, and at most 99 with --spare\n"},
		{[]string{"nodes", "3"}, 1, "error: the cluster is down\n"},
		{[]string{"up", "3"}, 1, `error: up takes no argument "3"`},
		{[]string{"up", "--sideways"}, 2, "flag provided but not defined"},
		{[]string{"image", "--name", "x"}, 1, "error: image needs --name, --binary and -o\n"},
	} {
		status, out, stderr := runVerb(t, test.args...)
		if status != test.status || !strings.Contains(stderr, test.stderr) || out != "" {
			t.Errorf("%q: status %d, output %q, errors %q", test.args, status, out, stderr)
		}
	}
	if _, err := os.Stat(os.Getenv(dirVariable)); !os.IsNotExist(err) {
		t.Errorf("a verb made the state directory: %v", err)
	}
}

func TestReport(t *testing.T) {
	var out bytes.Buffer
	err := fmt.Errorf("making it: %w", withHint(errors.New("no luck"), "try again"))
	if status := report(&out, err); status != 1 || out.String() != "error: making it: no luck\nhint: try again\n" {
		t.Errorf("status %d, output %q", status, out.String())
	}
	out.Reset()
	if status := report(&out, fmt.Errorf("running: %w", exitStatus(7))); status != 7 || out.Len() > 0 {
		t.Errorf("status %d, output %q", status, out.String())
	}
}

func TestImageTakesStaticBinariesOnly(t *testing.T) {
	dir := t.TempDir()
	static, archive := filepath.Join(dir, "static"), filepath.Join(dir, "out.tar")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", static, "./images/pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	if architecture, err := architecture(static); err != nil || architecture != "arm64" {
		t.Errorf("architecture = %q, %v", architecture, err)
	}
	if status, _, stderr := runVerb(t, "image", "--name", "localhost/x:1", "--binary", static, "-o", archive); status != 0 {
		t.Errorf("status %d: %s", status, stderr)
	}
	if _, err := os.Stat(archive); err != nil {
		t.Error(err)
	}
	if runtime.GOOS == "linux" {
		// Every Linux has a shell with a loader.
		status, _, stderr := runVerb(t, "image", "--name", "localhost/x:1", "--binary", "/bin/sh", "-o", archive)
		if status != 1 || !strings.Contains(stderr, "not a static executable\nhint: ") {
			t.Errorf("a dynamic executable: status %d, %q", status, stderr)
		}
	}
	if status, _, stderr := runVerb(t, "image", "--name", "localhost/x:1", "--binary", "main.go", "-o", archive); status != 1 {
		t.Errorf("a text: status %d, %q", status, stderr)
	}
}
