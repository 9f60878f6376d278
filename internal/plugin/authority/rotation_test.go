package authority

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// newSite returns an operator who has set up an authority. keep is "local",
// "cluster" (not on this machine) or "both".
func newSite(t *testing.T, keep string) *operator {
	t.Helper()
	s := newOperator(t, newCluster(t, "uid-1"))
	store := StoreLocal
	if keep != "local" {
		store = StoreCluster
	}
	result := must.Get(s.run(InitOptions{Store: store}))(t)
	s.first = result.Authority
	if keep == "cluster" {
		must.Do(t, os.RemoveAll(s.dir))
	}
	return s
}

func (s *operator) open() (*Rotation, error) { return OpenRotation(s.t.Context(), s.location()) }

func (s *operator) mustOpen(phase Phase) *Rotation {
	s.t.Helper()
	r := must.Get(s.open())(s.t)
	if r.Phase() != phase {
		s.t.Fatalf("phase %v, want %v", r.Phase(), phase)
	}
	return r
}

// advance does the next thing and reports whether that was the last.
func (s *operator) advance(r *Rotation) (done bool, err error) {
	ctx := s.t.Context()
	if _, err := r.CatchUp(ctx); err != nil {
		return false, err
	}
	switch r.Phase() {
	case Idle:
		return false, r.Begin(ctx, Source{})
	case Trusting:
		if err := r.Publish(ctx); err != nil {
			return false, err
		}
		return false, r.Switch(ctx)
	case Reissuing:
		if err := r.Publish(ctx); err != nil {
			return false, err
		}
		return false, r.Drop(ctx)
	}
	err = r.Finish(ctx)
	return err == nil, err
}

func TestRotation(t *testing.T) {
	for _, keep := range []string{"local", "cluster", "both"} {
		t.Run(keep, func(t *testing.T) {
			s := newSite(t, keep)
			ctx := t.Context()
			other := s.copyOfDir(keep)

			r := s.mustOpen(Idle)
			must.Do(t, r.Begin(ctx, Source{TTL: 24 * time.Hour}))
			next := r.Other()
			r = s.mustOpen(Trusting)
			if !r.Current().Equal(s.first) || !r.Other().Equal(next) {
				t.Fatalf("current %v, next %v", r.Current(), r.Other())
			}
			if err := r.Switch(ctx); err == nil {
				t.Error("switched before the next root was published")
			}
			s.checkLoads(s.location(), s.first)
			must.Do(t, r.Publish(ctx))
			s.checkLoads(s.location(), s.first, next)
			s.checkLoads(other, s.first, next)
			before := writes(s.cluster)
			must.Do(t, r.Publish(ctx))
			if writes(s.cluster) != before {
				t.Error("published what was published")
			}

			r = s.mustOpen(Trusting)
			must.Do(t, r.Switch(ctx))
			r = s.mustOpen(Reissuing)
			if !r.Current().Equal(next) || !r.Other().Equal(s.first) {
				t.Fatalf("current %v, previous %v", r.Current(), r.Other())
			}
			s.checkLoads(s.location(), next, s.first)
			if keep != "cluster" {
				s.checkLoads(other, s.first, next)
			}
			if err := r.Finish(ctx); err == nil {
				t.Error("finished before the old root was dropped")
			}
			must.Do(t, r.Drop(ctx))
			r = s.mustOpen(Dropping)
			s.checkLoads(s.location(), next)
			if keep != "cluster" {
				_, err := Load(ctx, other)
				expect.Refusal(t, "the old authority elsewhere", err, ErrForeign, "", "copy of authority.pem")
			}
			must.Do(t, r.Finish(ctx))
			backup := r.Backup()
			if (backup == "") != (keep == "cluster") {
				t.Errorf("backup %q", backup)
			}
			if backup != "" {
				checkFile(t, backup, s.first)
			}
			s.mustOpen(Idle)
			s.checkLoads(s.location(), next)
			secrets := must.Get(s.cluster.CoreV1().Secrets(Namespace).List(ctx, metav1.ListOptions{}))(t)
			if want := map[string]int{"local": 0, "cluster": 1, "both": 1}[keep]; len(secrets.Items) != want {
				t.Errorf("%d secrets", len(secrets.Items))
			}
			// And once more.
			for done := false; !done; {
				r := must.Get(s.open())(t)
				done = must.Get(s.advance(r))(t)
			}
		})
	}
}

// copyOfDir returns where another operator has the authority as it is now.
func (s *operator) copyOfDir(keep string) Location {
	s.t.Helper()
	if keep == "cluster" {
		return s.location()
	}
	dir := filepath.Join(s.t.TempDir(), "other")
	must.Do(s.t, CreateDir(dir, s.first))
	return Location{Client: s.cluster, Dir: dir}
}

