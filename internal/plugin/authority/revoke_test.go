package authority

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

func TestRevoke(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	o := newOperator(t, cluster)
	a := mustCreate(t, o.dir)
	must.Get(publishBundle(ctx, cluster, a, nil, false))(t)
	serial := func(text string) []ca.Revocation {
		return []ca.Revocation{{Serial: text, At: time.Now(), Until: time.Now().Add(time.Hour)}}
	}
	if r := must.Get(Revoked(ctx, cluster))(t); r != nil {
		t.Errorf("revoked before anything is: %v", r.Numbers())
	}
	must.Get(Revoke(ctx, o.location(), serial("a1")))(t)
	before := writes(cluster)
	again := must.Get(Revoke(ctx, o.location(), serial("a1")))(t)
	if writes(cluster) != before || len(again.Revocations().Entries(time.Now())) != 1 {
		t.Errorf("the same again: %d writes", writes(cluster)-before)
	}
	second := must.Get(Revoke(ctx, o.location(), serial("b2")))(t).Revocations()
	if len(second.Entries(time.Now())) != 2 || second.Reached(again.Revocations().Numbers()) {
		t.Errorf("%v after %v", second.Numbers(), again.Revocations().Numbers())
	}
	if loaded := must.Get(Load(ctx, o.location()))(t).Revocations(); !loaded.Equal(second) || !must.Get(Revoked(ctx, cluster))(t).Equal(second) {
		t.Errorf("loaded %v, want %v", loaded.Numbers(), second.Numbers())
	}

	// What somebody else has written is not believed, and stops nobody.
	m := must.Get(cluster.CoreV1().ConfigMaps(Namespace).Get(ctx, BundleName, metav1.GetOptions{}))(t)
	evil := newTestAuthority(t, ca.DefaultTrustDomain)
	m.Data[RevokedKey] = string(must.Get(evil.Revoke(nil, serial("c3"), time.Now()))(t).Encode())
	must.Get(cluster.CoreV1().ConfigMaps(Namespace).Update(ctx, m, metav1.UpdateOptions{}))(t)
	var remarks []string
	l := o.location()
	l.Remark = func(text string) { remarks = append(remarks, text) }
	if loaded := must.Get(Load(ctx, l))(t); loaded.Revocations() != nil || len(remarks) != 1 || !strings.Contains(remarks[0], "not signed") {
		t.Errorf("a foreign list: %v, %q", loaded.Revocations().Numbers(), remarks)
	}
	if _, err := Revoked(ctx, cluster); !errors.Is(err, ca.ErrRevocations) {
		t.Errorf("a foreign list is printed: %v", err)
	}
	refuse(cluster, "update", "configmaps", conflict("configmaps"))
	if _, err := Revoke(ctx, o.location(), serial("d4")); !errors.Is(err, ErrChanged) {
		t.Errorf("somebody else was faster: %v", err)
	}
}

// During a rotation both authorities revoke, and what the old one has revoked goes with its root.
func TestRevokeDuringRotation(t *testing.T) {
	ctx, cluster := t.Context(), newCluster(t, "uid-1")
	o := newOperator(t, cluster)
	old := mustCreate(t, o.dir)
	must.Get(publishBundle(ctx, cluster, old, nil, false))(t)
	rotation := must.Get(OpenRotation(ctx, o.location()))(t)
	must.Do(t, rotation.Begin(ctx, Source{}))
	rotation = must.Get(OpenRotation(ctx, o.location()))(t)
	must.Do(t, rotation.Publish(ctx))
	entries := []ca.Revocation{{Serial: "a1", At: time.Now(), Until: time.Now().Add(time.Hour)}}
	numbers := must.Get(Revoke(ctx, o.location(), entries))(t).Revocations().Numbers()
	next := rotation.Other()
	if len(numbers) != 2 || numbers[old.Fingerprint()] == 0 || numbers[next.Fingerprint()] == 0 {
		t.Errorf("revoked by %v", numbers)
	}
	rotation = must.Get(OpenRotation(ctx, o.location()))(t)
	must.Do(t, rotation.Switch(ctx))
	rotation = must.Get(OpenRotation(ctx, o.location()))(t)
	must.Do(t, rotation.Drop(ctx))
	left := must.Get(Revoked(ctx, cluster))(t).Numbers()
	if len(left) != 1 || left[next.Fingerprint()] != numbers[next.Fingerprint()] {
		t.Errorf("left of %v: %v", numbers, left)
	}
}
