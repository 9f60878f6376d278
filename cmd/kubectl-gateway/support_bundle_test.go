package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// archived returns the names of the files in an archive.
func archived(t *testing.T, archive []byte) (names []string) {
	t.Helper()
	z := must.Get(gzip.NewReader(bytes.NewReader(archive)))(t)
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}

// TestSupportBundle: the archive is complete although most of it cannot be found out, in a file for the
// owner alone or on the standard output.
func TestSupportBundle(t *testing.T) {
	run := tailServer().start(t)
	const has = "support-bundle/pods/demo/web/logs/kube-gateway.log"
	file := filepath.Join(t.TempDir(), "a.tar.gz")
	code, stdout, stderr := run("support-bundle", "pod/web", "-o", file)
	if code != 0 || stdout != file+"\n" || !strings.Contains(stderr, "collecting versions\n") || !strings.Contains(stderr, "warning: not collected: ") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	text := must.Get(os.ReadFile(file))(t)
	if names := archived(t, text); !slices.Contains(names, has) {
		t.Errorf("the archive has %q", names)
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	code, stdout, stderr = run("support-bundle", "pod/web", "pod/gone", "-o", "-")
	if names := archived(t, []byte(stdout)); code != 1 || !slices.Contains(names, has) || !strings.Contains(stderr, `pod "gone" not found`) {
		t.Errorf("exit code %d, files %q, stderr %q", code, names, stderr)
	}
}

// TestSupportBundleIsInterrupted: Ctrl-C leaves no part of an archive.
func TestSupportBundleIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	errOut := &ending{text: "collecting nodes", end: cancel}
	code := runOn(t, ctx, tailServer(), genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: errOut},
		"support-bundle", "pod/web", "-o", filepath.Join(dir, "a.tar.gz"))
	left, err := os.ReadDir(dir)
	if code == 0 || err != nil || len(left) > 0 {
		t.Errorf("exit code %d, left %v, %v", code, left, err)
	}
}
