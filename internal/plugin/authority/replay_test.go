package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// published returns the trust bundle as the cluster has it.
func (o *operator) published() *corev1.ConfigMap {
	o.t.Helper()
	return must.Get(o.cluster.CoreV1().ConfigMaps(Namespace).Get(o.t.Context(), BundleName, metav1.GetOptions{}))(o.t)
}

// putBack makes the trust bundle what it was.
func (o *operator) putBack(was *corev1.ConfigMap) {
	o.t.Helper()
	m := o.published()
	m.Data, m.Annotations = maps.Clone(was.Data), maps.Clone(was.Annotations)
	must.Get(o.cluster.CoreV1().ConfigMaps(Namespace).Update(o.t.Context(), m, metav1.UpdateOptions{}))(o.t)
}

// finish takes the rotation from where it is to its end.
func (o *operator) finish() {
	o.t.Helper()
	for done := false; !done; {
		r := must.Get(o.open())(o.t)
		done = must.Get(o.advance(r))(o.t)
	}
}

// retired returns the roots that o's machine has retired.
func (o *operator) retired() string {
	o.t.Helper()
	roots := must.Get((&dirStore{dir: o.dir}).retiredRoots(o.t.Context()))(o.t)
	return strings.Join(ca.Fingerprints(roots), " ")
}

// remarks returns what Load has to say, without an error.
func (o *operator) remarks(l Location) (lines []string) {
	o.t.Helper()
	l.Remark = func(line string) { lines = append(lines, line) }
	must.Get(Load(o.t.Context(), l))(o.t)
	return lines
}

// TestRetiredRootStaysAway: who may write the trust bundle, and has the key that leaked, puts
// back what the bundle said during the rotation.
func TestRetiredRootStaysAway(t *testing.T) {
	for _, keep := range []string{"local", "cluster", "both"} {
		t.Run(keep, func(t *testing.T) {
			s := newSite(t, keep)
			ctx := t.Context()
			must.Get(s.advance(s.mustOpen(Idle)))(t)
			must.Get(s.advance(s.mustOpen(Trusting)))(t)
			during := s.published()
			if lines := s.remarks(s.location()); len(lines) != 1 || !strings.Contains(lines[0], "given two roots") {
				t.Errorf("during the rotation it says %q", lines)
			}
			s.finish()
			second := s.mustOpen(Idle).Current()
			if lines := s.remarks(s.location()); len(lines) != 0 {
				t.Errorf("after the rotation it says %q", lines)
			}

			s.putBack(during)
			s.checkLoads(s.location(), second)
			if lines := s.remarks(s.location()); len(lines) != 1 || !strings.Contains(lines[0], "has root "+short(s.first.Root())+" again") {
				t.Errorf("it says %q", lines)
			}
			_, err := s.open()
			expect.Refusal(t, "rotating", err, ErrRetired, "", "init-ca")

			store := StoreLocal
			if keep != "local" {
				store = StoreCluster
			}
			result := must.Get(s.run(InitOptions{Store: store}))(t)
			if !result.Changed || len(s.remarks(s.location())) != 0 {
				t.Error("init-ca leaves it")
			}
			s.checkLoads(s.location(), second)

			certs, key, err := s.first.PEM()
			must.Do(t, err)
			back := Source{CertPEM: certs, KeyPEM: key}
			expect.Refusal(t, "rotating back", s.mustOpen(Idle).Begin(ctx, back), ErrRetired, "", "remove it")
			if keep != "cluster" {
				_, err = s.run(InitOptions{Source: back, Store: store, Force: true})
				expect.Refusal(t, "by force", err, ErrRetired, "", "remove it")
				must.Get(supersede(s.dir, s.first))(t)
				_, err = Load(ctx, s.location())
				expect.Refusal(t, "loading the old file", err, ErrRetired, "", "replaced it")
			}
		})
	}
}

