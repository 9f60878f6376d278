package authority

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

var errInterrupted = errors.New("interrupted by the test")

// Environment variables of TestInterruptedAtEveryStep's other process.
const (
	envKillDir  = "AUTHORITY_TEST_KILL_DIR"
	envKillNext = "AUTHORITY_TEST_KILL_NEXT"
	envKillStep = "AUTHORITY_TEST_KILL_STEP"
	envKillMode = "AUTHORITY_TEST_KILL_MODE"
)

// TestInterruptedAtEveryStep: an error at any step, and the death of the process
// (SIGKILL: nothing is tidied up), leave the old authority or the new one, and a
// second attempt succeeds.
func TestInterruptedAtEveryStep(t *testing.T) {
	if dir := os.Getenv(envKillDir); dir != "" {
		killedProcess(t, dir)
		return
	}
	for how, interrupted := range map[string]func(t *testing.T, dir, nextDir, mode string, stop int) (done bool){"error": fail, "killed": kill} {
		for _, mode := range []string{"create", "supersede"} {
			t.Run(mode+", "+how, func(t *testing.T) {
				t.Parallel()
				for stop, done := 1, false; !done; stop++ {
					dir, nextDir := filepath.Join(t.TempDir(), "authority"), t.TempDir()
					var old *ca.Authority
					if mode == "supersede" {
						old = mustCreate(t, dir)
					}
					next := mustCreate(t, nextDir)
					done = interrupted(t, dir, nextDir, mode, stop)
					checkOldOrNew(t, fmt.Sprintf("step %d", stop), dir, old, next)
					if done && stop <= 5 || stop > 20 {
						t.Fatalf("%d steps", stop)
					}
				}
			})
		}
	}
}

func fail(t *testing.T, dir, nextDir, mode string, stop int) (done bool) {
	err := change(t, dir, nextDir, mode, stop, func() error { return errInterrupted })
	if err != nil && !errors.Is(err, errInterrupted) {
		t.Fatal(err)
	}
	for _, name := range names(t, dir) {
		if strings.HasSuffix(name, tempSuffix) {
			t.Errorf("%s, step %d: left %s behind", mode, stop, name)
		}
	}
	return err == nil
}

func kill(t *testing.T, dir, nextDir, mode string, stop int) (done bool) {
	exe := must.Get(os.Executable())(t)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestInterruptedAtEveryStep$")
	cmd.Env = append(os.Environ(), envKillDir+"="+dir, envKillNext+"="+nextDir, envKillMode+"="+mode, fmt.Sprintf("%s=%d", envKillStep, stop))
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("the other process was not killed: %v: %s", err, out)
	}
	return err == nil
}

func killedProcess(t *testing.T, dir string) {
	var stop int
	must.Get(fmt.Sscan(os.Getenv(envKillStep), &stop))(t)
	must.Do(t, change(t, dir, os.Getenv(envKillNext), os.Getenv(envKillMode), stop, func() error {
		self := must.Get(os.FindProcess(os.Getpid()))(t)
		must.Do(t, self.Kill())
		select {}
	}))
}

// change writes the authority of nextDir to dir, and calls interrupt after a step.
func change(t *testing.T, dir, nextDir, mode string, stop int, interrupt func() error) error {
	t.Helper()
	next := must.Get(LoadDir(nextDir))(t)
	step := 0
	s := &dirStore{dir: dir, step: func(string) error {
		if step++; step == stop {
			return interrupt()
		}
		return nil
	}}
	if mode == "supersede" {
		return s.supersede(next)
	}
	return s.write(next, current, false)
}

// checkOldOrNew accepts no third state of dir, and tries that work can go on.
func checkOldOrNew(t *testing.T, when, dir string, old, next *ca.Authority) {
	t.Helper()
	found, err := LoadDir(dir)
	switch {
	case old == nil && errors.Is(err, ErrNoAuthority):
	case err != nil:
		t.Errorf("%s: %v", when, err)
	case !found.Equal(next) && !found.Equal(old):
		t.Errorf("%s: found neither the old nor the new authority", when)
	}
	// Whatever is there under a backup's name is complete, too.
	backups := must.Get(filepath.Glob(filepath.Join(dir, "authority-*.pem")))(t)
	for _, backup := range backups {
		checkFile(t, backup, old)
	}
	if _, err := supersede(dir, next); err != nil {
		t.Errorf("%s: replacing afterwards: %v", when, err)
	}
}
