package authority

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestRotationInterrupted stops a rotation at every step, on disk and in the
// cluster, with the change done or not, and goes on. In between, the authority
// always loads, here and where another operator has the old one, and nothing but
// the two roots of the rotation is trusted.
func TestRotationInterrupted(t *testing.T) {
	for _, keep := range []string{"local", "cluster", "both"} {
		for _, doneFirst := range []bool{false, true} {
			for stop := 1; ; stop++ {
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
				when := fmt.Sprintf("%s, step %d, done %v", keep, stop, doneFirst)
				roots := map[string]bool{}
				finished, runs := false, 0
				for !finished {
					if runs++; runs > 12 {
						t.Fatalf("%s: no end", when)
					}
					r, err := s.open()
					if err != nil && !errors.Is(err, errInterrupted) {
						t.Fatalf("%s: %v", when, err)
					}
					if err == nil {
						finished, err = s.advance(r)
					}
					if err != nil && !errors.Is(err, errInterrupted) {
						t.Fatalf("%s: %v", when, err)
					}
					if err != nil {
						dead, step = false, stop // it does not happen again
						// The last change of all may have been made.
						if now, err := s.open(); err == nil && now.Phase() == Idle && !now.Current().Equal(s.first) {
							finished = true
						}
					}
					a, err := Load(t.Context(), s.location())
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					for _, root := range a.Roots() {
						roots[root] = true
					}
					if old, err := Load(t.Context(), other); err != nil && !errors.Is(err, ErrForeign) {
						t.Fatalf("%s: %v", when, err)
					} else if err == nil && old.Equal(s.first) && !a.Equal(s.first) && len(old.Roots()) != 2 {
						t.Fatalf("%s: another operator hands out %v while %v signs here", when, old.Roots(), a)
					}
				}
				if a, err := Load(t.Context(), s.location()); err != nil || a.Equal(s.first) || len(a.Roots()) != 1 || len(roots) != 2 {
					t.Fatalf("%s: at the end %v, %v; roots %v", when, a, err, roots)
				}
				if keep != "cluster" {
					checkFiles(t, when, s)
				}
				if step < stop {
					if stop < 6 {
						t.Errorf("%s: only %d steps", keep, stop)
					}
					break
				}
			}
		}
	}
}

// interruptWrites calls step around each change of the cluster.
func interruptWrites(cluster *fake.Clientset, doneFirst bool, step func(string) error) {
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