// TestRetiredRootDuringTheNextRotation: what is removed of the bundle is the retired root alone.
func TestRetiredRootDuringTheNextRotation(t *testing.T) {
	s := newSite(t, "local")
	ctx := t.Context()
	s.finish()
	second := s.mustOpen(Idle).Current()
	r := s.mustOpen(Idle)
	must.Do(t, r.Begin(ctx, Source{}))
	must.Do(t, s.mustOpen(Trusting).Publish(ctx))
	third := s.mustOpen(Trusting).Other()
	m := s.published()
	m.Data[BundleKey] += string(s.first.Bundle())
	s.putBack(m)
	s.checkLoads(s.location(), second, third)
	if lines := s.remarks(s.location()); len(lines) != 2 {
		t.Errorf("it says %q", lines)
	}
	must.Get(s.run(InitOptions{}))(t)
	s.checkLoads(s.location(), second, third)
	must.Do(t, s.mustOpen(Trusting).Switch(ctx))
	s.finish()
	if s.retired() != ca.Fingerprint(s.first.Root())+" "+ca.Fingerprint(second.Root()) {
		t.Errorf("retired: %s", s.retired())
	}
}

// TestPutBackAtTheEnd: between the drop and the end of the rotation it makes no difference.
func TestPutBackAtTheEnd(t *testing.T) {
	s := newSite(t, "both")
	ctx := t.Context()
	for _, phase := range []Phase{Idle, Trusting} {
		must.Get(s.advance(s.mustOpen(phase)))(t)
	}
	during := s.published()
	must.Get(s.advance(s.mustOpen(Reissuing)))(t)
	r := s.mustOpen(Dropping)
	s.putBack(during)
	must.Do(t, r.Finish(ctx))
	s.checkLoads(s.location(), s.mustOpen(Idle).Current())
}

// TestStatementEnds: on a machine that has not taken part in the rotation, a root comes back with
// the statement for as long as that holds. A rotation that waits for longer is not forgotten.
func TestStatementEnds(t *testing.T) {
	synctest.Test(t, statementEnds)
}

func statementEnds(t *testing.T) {
	s := newSite(t, "local")
	ctx := t.Context()
	for _, phase := range []Phase{Idle, Trusting} {
		must.Get(s.advance(s.mustOpen(phase)))(t)
	}
	second := s.mustOpen(Reissuing).Current()
	other := *s
	other.dir = s.copyOfDir("local").Dir
	third := *s
	third.dir = t.TempDir() + "/third"
	must.Do(t, CreateDir(third.dir, second))
	during := s.published()

	time.Sleep(statementLife - time.Minute)
	for _, o := range []*operator{&other, &third, s} {
		if lines := o.remarks(o.location()); len(lines) != 1 {
			t.Errorf("it says %q", lines)
		}
	}
	time.Sleep(2 * time.Minute)
	for name, o := range map[string]*operator{"with the old one": &other, "with the new one": &third, "who rotates": s} {
		_, err := Load(ctx, o.location())
		expect.Refusal(t, name, err, ca.ErrEnded, "", "rotate --ca")
	}
	must.Do(t, s.mustOpen(Reissuing).Publish(ctx))
	s.checkLoads(s.location(), second, s.first)
	s.checkLoads(other.location(), s.first, second)
	before := writes(s.cluster)
	time.Sleep(statementLife / 3)
	must.Do(t, s.mustOpen(Reissuing).Publish(ctx))
	if writes(s.cluster) != before {
		t.Error("it is renewed early")
	}
	time.Sleep(statementLife / 3)
	must.Do(t, s.mustOpen(Reissuing).Publish(ctx))
	if writes(s.cluster) != before+1 {
		t.Error("it is not renewed")
	}

	s.finish()
	s.checkLoads(third.location(), second)
	s.putBack(during)
	_, err := Load(ctx, third.location())
	expect.Refusal(t, "on a machine that knows nothing of the rotation", err, ca.ErrEnded, "", "kubectl edit configmap")
}

