package rotate

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakegateway"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// checkDone checks that all that is left of a rotation is the new authority.
func (w *world) checkDone(when string) {
	w.t.Helper()
	a, err := authority.Load(w.t.Context(), w.rotator().Location)
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	if a.Fingerprint() == w.first.Fingerprint() || len(a.Roots()) != 1 {
		w.t.Fatalf("%s: still %v, roots %v", when, a, a.Roots())
	}
	for name, g := range w.gateways {
		status := g.status()
		if g.serving() && (status.Cert.Issuer != a.Roots()[0] || !slices.Equal(status.Cert.Authorities, a.Roots())) {
			w.t.Fatalf("%s: %s has a certificate of %s and trusts %v", when, name, status.Cert.Issuer, status.Cert.Authorities)
		}
	}
	w.check(when)
}

func TestRotateAuthority(t *testing.T) {
	for _, keep := range []string{"local", "both"} {
		w := newWorld(t, keep, "shop/web", "shop/db", "ops/job")
		r := w.rotator()
		var lines []string
		r.Progress = func(line string) {
			lines = append(lines, line)
			w.check(line)
		}
		result := must.Get(r.Rotate(t.Context()))(t)
		if !result.Done || result.Gateways != 3 || result.Backup == "" || result.Phase != authority.Idle || len(result.Blocked) != 0 {
			t.Errorf("%s: %+v", keep, result)
		}
		w.checkDone(keep)
		for i, want := range []string{"1/4 trust: authority", "1/4 trust: 3 gateways trust both", "2/4 switch", "3/4 reissue: 3 gateways", "4/4 drop: authority", "4/4 drop: 3 gateways"} {
			if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
				t.Errorf("%s: line %d of %q is not %q", keep, i, lines, want)
			}
		}
	}
}

func TestRotateAuthorityWithoutGateways(t *testing.T) {
	w := newWorld(t, "local")
	result, err := w.rotator().Rotate(t.Context())
	if err != nil || !result.Done || result.Gateways != 0 {
		t.Fatalf("%+v, %v", result, err)
	}
	w.checkDone("empty")
}

// TestInterruptedAnywhere ends a rotation at every single step: each change of a
// file, each request to the API server before and after it was served, each
// command in a gateway before and after it worked. It is run again until it is
// done; at every point all gateways accept each other, and what is enabled then.
func TestInterruptedAnywhere(t *testing.T) {
	for _, keep := range []string{"local", "both"} {
		t.Run(keep, func(t *testing.T) {
			t.Parallel()
			for stop := 1; ; stop++ {
				w := newWorld(t, keep, "shop/web", "ops/db")
				oldDir := filepath.Join(t.TempDir(), "old")
				must.Do(t, authority.CreateDir(oldDir, w.first))
				var (
					mu        sync.Mutex
					steps     int
					stoppedAt string
					dead      bool
					cancel    context.CancelFunc
				)
				w.step = func(what string) error {
					mu.Lock()
					defer mu.Unlock()
					if dead {
						return errInterrupted
					}
					if steps++; steps == stop {
						stoppedAt, dead = what, true
						cancel()
						return errInterrupted
					}
					return nil
				}
				r := w.rotator()
				r.Parallel = 1 // so that the number of a step means the same in every run
				done := false
				for runs := 1; !done; runs++ {
					if runs > 3 {
						t.Fatalf("step %d (%s): no end", stop, stoppedAt)
					}
					var ctx context.Context
					ctx, cancel = context.WithCancel(t.Context())
					result, err := r.Rotate(ctx)
					cancel()
					when := fmt.Sprintf("step %d (%s), run %d", stop, stoppedAt, runs)
					if err != nil && stoppedAt == "" {
						t.Fatalf("%s: %v", when, err)
					}
					mu.Lock()
					dead = false
					mu.Unlock()
					if err == nil && result.Done {
						done = true
					}
					saved := w.step
					w.step = func(string) error { return nil }
					w.check(when)
					w.checkNew(when, w.dir, false)
					w.checkNew(when, oldDir, true)
					rotation, err := authority.OpenRotation(t.Context(), r.Location)
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					if rotation.Phase() == authority.Idle && rotation.Current().Fingerprint() != w.first.Fingerprint() {
						done = true // only the last word was lost
					}
					w.step = saved
				}
				w.step = func(string) error { return nil }
				w.checkDone(fmt.Sprintf("step %d (%s)", stop, stoppedAt))
				if stoppedAt == "" {
					if stop < 60 {
						t.Errorf("only %d steps", stop)
					}
					t.Logf("%d steps", stop-1)
					return
				}
			}
		})
	}
}

