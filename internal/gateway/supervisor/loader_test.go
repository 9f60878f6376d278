//go:build linux

package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// TestLoaderHasNothing: a loader gets the end of a socket, the pod's memory and nothing else of the supervisor, which knows how it ended.
func TestLoaderHasNothing(t *testing.T) {
	t.Setenv("KEY", "secret")
	dir := t.TempDir()
	// A file of the supervisor, as its material is.
	file := must.Get(os.Create(filepath.Join(dir, "secret")))(t)
	defer file.Close()
	seen := filepath.Join(dir, "seen")
	script := `{ echo "$@"; ls -l /proc/$$/fd; tr '\0' '\n' < /proc/$$/environ; } > "$0"; exit 7`
	s := &supervisor{Options: Options{LoaderCommand: []string{"/bin/sh", "-c", script, seen}}}
	loaded, err := s.loadApart(t.Context())
	if loaded != nil || err == nil || !strings.Contains(err.Error(), "the loader ended: exit status 7") {
		t.Errorf("a loader that ends has loaded %v: %v", loaded, err)
	}
	if text := string(must.Get(os.ReadFile(seen))(t)); !strings.HasPrefix(text, "0\n") || !strings.Contains(text, " 3 -> socket:") || strings.Contains(text, "secret") {
		t.Errorf("a loader has\n%s", text)
	}
}

// TestNoLoader: a gateway whose programs nobody loads does not start.
func TestNoLoader(t *testing.T) {
	for _, command := range []string{"/bin/true", "/nowhere"} {
		s := &supervisor{Options: Options{LoaderCommand: []string{command}}}
		if loaded, err := s.loadApart(t.Context()); loaded != nil || err == nil {
			t.Errorf("%s has loaded %v: %v", command, loaded, err)
		}
	}
}

// TestLoaderHangs: a loader that does not end is killed, and the gateway's end does not wait for it.
func TestLoaderHangs(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	must.Do(t, unix.Mkfifo(ready, 0o600))
	s := &supervisor{Options: Options{LoaderCommand: []string{"/bin/sh", "-c", `echo $$ > "$0"; exec sleep 600`, ready}}}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		// It opens for writing once the loader runs.
		_, _ = os.ReadFile(ready)
		cancel(errors.New("the gateway ends"))
	}()
	if loaded, err := s.loadApart(ctx); loaded != nil || err == nil || err.Error() != "the gateway ends" {
		t.Errorf("a loader that hangs has loaded %v: %v", loaded, err)
	}
}