// TestStatementOfAnEarlierRelease has no end, and is replaced by who goes on with the rotation.
func TestStatementOfAnEarlierRelease(t *testing.T) {
	s := newSite(t, "local")
	ctx := t.Context()
	must.Do(t, s.mustOpen(Idle).Begin(ctx, Source{}))
	must.Do(t, s.mustOpen(Trusting).Publish(ctx))
	next := s.mustOpen(Trusting).Other()
	m := s.published()
	m.Annotations[rotationAnnotation] = string(must.Get(json.Marshal(must.Get(ca.Endorse(s.first, next, time.Time{}))(t)))(t))
	if strings.Contains(m.Annotations[rotationAnnotation], "notAfter") {
		t.Fatal(m.Annotations)
	}
	s.putBack(m)
	_, err := Load(ctx, s.location())
	expect.Refusal(t, "loading", err, ca.ErrEnded, "earlier release", "rotate --ca")
	must.Do(t, s.mustOpen(Trusting).Publish(ctx))
	s.checkLoads(s.location(), s.first, next)
	s.finish()
	s.checkLoads(s.location(), next)
}

func TestRetiredRootsAreBounded(t *testing.T) {
	ctx := t.Context()
	dir := &dirStore{dir: t.TempDir() + "/authority"}
	must.Do(t, dir.write(newTestAuthority(t, ca.DefaultTrustDomain), current, false))
	var want []string
	for range maxRetired + 3 {
		root := newTestAuthority(t, ca.DefaultTrustDomain).Root()
		must.Do(t, dir.retireRoot(ctx, root))
		must.Do(t, dir.retireRoot(ctx, root))
		want = append(want, ca.Fingerprint(root))
	}
	expect.Equal(t, "retired", want[3:], ca.Fingerprints(must.Get(dir.retiredRoots(ctx))(t)))
	must.Do(t, dir.place([]byte("roots"), retiredName, true))
	if _, err := dir.retiredRoots(ctx); !errors.Is(err, ca.ErrDamaged) || api.Hint(err) == "" {
		t.Errorf("damaged: %v", err)
	}
}

// FuzzBundle: whatever the trust bundle says, nobody trusts a root besides their own unless their
// own key has signed for it and nobody has retired it.
func FuzzBundle(f *testing.F) {
	a, b := must.Get(ca.New(ca.Options{}))(f), must.Get(ca.New(ca.Options{}))(f)
	retired := must.Get(ca.New(ca.Options{}))(f)
	both := string(a.Bundle()) + string(b.Bundle()) + string(retired.Bundle())
	for _, end := range []time.Duration{time.Hour, -time.Hour} {
		for _, other := range []*ca.Authority{b, retired} {
			e := must.Get(ca.Endorse(a, other, time.Now().Add(end)))(f)
			f.Add(both, string(must.Get(json.Marshal(e))(f)), "cluster.local")
		}
	}
	f.Add(both, `{"old":"x","notAfter":"2030-01-01T00:00:00Z"}`, "")
	f.Add(string(a.Bundle()), "{", "other.local")
	good := must.Get(ca.Endorse(a, b, time.Now().Add(time.Hour)))(f)
	f.Fuzz(func(t *testing.T, certificates, rotation, trustDomain string) {
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{rotationAnnotation: rotation, TrustDomainAnnotation: trustDomain}},
			Data: map[string]string{BundleKey: certificates}}
		read, err := readBundle(m)
		if err != nil {
			return
		}
		_ = fmt.Sprint(read)
		trusting, _, err := read.trusting(a, withRoot(nil, retired.Root()))
		if err != nil {
			return
		}
		allowed := a.Roots()
		if partner, err := read.rotation.Partner(a, time.Now()); err == nil && partner == good.New {
			allowed = append(allowed, partner)
		}
		if got := trusting.Roots(); len(got) > len(allowed) || got[len(got)-1] != allowed[len(got)-1] {
			t.Fatalf("trusts %v, may trust %v", got, allowed)
		}
	})
}
