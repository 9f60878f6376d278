//go:build unix

package authority

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// A file with a second name is somebody's copy, and what somebody else has written meanwhile stays.
func TestEncryptLeavesWhatIsOthers(t *testing.T) {
	var asked int
	dir := filepath.Join(t.TempDir(), "authority")
	a := mustCreate(t, dir)
	before := must.Get(os.ReadFile(Path(dir)))(t)
	link := filepath.Join(t.TempDir(), "copy")
	must.Do(t, os.Link(Path(dir), link))
	ring := said(t, "correct horse battery", &asked)
	sealed := must.Get(ring.Encrypt(a, nil))(t)
	if remark := must.Get((&dirStore{dir: dir}).reseal(sealed))(t); !strings.Contains(remark, "still there") {
		t.Errorf("of the copy is said %q", remark)
	}
	expect.Equal(t, "the copy", string(before), string(must.Get(os.ReadFile(link))(t)))
	b := newTestAuthority(t, ca.DefaultTrustDomain)
	must.Get(supersede(dir, b))(t)
	if _, err := (&dirStore{dir: dir}).reseal(sealed); !errors.Is(err, ErrChanged) {
		t.Errorf("replaced another authority: %v", err)
	}
	checkFile(t, Path(dir), b)
}