// In the middle of each phase a gateway is enabled by somebody with what they
// loaded right before.
func TestEnabledMeanwhile(t *testing.T) {
	for _, at := range []string{"1/4 trust: authority", "1/4 trust: 1 gateway", "2/4", "3/4", "4/4 drop: authority",
		"trust shop/web done", "renew shop/web done"} {
		w := newWorld(t, "local", "shop/web")
		oldDir := filepath.Join(t.TempDir(), "old")
		must.Do(t, authority.CreateDir(oldDir, w.first))
		load := func() *ca.Authority {
			a, err := authority.Load(t.Context(), authority.Location{Client: w.cluster, Dir: oldDir})
			if errors.Is(err, authority.ErrForeign) {
				return nil
			}
			must.Do(t, err)
			return a
		}
		loaded, added := load(), false
		if at == "trust shop/web done" {
			loaded = w.first // from before the roots were published
		}
		happened := func(what string) {
			if !added && strings.HasPrefix(what, at) {
				added = true
				w.enable("zoo/late", loaded) // the last one in every list
			}
			if added {
				w.check(at + ", " + what)
			}
		}
		r := w.rotator()
		r.Parallel = 1
		w.step = func(what string) error {
			if strings.HasSuffix(what, "done") && !strings.Contains(what, "pods") {
				happened(what)
			}
			return nil
		}
		r.Progress = func(line string) {
			if now := load(); now != nil && !strings.HasPrefix(at, "trust") {
				loaded = now
			}
			happened(line)
			if strings.HasPrefix(line, "2/4") && added {
				w.checkNew(at+", "+line, w.dir, false)
			}
		}
		if _, err := r.Rotate(t.Context()); err != nil || !added {
			t.Fatalf("%s: added %v, %v", at, added, err)
		}
		w.checkDone(at)
	}
}

// One that is enabled with an authority from before the rotation, long after, is
// refused until the next look repairs it.
func TestLateWithOldTrustIsRepaired(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	r := w.rotator()
	r.Progress = func(line string) {
		if strings.HasPrefix(line, "2/4") {
			w.enable("late/one", w.first)
		}
	}
	must.Get(r.Rotate(t.Context()))(t)
	w.checkDone("late")
}

func TestBlocked(t *testing.T) {
	broken := errors.New("error dialing backend: no route to host")
	always := func(err error) []error { return slices.Repeat([]error{err}, 100) }
	other := must.Get(ca.New(ca.Options{}))(t)
	for _, c := range []struct {
		name       string
		spoil      func(*world, *fakeGateway)
		text, hint string
	}{
		{"unreachable", func(_ *world, g *fakeGateway) { g.failures = always(broken) }, "no route", "delete pod/db -n shop"},
		{"forbidden", func(_ *world, g *fakeGateway) {
			g.failures = always(api.WithHint(fmt.Errorf("%w: no", remote.ErrForbidden), "ask for a role"))
		}, "not allowed", "ask for a role"},
		{"another pod's", func(_ *world, g *fakeGateway) { g.imposter = true }, "another pod", ""},
		{"keeps what it has", func(_ *world, g *fakeGateway) { g.stubborn = true }, "did not take", ""},
		{"uncertified", func(_ *world, g *fakeGateway) { g.state, g.Chain, g.Roots = api.Uncertified, nil, nil }, "being enabled", "delete pod/db"},
		{"not yet running", func(w *world, g *fakeGateway) {
			g.failures = always(fmt.Errorf("%w: it waits", remote.ErrNotRunning))
			w.change(g, func(p *corev1.Pod) { setState(p, corev1.ContainerState{}) })
		}, "being enabled", ""},
		{"somebody else's", func(_ *world, g *fakeGateway) {
			leaf := must.Get(other.Issue(ca.LeafRequest{Identity: g.identity()}))(t)
			g.Chain, g.Roots = fakegateway.Certificates(leaf.CertPEM), fakegateway.Certificates(other.Bundle())
		}, "another authority", "rotate pod/db -n shop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "local", "shop/web", "shop/db")
			spoiled := w.gateways["shop/db"]
			c.spoil(w, spoiled)
			r := w.rotator()
			r.Timeout = 7 * pollInterval / 2 // it ends between two questions
			result, err := r.Rotate(t.Context())
			var blocked *BlockedError
			if !errors.As(err, &blocked) || len(blocked.Gateways) != 1 || !strings.Contains(api.Hint(err), "rotate --ca") {
				t.Fatalf("%+v, %v; hint %q", result, err, api.Hint(err))
			}
			b := blocked.Gateways[0]
			if b.Pod.Namespace != "shop" || b.Pod.Name != "db" || b.Container != "kube-gateway" ||
				!strings.Contains(b.Err.Error(), c.text) || !strings.Contains(api.Hint(b.Err), c.hint) {
				t.Errorf("%+v; hint %q", b, api.Hint(b.Err))
			}
			if result.Phase != authority.Trusting || len(result.Blocked) != 1 || err.Error() != "1 gateway is in the way of signing with the new authority" {
				t.Errorf("%+v, %v", result, err)
			}
			if c.name == "somebody else's" && (w.did("trust shop/web") || w.did("trust shop/db")) {
				t.Error("gateways were changed")
			}
			// The old authority signs on.
			if a, err := authority.Load(t.Context(), r.Location); err != nil || a.Fingerprint() != w.first.Fingerprint() {
				t.Errorf("%v, %v", a, err)
			}
			// Once it is gone, the rotation goes on.
			delete(w.gateways, "shop/db")
			must.Do(t, w.cluster.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("pods"), "shop", "db"))
			if result, err := r.Rotate(t.Context()); err != nil || !result.Done {
				t.Fatalf("%+v, %v", result, err)
			}
			w.checkDone(c.name)
		})
	}
}

