package authority

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// TestRotationInterrupted stops a rotation at every step, on disk and in the
// cluster, with the change done or not, and goes on. In between, the authority
// always loads, here and where another operator has the old one, and nothing but
// the two roots of the rotation is trusted.
func TestRotationInterrupted(t *testing.T) {
	for _, keep := range []string{"local", "cluster", "both"} {
		for _, doneFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, done %v", keep, doneFirst), func(t *testing.T) {
				t.Parallel()
				for stop := 1; interruptRotation(t, keep, doneFirst, stop); stop++ {
					if stop > 100 {
						t.Fatal("no end of steps")
					}
				}
			})
		}
	}
}

// interruptRotation does a whole rotation that is interrupted at one step. It
// returns false if there are fewer steps.
func interruptRotation(t *testing.T, keep string, doneFirst bool, stop int) bool {
	s := newSite(t, keep)
	other := s.copyOfDir(keep)
	step, dead := 0, false
	// Once interrupted, everything fails: the process is gone.
	count := func(string) error {
		if step++; step == stop || dead {
			dead = true
			return errInterrupted
		}
		return nil
	}
	s.step = count
	interruptWrites(s.cluster, doneFirst, count)
	when := fmt.Sprintf("step %d", stop)
	load := func() *ca.Authority {
		a, err := Load(t.Context(), s.location())
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		return a
	}
	roots := map[string]bool{}
	finished, runs := false, 0
	for !finished {
		if runs++; runs > 12 {
			t.Fatalf("%s: no end", when)
		}
		r, err := s.open()
		if err == nil {
			finished, err = s.advance(r)
		}
		if err != nil && !errors.Is(err, errInterrupted) {
			t.Fatalf("%s: %v", when, err)
		}
		if err != nil {
			dead, step = false, stop // it does not happen again
			// The last change of all may have been made.
			if r, err := s.open(); err == nil && r.Phase() == Idle && !r.Current().Equal(s.first) {
				finished = true
			}
		}
		a := load()
		for _, root := range a.Roots() {
			roots[root] = true
		}
		if old, err := Load(t.Context(), other); err != nil && !errors.Is(err, ErrForeign) {
			t.Fatalf("%s: %v", when, err)
		} else if err == nil && old.Equal(s.first) && !a.Equal(s.first) && len(old.Roots()) != 2 {
			t.Fatalf("%s: another operator hands out %v while %v signs here", when, old.Roots(), a)
		}
	}
	if a := load(); a.Equal(s.first) || len(a.Roots()) != 1 || len(roots) != 2 {
		t.Fatalf("%s: at the end %v; roots %v", when, a, roots)
	}
	if keep != "cluster" {
		checkFiles(t, when, s)
	}
	if step < stop && stop < 6 {
		t.Errorf("only %d steps", stop)
	}
	return step >= stop
}

// interruptWrites calls step around each change of the cluster.
func interruptWrites(cluster *fakecluster.Cluster, doneFirst bool, step func(string) error) {
	for _, verb := range []string{"create", "update", "delete"} {
		cluster.PrependReactor(verb, "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if !doneFirst {
				err := step(verb)
				return err != nil, nil, err
			}
			handled, object, err := clienttesting.ObjectReaction(cluster.Tracker())(action)
			if stop := step(verb); stop != nil {
				return true, nil, stop
			}
			return handled, object, err
		})
	}
}

// checkFiles checks what a rotation leaves: the authority, and the old one.
func checkFiles(t *testing.T, when string, s *operator) {
	t.Helper()
	found := false
	for _, name := range names(t, s.dir) {
		switch {
		case name == fileName, strings.HasSuffix(name, tempSuffix):
		case name == retiredName:
			expect.Equal(t, when+": retired", ca.Fingerprint(s.first.Root()), s.retired())
		case name == nextName, name == previousName:
			t.Errorf("%s: %s is left", when, name)
		default:
			checkFile(t, filepath.Join(s.dir, name), s.first)
			found = true
		}
	}
	if !found {
		t.Errorf("%s: the old authority is lost", when)
	}
}
