package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// archived returns the names of the files in an archive, and all that they hold.
func archived(t *testing.T, archive []byte) (names []string, content string) {
	t.Helper()
	z := must.Get(gzip.NewReader(bytes.NewReader(archive)))(t)
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, content
		}
		if err != nil {
			t.Fatal(err)
		}
		names, content = append(names, header.Name), content+string(must.Get(io.ReadAll(r))(t))
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
	if names, _ := archived(t, text); !slices.Contains(names, has) {
		t.Errorf("the archive has %q", names)
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	code, stdout, stderr = run("support-bundle", "pod/web", "pod/gone", "-o", "-")
	if names, _ := archived(t, []byte(stdout)); code != 1 || !slices.Contains(names, has) || !strings.Contains(stderr, `pod "gone" not found`) {
		t.Errorf("exit code %d, files %q, stderr %q", code, names, stderr)
	}
}

// TestSupportBundleIsMasked: --mask-addresses leaves neither addresses nor the name of the API server.
func TestSupportBundleIsMasked(t *testing.T) {
	server := httptest.NewServer(tailServer())
	t.Cleanup(server.Close)
	const name = "localhost"
	config := []string{"--kubeconfig=" + writeKubeconfig(t, strings.Replace(server.URL, "127.0.0.1", name, 1)), "--cache-dir=" + t.TempDir()}
	for _, masked := range []bool{false, true} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), genericiooptions.IOStreams{In: strings.NewReader(""), Out: &stdout, ErrOut: &stderr},
			append(config, "support-bundle", "pod/web", "-o", "-", fmt.Sprint("--mask-addresses=", masked)))
		_, content := archived(t, stdout.Bytes())
		for _, word := range []string{name, "10.0.1.7"} {
			if code != 0 || strings.Contains(content, word) == masked {
				t.Errorf("masked %v: exit code %d, %q is there %v, stderr %q", masked, code, word, !masked, &stderr)
			}
		}
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