// Whatever gets in the way after the switch, the old root stays.
func TestBlockedBeforeTheDrop(t *testing.T) {
	w := newWorld(t, "local", "shop/web", "shop/db")
	r := w.rotator()
	r.Progress = func(line string) {
		if strings.HasPrefix(line, "2/4") {
			w.gateways["shop/db"].stubborn = true
		}
	}
	result, err := r.Rotate(t.Context())
	var blocked *BlockedError
	if !errors.As(err, &blocked) || result.Phase != authority.Reissuing || !strings.Contains(err.Error(), "dropping the old root, which is in use") {
		t.Fatalf("%+v, %v", result, err)
	}
	w.check("blocked")
	bundle, err := w.cluster.CoreV1().ConfigMaps(authority.Namespace).Get(t.Context(), authority.BundleName, metav1.GetOptions{})
	if err != nil || !strings.Contains(bundle.Data[authority.BundleKey], string(w.first.Bundle())) {
		t.Errorf("%v, %v", bundle, err)
	}
	w.gateways["shop/db"].stubborn = false
	must.Get(r.Rotate(t.Context()))(t)
	w.checkDone("freed")
}

func TestWhatDoesNotCount(t *testing.T) {
	for name, spoil := range map[string]func(*world, *fakeGateway){
		"ended": func(w *world, g *fakeGateway) {
			w.change(g, func(p *corev1.Pod) { setState(p, fakecluster.Terminated(137, "")) })
		},
		"finished pod": func(w *world, g *fakeGateway) {
			w.change(g, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		},
		"image not found": func(w *world, g *fakeGateway) {
			w.change(g, func(p *corev1.Pod) { setState(p, fakecluster.Waiting("ImagePullBackOff", "")) })
		},
		"draining": func(_ *world, g *fakeGateway) { g.state = api.Draining },
		"gone since it was listed": func(w *world, g *fakeGateway) {
			g.failures = []error{fmt.Errorf("%w: db", remote.ErrPodGone), fmt.Errorf("%w: db", remote.ErrPodGone)}
			w.cluster.PrependReactor("get", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
				return action.(clienttesting.GetAction).GetName() == "db", nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "db")
			})
			w.cluster.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				if len(g.failures) > 0 {
					return false, nil, nil
				}
				return true, &corev1.PodList{Items: []corev1.Pod{*w.gateways["shop/web"].pod}}, nil
			})
		},
	} {
		w := newWorld(t, "local", "shop/web", "shop/db")
		g := w.gateways["shop/db"]
		spoil(w, g)
		result, err := w.rotator().Rotate(t.Context())
		if err != nil || !result.Done || result.Gateways != 1 {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
		if w.did("trust shop/db") || w.did("renew shop/db") {
			t.Errorf("%s: it was changed", name)
		}
	}
}