// checkLoads checks that Load finds signer, with these roots besides its own.
func (s *operator) checkLoads(o Location, signer *ca.Authority, besides ...*ca.Authority) {
	s.t.Helper()
	a, err := Load(s.t.Context(), o)
	if err != nil || !a.Equal(signer) {
		s.t.Fatalf("loaded %v, %v, want %v", a, err, signer)
	}
	want := ca.EncodeCertificates([]*x509.Certificate{signer.Root()})
	for _, b := range besides {
		want = append(want, b.Bundle()...)
	}
	if string(a.Bundle()) != string(want) || len(a.Roots()) != len(besides)+1 || a.Roots()[0] != ca.Fingerprint(signer.Root()) {
		s.t.Errorf("the bundle has %v", a.Roots())
	}
}

// A rotation that was finished elsewhere is not begun again here.
func TestRotationFinishedElsewhere(t *testing.T) {
	for phase := Trusting; phase <= Dropping; phase++ {
		s := newSite(t, "both")
		for {
			r := must.Get(s.open())(t)
			if r.Phase() == phase {
				break
			}
			must.Get(s.advance(r))(t)
		}
		elsewhere := *s
		elsewhere.dir = filepath.Join(t.TempDir(), "elsewhere")
		var last *ca.Authority
		for done := false; !done; {
			r := must.Get(elsewhere.open())(t)
			done = must.Get(elsewhere.advance(r))(t)
			last = r.Current()
		}
		r := s.mustOpen(Idle)
		finished := must.Get(r.CatchUp(t.Context()))(t)
		if !finished {
			t.Errorf("%v: not seen as finished", phase)
		}
		if finished, err := s.mustOpen(Idle).CatchUp(t.Context()); err != nil || finished {
			t.Errorf("%v: finished twice: %v", phase, err)
		}
		s.checkLoads(s.location(), last)
		checkFiles(t, phase.String(), s)
	}
}

func TestRotationOfTwoOperators(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, "local")
	other := *s
	other.dir = s.copyOfDir("local").Dir
	mine, theirs := s.mustOpen(Idle), other.mustOpen(Idle)
	must.Do(t, mine.Begin(ctx, Source{}))
	must.Do(t, theirs.Begin(ctx, Source{}))
	// Both have read the bundle; the slower one must not take the other's root out.
	must.Do(t, mine.Publish(ctx))
	expect.Refusal(t, "publishing", theirs.Publish(ctx), ErrForeign, "", "another operator has begun a rotation")
	if _, err := other.open(); !errors.Is(err, ErrForeign) {
		t.Errorf("opened: %v", err)
	}
	s.checkLoads(Location{Client: s.cluster, Dir: other.dir}, s.first, mine.Other())

	// In the moment between reading and writing it is the server that tells.
	refuse(s.cluster, "update", "configmaps", conflict("configmaps"))
	must.Do(t, mine.Switch(ctx))
	expect.Refusal(t, "dropping", s.mustOpen(Reissuing).Drop(ctx), ErrChanged, "", "run the command again")
}

func TestRotationOfTwoProcesses(t *testing.T) {
	ctx := t.Context()
	for _, keep := range []string{"local", "cluster", "both"} {
		s := newSite(t, keep)
		one, two := s.mustOpen(Idle), s.mustOpen(Idle)
		must.Do(t, one.Begin(ctx, Source{}))
		if err := two.Begin(ctx, Source{}); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: both began: %v", keep, err)
		}
		if r := s.mustOpen(Trusting); !r.Other().Equal(one.Other()) {
			t.Errorf("%s: the first one's work is lost", keep)
		}
		must.Do(t, one.Publish(ctx))
		two = s.mustOpen(Trusting)
		must.Do(t, one.Switch(ctx))
		if err := two.Switch(ctx); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: both switched: %v", keep, err)
		}
		if r := s.mustOpen(Reissuing); !r.Other().Equal(s.first) {
			t.Errorf("%s: the old authority is lost", keep)
		}
		one, two = s.mustOpen(Reissuing), s.mustOpen(Reissuing)
		must.Do(t, one.Drop(ctx))
		must.Do(t, two.Drop(ctx))
		must.Do(t, one.Finish(ctx))
		// It has nothing in its way but what it has read before.
		if err := two.Finish(ctx); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: both finished: %v", keep, err)
		}
	}
}

