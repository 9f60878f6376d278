//go:build unix

package authority

import (
	"errors"
	"syscall"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Opening a pipe for reading would wait for a writer that never comes.
func TestLoadPipe(t *testing.T) {
	dir := t.TempDir()
	must.Do(t, syscall.Mkfifo(Path(dir), 0o600))
	_, err := LoadDir(dir)
	if err == nil || errors.Is(err, ErrNoAuthority) {
		t.Fatalf("loaded from a pipe: %v", err)
	}
	expect.Message(t, "pipe", err)
	if _, err := supersede(dir, newTestAuthority(t, ca.DefaultTrustDomain)); err == nil {
		t.Error("replaced a pipe")
	}
}
