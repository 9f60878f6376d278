package authority

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Steps of the store at which the tests below interrupt it. Too high a number
// means that the work is done before.
const maxSteps = 20

var errInterrupted = errors.New("interrupted by the test")

// An error at any step leaves the old authority or the new one, and a second
// attempt succeeds.
func TestErrorAtEveryStep(t *testing.T) {
	for _, replacing := range []bool{false, true} {
		for stop := 1; ; stop++ {
			dir := filepath.Join(t.TempDir(), "authority")
			var old *ca.Authority
			if replacing {
				old = mustCreate(t, dir)
			}
			next := newTestAuthority(t, ca.DefaultTrustDomain)
			step := 0
			s := &dirStore{dir: dir, step: func(string) error {
				if step++; step == stop {
					return errInterrupted
				}
				return nil
			}}
			err := createOrSupersede(s, next, replacing)
			if err == nil {
				if stop < 5 {
					t.Fatalf("only %d steps", stop)
				}
				break
			}
			if !errors.Is(err, errInterrupted) {
				t.Fatal(err)
			}
			checkOldOrNew(t, fmt.Sprintf("replacing %v, error at step %d", replacing, stop), dir, old, next)
			for _, name := range names(t, dir) {
				if strings.HasSuffix(name, tempSuffix) {
					t.Errorf("step %d: left %s behind", stop, name)
				}
			}
			if stop > maxSteps {
				t.Fatal("no end of steps")
			}
		}
	}
}

func createOrSupersede(s *dirStore, a *ca.Authority, replacing bool) error {
	if replacing {
		return s.supersede(a)
	}
	return s.write(a, current, false)
}

// checkOldOrNew accepts no third state of dir, and tries that work can go on.
func checkOldOrNew(t *testing.T, when, dir string, old, next *ca.Authority) {
	t.Helper()
	found, err := LoadDir(dir)
	switch {
	case old == nil && errors.Is(err, ErrNoAuthority):
	case err != nil:
		t.Errorf("%s: %v", when, err)
	case !found.Equal(next) && (old == nil || !found.Equal(old)):
		t.Errorf("%s: found neither the old nor the new authority", when)
	}
	// Whatever is there under a backup's name is complete, too.
	backups, err := filepath.Glob(filepath.Join(dir, "authority-*.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, backup := range backups {
		checkFile(t, backup, old)
	}
	if _, err := supersede(dir, next); err != nil {
		t.Errorf("%s: replacing afterwards: %v", when, err)
	}
}

// Environment variables of TestKillAtEveryStep's other process.
const (
	envKillDir  = "CA_TEST_KILL_DIR"
	envKillNext = "CA_TEST_KILL_NEXT"
	envKillStep = "CA_TEST_KILL_STEP"
	envKillMode = "CA_TEST_KILL_MODE"
)

// TestKillAtEveryStep lets another process kill itself (SIGKILL: nothing is
// tidied up) after each step, and looks at what it has left.
func TestKillAtEveryStep(t *testing.T) {
	if dir := os.Getenv(envKillDir); dir != "" {
		killedProcess(t, dir)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"create", "replace"} {
		kills := 0
		for stop := 1; ; stop++ {
			if stop > maxSteps {
				t.Fatal("no end of steps")
			}
			dir, nextDir := filepath.Join(t.TempDir(), "authority"), t.TempDir()
			var old *ca.Authority
			if mode == "replace" {
				old = mustCreate(t, dir)
			}
			next := mustCreate(t, nextDir)
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestKillAtEveryStep$")
			cmd.Env = append(os.Environ(), envKillDir+"="+dir, envKillNext+"="+nextDir, envKillMode+"="+mode, fmt.Sprintf("%s=%d", envKillStep, stop))
			out, err := cmd.CombinedOutput()
			checkOldOrNew(t, fmt.Sprintf("%s, killed at step %d", mode, stop), dir, old, next)
			if err == nil {
				break
			}
			if cmd.ProcessState.ExitCode() != -1 {
				t.Fatalf("the other process was not killed: %v: %s", err, out)
			}
			kills++
		}
		if kills < 5 {
			t.Errorf("%s: only %d steps", mode, kills)
		}
	}
}

func killedProcess(t *testing.T, dir string) {
	next, err := LoadDir(os.Getenv(envKillNext))
	if err != nil {
		t.Fatal(err)
	}
	var stop, step int
	if _, err := fmt.Sscan(os.Getenv(envKillStep), &stop); err != nil {
		t.Fatal(err)
	}
	s := &dirStore{dir: dir, step: func(string) error {
		if step++; step == stop {
			self, err := os.FindProcess(os.Getpid())
			if err != nil {
				return err
			}
			if err := self.Kill(); err != nil {
				return err
			}
			select {}
		}
		return nil
	}}
	if err := createOrSupersede(s, next, os.Getenv(envKillMode) == "replace"); err != nil {
		t.Fatal(err)
	}
}