// TestEnding: a pod that ends has no container any more before the API server says so.
func TestEnding(t *testing.T) {
	deleted := func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }
	for name, end := range map[string]func(w *world, g *fakeGateway){
		"the pod goes": func(w *world, g *fakeGateway) {
			must.Do(w.t, w.cluster.Tracker().Delete(fakecluster.Pods, g.pod.Namespace, g.pod.Name))
		},
		"the container has ended": func(w *world, g *fakeGateway) {
			w.change(g, func(p *corev1.Pod) { setState(p, fakecluster.Terminated(0, "")) })
		},
		"the pod has failed": func(w *world, g *fakeGateway) { w.change(g, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }) },
		"it stays":           nil,
	} {
		for _, first := range []string{"status", "trust", "renew"} {
			t.Run(name+" before "+first, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, "local", "shop/web", "shop/db")
				g := w.gateways["shop/db"]
				var looked atomic.Int32
				w.step = func(what string) error {
					switch {
					case what == first+" shop/db" && g.failures == nil:
						w.mu.Lock()
						g.failures, g.state = slices.Repeat([]error{errors.New("container not found")}, 100), api.Disabled
						w.mu.Unlock()
						w.change(g, deleted)
					case what == "get pods" && g.failures != nil && looked.Add(1) == 3 && end != nil:
						end(w, g)
					}
					return nil
				}
				r := w.rotator()
				r.Timeout = 5 * time.Second
				if end == nil {
					r.Timeout = 7 * pollInterval / 2
				}
				var lines []string
				r.Progress = func(line string) { lines = append(lines, line) }
				result, err := r.Rotate(t.Context())
				if !slices.Contains(lines, "waiting for the end of pod/db -n shop") {
					t.Errorf("said %q", lines)
				}
				if end != nil {
					if err != nil || !result.Done || result.Gateways != 1 {
						t.Errorf("%+v, %v", result, err)
					}
					w.checkDone(name)
					return
				}
				if !errors.As(err, new(*BlockedError)) || len(result.Blocked) != 1 {
					t.Fatalf("%+v, %v", result, err)
				}
				if b := result.Blocked[0]; b.Err.Error() != "its pod is being deleted, and has not ended: container not found" || !strings.Contains(api.Hint(b.Err), "delete --force pod/db -n shop") {
					t.Errorf("%v; hint %q", b.Err, api.Hint(b.Err))
				}
			})
		}
	}
}

func TestTransientFailures(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	w.gateways["shop/web"].failures = []error{errors.New("unexpected EOF")}
	must.Get(w.rotator().Rotate(t.Context()))(t)
	w.checkDone("once")
}

// An expired certificate is no reason to stop: it is renewed on the way.
func TestExpiredMeanwhile(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	g := w.gateways["shop/web"]
	leaf := must.Get(w.first.Issue(ca.LeafRequest{Identity: g.identity(), TTL: time.Hour, Now: time.Now().Add(-2 * time.Minute)}))(t)
	g.Chain = fakegateway.Certificates(leaf.CertPEM)
	g.Chain[0].NotAfter = time.Now().Add(-time.Second)
	result, err := w.rotator().Rotate(t.Context())
	if err != nil || !result.Done {
		t.Fatalf("%+v, %v", result, err)
	}
	w.checkDone("expired")
}

func TestPlanChangesNothing(t *testing.T) {
	w := newWorld(t, "local", "shop/web", "shop/db")
	w.gateways["shop/db"].failures = []error{remote.ErrForbidden}
	r := w.rotator()
	w.step = func(what string) error {
		for _, change := range []string{"create", "update", "delete", "file", "renew", "trust"} {
			if strings.HasPrefix(what, change) {
				t.Errorf("it did %s", what)
			}
		}
		return nil
	}
	plan, err := r.Plan(t.Context())
	if err != nil || plan.Phase != authority.Idle || plan.Gateways != 1 || len(plan.Blocked) != 1 || !strings.HasPrefix(plan.Next, "1/4") || plan.Done {
		t.Errorf("%+v, %v", plan, err)
	}
}

func TestForbiddenList(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	w.cluster.Forbid("list", "pods")
	_, err := w.rotator().Rotate(t.Context())
	if !apierrors.IsForbidden(err) || !strings.Contains(api.Hint(err), "in all namespaces") {
		t.Errorf("%v; hint %q", err, api.Hint(err))
	}
}

func TestAnotherSuccessorMeanwhile(t *testing.T) {
	w := newWorld(t, "local", "shop/web")
	w.gateways["shop/web"].stubborn = true
	r := w.rotator()
	if _, err := r.Rotate(t.Context()); !errors.As(err, new(*BlockedError)) {
		t.Fatal(err)
	}
	dir := t.TempDir()
	other := must.Get(authority.Init(t.Context(), authority.InitOptions{Client: newWorld(t, "local").cluster, Dir: dir, Force: true}))(t)
	r.Successor.CertPEM, r.Successor.KeyPEM = readAuthority(t, other.File)
	if _, err := r.Rotate(t.Context()); !errors.Is(err, authority.ErrExists) || !strings.Contains(api.Hint(err), "--from-cert") {
		t.Errorf("%v; hint %q", err, api.Hint(err))
	}
}