// A root that nobody vouches for is not handed out, and stops a rotation.
func TestForeignRootInBundle(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, "local")
	evil := newTestAuthority(t, ca.DefaultTrustDomain)
	insert := func(annotation string) {
		m := must.Get(s.cluster.CoreV1().ConfigMaps(Namespace).Get(ctx, BundleName, metav1.GetOptions{}))(t)
		m.Data[BundleKey] = string(s.first.Bundle()) + string(evil.Bundle())
		if annotation != "" {
			m.Annotations[rotationAnnotation] = annotation
		}
		must.Get(s.cluster.CoreV1().ConfigMaps(Namespace).Update(ctx, m, metav1.UpdateOptions{}))(t)
	}
	forged := must.Get(ca.Endorse(evil, evil, time.Now().Add(time.Hour)))(t)
	forged.Old = ca.Fingerprint(s.first.Root())
	text := must.Get(json.Marshal(forged))(t)
	for name, annotation := range map[string]string{"nothing": "", "forged": string(text), "garbage": "{"} {
		insert(annotation)
		s.checkLoads(s.location(), s.first)
		_, err := s.open()
		expect.Refusal(t, name, err, ErrForeign, "", "kubectl edit configmap")
	}
}

func TestBeginRefuses(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, "local")
	foreign := newTestAuthority(t, "other.local")
	pem := func(a *ca.Authority) Source {
		certs, key, err := a.PEM()
		must.Do(t, err)
		return Source{CertPEM: certs, KeyPEM: key}
	}
	for name, c := range map[string]struct {
		successor Source
		hint      string
	}{
		"another trust domain": {pem(foreign), "trust-domain"},
		"itself":               {pem(s.first), "nothing to do"},
		"half":                 {Source{CertPEM: s.first.Bundle()}, "--from-key"},
		"a lifetime to choose": {Source{CertPEM: pem(foreign).CertPEM, KeyPEM: pem(foreign).KeyPEM, TTL: time.Hour}, "--ttl"},
	} {
		expect.Refusal(t, name, s.mustOpen(Idle).Begin(ctx, c.successor), nil, "", c.hint)
		s.mustOpen(Idle)
	}
	good := newTestAuthority(t, ca.DefaultTrustDomain)
	must.Do(t, s.mustOpen(Idle).Begin(ctx, pem(good)))
	if r := s.mustOpen(Trusting); !r.Other().Equal(good) {
		t.Errorf("next is %v", r.Other())
	}
}

// A predecessor that has expired meanwhile does not stop the rotation's end.
func TestPreviousMayExpire(t *testing.T) {
	synctest.Test(t, previousExpires)
}

func previousExpires(t *testing.T) {
	s := newSite(t, "both")
	ctx := t.Context()
	short := must.Get(ca.New(ca.Options{TTL: time.Hour}))(t)
	must.Get(supersede(s.dir, short))(t)
	must.Get((&secretStore{client: s.cluster}).publish(ctx, short, true))(t)
	must.Get(publishBundle(ctx, s.cluster, short, nil, true))(t)
	for _, phase := range []Phase{Idle, Trusting} {
		must.Get(s.advance(s.mustOpen(phase)))(t)
	}
	time.Sleep(2 * time.Hour)
	for _, phase := range []Phase{Reissuing, Dropping} {
		must.Get(s.advance(s.mustOpen(phase)))(t)
	}
	s.mustOpen(Idle)
}

// init-ca during a rotation does not undo it, and by force ends it.
func TestInitDuringRotation(t *testing.T) {
	ctx := t.Context()
	for _, keep := range []string{"local", "both"} {
		s := newSite(t, keep)
		store := map[string]Store{"local": StoreLocal, "both": StoreCluster}[keep]
		must.Do(t, s.mustOpen(Idle).Begin(ctx, Source{}))
		r := s.mustOpen(Trusting)
		must.Do(t, r.Publish(ctx))
		if result, err := Init(ctx, InitOptions{Location: Location{Client: s.cluster, Dir: s.dir}, Store: store}); err != nil || result.Changed {
			t.Errorf("%s: %v, %v", keep, result, err)
		}
		s.checkLoads(s.location(), s.first, r.Other())
		must.Do(t, s.cluster.CoreV1().ConfigMaps(Namespace).Delete(ctx, BundleName, metav1.DeleteOptions{}))
		_, err := Init(ctx, InitOptions{Location: Location{Client: s.cluster, Dir: s.dir}, Store: store})
		expect.Refusal(t, keep+", without a bundle", err, ErrExists, "", "rotate --ca")
		must.Do(t, s.mustOpen(Trusting).Publish(ctx))
		s.checkLoads(s.location(), s.first, r.Other())
		result := must.Get(Init(ctx, InitOptions{Location: Location{Client: s.cluster, Dir: s.dir}, Store: store, Force: true}))(t)
		s.mustOpen(Idle)
		s.checkLoads(s.location(), result.Authority)
	}
}
