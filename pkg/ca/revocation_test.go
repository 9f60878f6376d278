package ca

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

func leafOf(t *testing.T, a *Authority, now time.Time) *x509.Certificate {
	t.Helper()
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID(a.TrustDomain()), IPs: testIPs, Now: now}))(t)
	return must.Get(ParseCertificates(leaf.CertPEM))(t)[0]
}

func serialOf(cert *x509.Certificate, now time.Time) []Revocation {
	return []Revocation{{Serial: cert.SerialNumber.Text(16), At: now, Until: cert.NotAfter}}
}

// sent returns r as somebody reads it who trusts a.
func sent(t *testing.T, a *Authority, r *Revocations) *Revocations {
	t.Helper()
	return must.Get(ParseRevocations(r.Encode(), a.roots(), a.TrustDomain()))(t)
}

func TestRevokeSerial(t *testing.T) {
	now := time.Now()
	a := newTestAuthority(t, "cluster.local")
	bad, good := leafOf(t, a, now), leafOf(t, a, now)
	r := sent(t, a, must.Get(a.Revoke(nil, serialOf(bad, now), now))(t))
	if err := r.Check(bad); !errors.Is(err, ErrRevoked) {
		t.Errorf("the revoked certificate: %v", err)
	}
	must.Do(t, r.Check(good))
	must.Do(t, (*Revocations)(nil).Check(bad))

	again := must.Get(a.Revoke(r, serialOf(bad, now.Add(time.Hour)), now.Add(time.Hour)))(t)
	expect.Equal(t, "numbers after the same once more", r.Numbers(), again.Numbers())
	more := must.Get(a.Revoke(r, serialOf(good, now), now))(t)
	if before, after := r.Numbers()[a.Fingerprint()], more.Numbers()[a.Fingerprint()]; after != before+1 {
		t.Errorf("number %d after %d", after, before)
	}
	if more.Reached(r.Numbers()) || !r.Reached(more.Numbers()) {
		t.Error("which list is newer is unclear")
	}
	expect.Equal(t, "the newest, from both sides", []map[string]int64{more.Numbers(), more.Numbers()},
		[]map[string]int64{more.Newest(r).Numbers(), r.Newest(more).Numbers()})

	// What is over goes with the next list.
	later := bad.NotAfter.Add(time.Second)
	last := must.Get(a.Revoke(more, []Revocation{{Serial: "1", At: later, Until: later.Add(time.Hour)}}, later))(t)
	expect.Equal(t, "entries that are left", 1, len(last.Entries(time.Time{})))
}

// A certificate that an identity gets after its revocation is good.
func TestRevokeIdentity(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a := must.Get(New(Options{Now: now.Add(-2 * time.Hour)}))(t)
	r := sent(t, a, must.Get(a.Revoke(nil, []Revocation{{Identity: testID("cluster.local").String(), At: now, Until: now.Add(time.Hour)}}, now))(t))
	for shift, revoked := range map[time.Duration]bool{-time.Hour: true, 0: true, time.Second: false, time.Hour: false} {
		if err := r.Check(leafOf(t, a, now.Add(shift))); errors.Is(err, ErrRevoked) != revoked {
			t.Errorf("issued %v after: %v", shift, err)
		}
	}
	other := testID("cluster.local")
	other.Namespace = "ops"
	leaf := must.Get(a.Issue(LeafRequest{Identity: other, IPs: testIPs}))(t)
	must.Do(t, r.Check(must.Get(ParseCertificates(leaf.CertPEM))(t)[0]))
}

// All that was issued for a pod is revoked, what may have been as well, and nothing of other pods.
func TestRevokePod(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a := must.Get(New(Options{Now: now.Add(-2 * time.Hour)}))(t)
	id, other := testID("cluster.local"), testID("cluster.local")
	other.ServiceAccount = "other"
	r := must.Get(a.Revoke(nil, []Revocation{{Identity: id.String(), Pod: "uid-a", At: now, Until: now.Add(time.Hour)}}, now))(t)
	r = must.Get(a.Revoke(r, []Revocation{{Identity: id.String(), Pod: "uid-b", At: now.Add(-time.Hour), Until: now.Add(time.Hour)}}, now))(t)
	r = sent(t, a, r)
	expect.Equal(t, "entries", 2, len(r.Entries(now)))
	for _, c := range []struct {
		name    string
		id      identity.ID
		pod     string
		shift   time.Duration
		revoked bool
	}{
		{"before", id, "uid-a", -time.Hour, true},
		{"of that second", id, "uid-a", 0, true},
		{"after", id, "uid-a", time.Second, false},
		{"of another pod", id, "uid-c", -time.Hour, false},
		{"of a pod that was revoked before", id, "uid-b", -time.Minute, false},
		{"of no pod", id, "", 0, true},
		{"of no pod, after", id, "", time.Second, false},
		{"of another account", other, "uid-a", -time.Hour, false},
		{"of no pod of another account", other, "", -time.Hour, false},
	} {
		leaf := must.Get(a.Issue(LeafRequest{Identity: c.id, IPs: testIPs, Now: now.Add(c.shift), Pod: api.PodRef{UID: c.pod}}))(t)
		if err := r.Check(must.Get(ParseCertificates(leaf.CertPEM))(t)[0]); errors.Is(err, ErrRevoked) != c.revoked {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A list holds for the certificates of its own authority, and goes with its root.
func TestRevocationsOfTwoAuthorities(t *testing.T) {
	now := time.Now()
	a, b := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	ofA, ofB := leafOf(t, a, now), leafOf(t, b, now)
	identity := []Revocation{{Identity: testID("cluster.local").String(), At: now, Until: now.Add(time.Hour)}}
	r := must.Get(a.Revoke(nil, identity, now))(t)
	if err := r.Check(ofB); err != nil {
		t.Errorf("a certificate of the other authority: %v", err)
	}
	both := sent(t, a.Trusting(b.Root()), must.Get(b.Revoke(r, identity, now))(t))
	for _, leaf := range []*x509.Certificate{ofA, ofB} {
		if err := both.Check(leaf); !errors.Is(err, ErrRevoked) {
			t.Errorf("with both lists: %v", err)
		}
	}
	left := both.Among([]*x509.Certificate{b.Root()})
	expect.Equal(t, "without the first root", []string{b.Fingerprint()}, keys(left.Numbers()))
	if _, err := ParseRevocations(both.Encode(), b.roots(), "cluster.local"); !errors.Is(err, ErrRevocations) {
		t.Errorf("a list of a root that is not trusted: %v", err)
	}
	readable, refused := ReadableRevocations(both.Encode(), b.roots(), "cluster.local")
	if !readable.Equal(left) || refused != 1 {
		t.Errorf("%v are readable, %d refused", readable.Numbers(), refused)
	}
}

// A list that was made from an older one than the last is found out, and none that an authority makes from its last.
func TestRevocationsLost(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a := must.Get(New(Options{Now: now.Add(-2 * time.Hour)}))(t)
	id := testID("cluster.local").String()
	soon, late := now.Add(time.Minute), now.Add(time.Hour)
	first := must.Get(a.Revoke(nil, []Revocation{{Serial: "a1", At: now, Until: late}, {Identity: id, At: now, Until: late}, {Serial: "c3", At: now, Until: soon}}, now))(t)
	second := must.Get(a.Revoke(first, []Revocation{{Identity: id, Pod: "uid-a", At: now.Add(time.Second), Until: late}}, now))(t)
	renewed := must.Get(a.Revoke(second, []Revocation{{Identity: id, At: now.Add(time.Second), Until: late}}, now))(t)
	over := must.Get(a.Revoke(renewed, []Revocation{{Serial: "d4", At: soon, Until: late}}, soon.Add(time.Nanosecond)))(t)
	forked := must.Get(a.Revoke(first, []Revocation{{Serial: "e5", At: late, Until: late}}, now.Add(2*time.Second)))(t)
	// The pod is gone: 'revoke' names all of the identity.
	wider := must.Get(a.Revoke(first, []Revocation{{Identity: id, At: now.Add(time.Second), Until: late}}, now.Add(2*time.Second)))(t)
	before := must.Get(a.Revoke(nil, []Revocation{{Identity: id, Pod: "uid-a", At: now.Add(time.Second), Until: late}}, now))(t)
	after := must.Get(a.Revoke(nil, []Revocation{{Identity: id, At: now, Until: late}}, now.Add(2*time.Second)))(t)
	narrower := must.Get(a.Revoke(nil, []Revocation{{Identity: id, Pod: "uid-a", At: now.Add(time.Second), Until: late}}, now.Add(3*time.Second)))(t)
	anew := must.Get(a.Revoke(nil, []Revocation{{Identity: id, At: now.Add(-time.Second), Until: late}}, now.Add(2*time.Second)))(t)
	for name, c := range map[string]struct {
		is, newer *Revocations
		want      []string
	}{
		"first":      {nil, first, nil},
		"none":       {second, nil, nil},
		"same":       {second, second, nil},
		"older":      {second, first, nil},
		"more":       {first, second, nil},
		"renewed":    {second, renewed, nil},
		"over":       {second, over, nil},
		"many later": {first, over, nil},
		"forked":     {second, forked, []string{"cluster.local/ns/shop/sa/cart in pod uid-a"}},
		"wider":      {second, wider, nil},
		"too old":    {before, after, []string{"cluster.local/ns/shop/sa/cart in pod uid-a"}},
		"narrower":   {after, narrower, []string{"cluster.local/ns/shop/sa/cart"}},
		"anew":       {first, anew, []string{"certificate a1", "cluster.local/ns/shop/sa/cart", "certificate c3"}},
	} {
		var got []string
		for _, e := range c.is.Lost(c.newer) {
			got = append(got, e.String())
		}
		expect.Equal(t, name, c.want, got)
	}
}

// Who revokes something once more takes nothing back, however that is done: neither ends an entry earlier, nor is it about less.
func TestRevokeAgain(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a := must.Get(New(Options{Now: now.Add(-2 * time.Hour)}))(t)
	id := testID("cluster.local").String()
	minute, hour := now.Add(time.Minute), now.Add(time.Hour)
	for name, what := range map[string]Revocation{"certificate": {Serial: "a1"}, "identity": {Identity: id}, "pod": {Identity: id, Pod: "uid-a"}} {
		entry := func(at, until time.Time) Revocation {
			e := what
			e.At, e.Until = at, until
			return e
		}
		for again, c := range map[string]struct{ first, second, want Revocation }{
			"shorter": {entry(now, hour), entry(minute, minute.Add(time.Second)), entry(minute, hour)},
			"longer":  {entry(now, minute), entry(now, hour), entry(now, hour)},
			"earlier": {entry(minute, minute), entry(now, hour), entry(minute, hour)},
		} {
			if what.Serial != "" {
				// It does not matter when.
				c.want.At = c.first.At
			}
			r := must.Get(a.Revoke(nil, []Revocation{c.first}, now))(t)
			next := must.Get(a.Revoke(r, []Revocation{c.second}, now))(t)
			expect.Equal(t, name+", "+again, []Revocation{c.want}, next.Entries(now))
			// A gateway that was out of reach meanwhile uses a later list.
			later := must.Get(a.Revoke(next, []Revocation{{Serial: "b2", At: minute, Until: hour}}, minute.Add(time.Minute)))(t)
			if lost := r.Lost(later); len(lost) > 0 {
				t.Errorf("%s, %s: lost %v", name, again, lost)
			}
			if same := must.Get(a.Revoke(next, []Revocation{c.second}, now))(t); same != next {
				t.Errorf("%s, %s: the same once more makes %v", name, again, same.Entries(now))
			}
		}
	}
}

// Authorities may follow each other below one root. Their lists stay as long as they are about something, and no more are
// signed than are read.
func TestRevocationsOfManyAuthorities(t *testing.T) {
	now := time.Now()
	entry := []Revocation{{Identity: testID("cluster.local").String(), At: now, Until: now.Add(time.Hour)}}
	var r *Revocations
	for i, a := range manyAuthorities(t) {
		leaf := leafOf(t, a, now)
		more, err := a.Revoke(r, entry, now)
		if i == maxRevocationLists {
			if !errors.Is(err, ErrRevocations) {
				t.Errorf("one list more than is read: %v", err)
			}
			later := now.Add(2 * time.Hour)
			if more, err = a.Revoke(r, []Revocation{{Serial: "1", At: later, Until: later.Add(time.Hour)}}, later); err == nil {
				expect.Equal(t, "lists when the others are over", []string{Fingerprint(a.chain[0])}, keys(sent(t, a, more).Numbers()))
			}
		}
		must.Do(t, err)
		r = sent(t, a, more)
		if i < maxRevocationLists && !errors.Is(r.Check(leaf), ErrRevoked) {
			t.Errorf("the certificate of authority %d is not revoked", i)
		}
	}
}

// A gateway that has lists of former authorities takes that of the next one in place of those that are over.
func TestNewestOfManyAuthorities(t *testing.T) {
	now := time.Now()
	before := now.Add(-2 * time.Hour)
	signers := manyAuthorities(t)
	var is *Revocations
	for i, a := range signers[:maxRevocationLists] {
		until := now.Add(time.Hour)
		if i == 0 {
			until = before.Add(time.Hour)
		}
		is = must.Get(a.Revoke(is, []Revocation{{Serial: "a1", At: before, Until: until}}, before))(t)
	}
	expect.Equal(t, "lists", maxRevocationLists, len(is.Numbers()))
	next := must.Get(signers[maxRevocationLists].Revoke(is, []Revocation{{Serial: "a1", At: now, Until: now.Add(time.Hour)}}, now))(t)
	expect.Equal(t, "lists of none", 0, len((*Revocations)(nil).Newest(new(Revocations)).Entries(now)))
	expect.Equal(t, "lists of both", next.Numbers(), sent(t, signers[0], is.Newest(next)).Numbers())
}

// manyAuthorities returns authorities below one root, one more than may have a list.
func manyAuthorities(t *testing.T) []*Authority {
	t.Helper()
	root := pki.Root(t)
	all := make([]*Authority, maxRevocationLists+1)
	for i := range all {
		key := pki.ECKey(t, elliptic.P256())
		pair := pki.Sign(t, fmt.Sprint("intermediate ", i), key, &root, nil)
		all[i] = must.Get(Import(append(pair.CertPEM(), root.CertPEM()...), pair.KeyPEM(t), "cluster.local"))(t)
	}
	return all
}

func keys(m map[string]int64) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}

func TestRevocationsRefused(t *testing.T) {
	now := time.Now()
	a, evil := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	r := must.Get(a.Revoke(nil, serialOf(leafOf(t, a, now), now), now))(t)
	change := func(edit func(*signedList)) string {
		list := r.lists[0].signedList
		edit(&list)
		return string(must.Get(json.Marshal([]signedList{list}))(t))
	}
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID("cluster.local"), IPs: testIPs}))(t)
	pod := *a
	pod.chain = append(must.Get(ParseCertificates(leaf.CertPEM))(t), a.chain...)
	pod.key = must.Get(parseKey(leaf.KeyPEM))(t)
	resigned := func(list string) string {
		return change(func(s *signedList) {
			s.List = list
			s.Signature = must.Get(a.sign(revocationStatement(list)))(t)
		})
	}
	ends := `"at":"2026-01-01T00:00:00Z","until":"2026-01-02T00:00:00Z"}`
	list := func(entries ...string) string {
		return resigned(`{"trustDomain":"cluster.local","number":1,"entries":[` + strings.Join(entries, ",") + `]}`)
	}
	var many []string
	for i := range MaxRevocations + 1 {
		many = append(many, fmt.Sprintf(`{"serial":"%x",`, i+1)+ends)
	}
	must.Get(ParseRevocations([]byte(list(many[1:]...)), a.roots(), "cluster.local"))(t)
	for name, text := range map[string]string{
		"no JSON":        "{",
		"another list":   change(func(s *signedList) { s.List = strings.Replace(s.List, `"number":`, `"number":1`, 1) }),
		"no signature":   change(func(s *signedList) { s.Signature = nil }),
		"another signer": change(func(s *signedList) { s.Signer = string(evil.Bundle()) }),
		"no signer":      change(func(s *signedList) { s.Signer = "" }),
		"signed by a pod": change(func(s *signedList) {
			s.Signer = string(leaf.CertPEM)
			s.Signature = must.Get(pod.sign(revocationStatement(s.List)))(t)
		}),
		"twice":                "[" + strings.Trim(string(r.Encode()), "[]") + "," + strings.Trim(string(r.Encode()), "[]") + "]",
		"number 0":             resigned(`{"trustDomain":"cluster.local","entries":[]}`),
		"another trust domain": resigned(`{"trustDomain":"other.local","number":1,"entries":[]}`),
		"an entry of nothing":  list("{" + ends),
		"an entry of both":     list(`{"serial":"1","identity":"spiffe://cluster.local/ns/a/sa/b",` + ends),
		"no time":              list(`{"serial":"1"}`),
		"upper case":           list(`{"serial":"AB",` + ends),
		"a long serial":        list(`{"serial":"` + strings.Repeat("1", maxSerial+1) + `",` + ends),
		"a foreign identity":   list(`{"identity":"spiffe://other.local/ns/a/sa/b",` + ends),
		"a pod of nobody":      list(`{"pod":"uid-a",` + ends),
		"a pod of a serial":    list(`{"serial":"1","pod":"uid-a",` + ends),
		"a long UID":           list(`{"identity":"spiffe://cluster.local/ns/a/sa/b","pod":"` + strings.Repeat("1", maxPodUID+1) + `",` + ends),
		"too many":             list(many...),
		"too large":            string(r.Encode()) + strings.Repeat(" ", maxRevocationText),
		"too many lists":       "[" + strings.Repeat(`{},`, maxRevocationLists) + "{}]",
	} {
		if _, err := ParseRevocations([]byte(text), a.roots(), "cluster.local"); !errors.Is(err, ErrRevocations) {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := must.Get(ParseRevocations([]byte(list(many[1:]...)), a.roots(), "cluster.local"))(t)
	if _, err := a.Revoke(full, []Revocation{{Serial: "fff", At: now, Until: now.Add(time.Hour)}}, time.Time{}); !errors.Is(err, ErrRevocations) {
		t.Errorf("one more than allowed: %v", err)
	}
}

func FuzzParseRevocations(f *testing.F) {
	a, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	r, err := a.Revoke(nil, []Revocation{{Serial: "a1", At: time.Now(), Until: time.Now().Add(time.Hour)},
		{Identity: testID(a.TrustDomain()).String(), Pod: "uid-a", At: time.Now(), Until: time.Now().Add(time.Hour)}}, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.Encode())
	f.Add([]byte("[{}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRevocations(text, a.roots(), a.TrustDomain())
		if (err != nil) == (r != nil) && err != nil {
			t.Fatalf("%v with an error: %v", r, err)
		}
		if err != nil || r == nil {
			return
		}
		again, err := ParseRevocations(r.Encode(), a.roots(), a.TrustDomain())
		if err != nil || !again.Equal(r) {
			t.Fatalf("%v became %v, %v", r.Numbers(), again.Numbers(), err)
		}
	})
}
