//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// issue makes a certificate for the pod of newTestSupervisor, unless change says
// otherwise.
func issue(t testing.TB, by pki.Pair, public crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	ips := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}
	return by.Leaf(t, identity.ID{TrustDomain: "td", Namespace: "a", ServiceAccount: "c"}, ips, public, change)
}

// newLeaf is issue with a new key.
func newLeaf(t testing.TB, by pki.Pair, change func(*x509.Certificate)) pki.Pair {
	t.Helper()
	key := pki.ECKey(t, elliptic.P256())
	return pki.Pair{Cert: issue(t, by, key.Public(), change), Key: key}
}

func pemOf(certs ...*x509.Certificate) string { return string(ca.EncodeCertificates(certs)) }

const testConfig = `{"version":1,"pod":{"namespace":"a","name":"b","uid":"u","serviceAccount":"c"},"podIPs":["10.0.0.1","fd00::1"],
	"trustDomain":"td","mode":"strict","onFailure":"closed","ranges":["10.0.0.0/8"]}`

// newTestSupervisor returns a supervisor between two workers. Without a
// certificate it waits for its first one.
func newTestSupervisor(t testing.TB, material handoff.Material) (*supervisor, *bytes.Buffer) {
	t.Helper()
	material.Config = []byte(testConfig)
	f := must.Get(material.Seal())(t)
	var log bytes.Buffer
	s := &supervisor{end: newEnding(), Options: Options{Material: f, Log: slog.New(slog.NewJSONHandler(&log, nil)), Budget: new(journal.Budget)}, state: state{changed: make(chan struct{})}, rest: time.NewTimer(restAfter)}
	t.Cleanup(func() { s.settings.material.Close() })
	must.Do(t, s.describe())
	return s, &log
}

// certified returns a supervisor with a certificate of root, which change may alter.
func certified(t testing.TB, root pki.Pair, change func(*x509.Certificate)) *supervisor {
	t.Helper()
	own := newLeaf(t, root, change)
	s, _ := newTestSupervisor(t, handoff.Material{Cert: own.CertPEM(), Key: own.KeyPEM(t), CA: root.CertPEM()})
	return s
}

// request asks for a certificate and returns the key that it is to be for.
func request(t testing.TB, s *supervisor) crypto.PublicKey {
	t.Helper()
	r := must.Get(s.requestCertificate())(t)
	block, rest := pem.Decode([]byte(r.CSR))
	if block == nil || len(rest) > 0 {
		t.Fatalf("the request is %q", r.CSR)
	}
	csr := must.Get(x509.ParseCertificateRequest(block.Bytes))(t)
	must.Do(t, csr.CheckSignature())
	return csr.PublicKey
}

func material(t testing.TB, s *supervisor) *handoff.Material {
	t.Helper()
	m := must.Get(handoff.ReadMaterial(s.settings.material))(t)
	return m
}

// asJSON shows a whole status, to compare.
func asJSON(t testing.TB, s *supervisor) string {
	t.Helper()
	st, _ := s.snapshot()
	text := must.Get(json.Marshal(st))(t)
	return string(text)
}

func TestFirstCertificate(t *testing.T) {
	root := pki.Root(t)
	s, log := newTestSupervisor(t, handoff.Material{})
	if s.status.State != api.Uncertified || s.status.Identity != "spiffe://td/ns/a/sa/c" || s.capturing() {
		t.Fatalf("it begins as %+v", s.status)
	}
	if err := s.installTrust(&api.TrustBundle{Bundle: pemOf(root.Cert)}); err == nil || api.Hint(err) == "" {
		t.Errorf("trust before a certificate: %v", err)
	}
	waiting, err := s.answer(t.Context(), control.Request{Op: control.OpStatus, Wait: time.Hour})
	if err != nil || waiting.(*api.Status).State != api.Uncertified || time.Since(waiting.(*api.Status).Time) > time.Minute {
		t.Errorf("whoever waits for it hears %+v, %v", waiting, err)
	}
	leaf := issue(t, root, request(t, s), nil)
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(leaf), Bundle: pemOf(root.Cert)}))
	if ok, err := s.awaitCertificate(t.Context()); !ok || err != nil {
		t.Errorf("it still waits: %t, %v", ok, err)
	}
	m := material(t, s)
	if _, err := tls.X509KeyPair(m.Cert, m.Key); err != nil || string(m.CA) != pemOf(root.Cert) || string(m.Config) != testConfig {
		t.Errorf("the material: %v, %s, %s", err, m.CA, m.Config)
	}
	st, _ := s.snapshot()
	if c := st.Cert; st.State != api.Starting || c.Serial != leaf.SerialNumber.Text(16) || c.Issuer != ca.Fingerprint(root.Cert) ||
		!slices.Equal(c.Authorities, []string{c.Issuer}) || !c.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("the status is %+v", st)
	}
	if text := log.String(); strings.Contains(text, "PRIVATE") || !strings.Contains(text, leaf.SerialNumber.Text(16)) {
		t.Errorf("the log says %s", text)
	}
}

// TestRefusedCertificates: what is refused changes nothing, and the request can
// still be answered as it should be.
func TestRefusedCertificates(t *testing.T) {
	root, other := pki.Root(t), pki.Root(t)
	between := func(until time.Duration) pki.Pair {
		return pki.Sign(t, "between", pki.ECKey(t, elliptic.P256()), &root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(until) })
	}
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		issued func(leaf, bundle string, public crypto.PublicKey) (string, string)
		text   string
		hint   string
	}{
		"another key": {issued: func(_, b string, _ crypto.PublicKey) (string, string) {
			return pemOf(newLeaf(t, root, nil).Cert), b
		}, text: "no key of this gateway", hint: "renew again"},
		"identity":     {change: func(c *x509.Certificate) { c.URIs[0].Path = "/ns/a/sa/other" }, text: "is for spiffe://td/ns/a/sa/other, the gateway is spiffe://td/ns/a/sa/c"},
		"trust domain": {change: func(c *x509.Certificate) { c.URIs[0].Host = "elsewhere" }, text: "spiffe://elsewhere"},
		"two names": {change: func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "td", Path: "/ns/a/sa/c"})
		}, text: "2 URI names"},
		"no name":     {change: func(c *x509.Certificate) { c.URIs = nil }, text: "0 URI names"},
		"address":     {change: func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] }, text: "address fd00::1"},
		"loopback":    {change: func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv4(127, 0, 0, 1)) }, text: "address 127.0.0.1"},
		"link-local":  {change: func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.ParseIP("fe80::1")) }, text: "address fe80::1"},
		"servers":     {change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, text: "servers and clients"},
		"clients":     {change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, text: "servers and clients"},
		"authority":   {change: func(c *x509.Certificate) { c.IsCA = true }, text: "that of an authority"},
		"expired":     {change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, text: "this node's clock says", hint: "clocks"},
		"not yet":     {change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, text: "this node's clock says", hint: "clocks"},
		"other root":  {issued: func(l, _ string, _ crypto.PublicKey) (string, string) { return l, pemOf(other.Cert) }, text: "does not lead to", hint: "one authority"},
		"no bundle":   {issued: func(l, _ string, _ crypto.PublicKey) (string, string) { return l, "" }, text: "no certificate in PEM form"},
		"leaf bundle": {issued: func(l, _ string, _ crypto.PublicKey) (string, string) { return l, l }, text: "the trust bundle: certificate cannot serve as an authority", hint: "not that of a server"},
		"key in bundle": {issued: func(l, b string, _ crypto.PublicKey) (string, string) { return l, b + string(root.KeyPEM(t)) },
			text: "a private key where only certificates belong"},
		"key with certificate": {issued: func(l, b string, _ crypto.PublicKey) (string, string) { return string(root.KeyPEM(t)) + l, b },
			text: "a private key where only certificates belong"},
		"words": {issued: func(l, b string, _ crypto.PublicKey) (string, string) { return "hello\n" + l, b },
			text: "something else than certificates"},
		"headers": {issued: func(l, b string, _ crypto.PublicKey) (string, string) {
			return strings.Replace(l, "CERTIFICATE-----\n", "CERTIFICATE-----\nX: y\n\n", 1), b
		}, text: "something else than certificates"},
		"no certificate": {issued: func(_, b string, _ crypto.PublicKey) (string, string) { return "", b }, text: "no certificate in PEM form"},
		"broken": {issued: func(_, b string, _ crypto.PublicKey) (string, string) {
			return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), b
		}, text: "parsing the certificate"},
		"long chain": {issued: func(l, b string, _ crypto.PublicKey) (string, string) { return l + strings.Repeat(b, maxChain), b },
			text: "more than 8"},
		"large bundle": {issued: func(l, b string, _ crypto.PublicKey) (string, string) { return l, strings.Repeat(b, maxRoots+1) },
			text: "more than 16"},
		"without its intermediate": {issued: func(_, b string, public crypto.PublicKey) (string, string) {
			return pemOf(issue(t, between(time.Hour), public, nil)), b
		}, text: "does not lead to"},
		"expired intermediate": {issued: func(_, b string, public crypto.PublicKey) (string, string) {
			old := between(-time.Minute)
			return pemOf(issue(t, old, public, nil), old.Cert), b
		}, text: "an intermediate certificate is valid from", hint: "clocks"},
	} {
		t.Run(name, func(t *testing.T) {
			s := certified(t, root, nil)
			before, file := asJSON(t, s), s.settings.material
			public := request(t, s)
			leaf, bundle := pemOf(issue(t, root, public, c.change)), pemOf(root.Cert)
			if c.issued != nil {
				leaf, bundle = c.issued(leaf, bundle, public)
			}
			err := s.installCertificate(&api.IssuedCertificate{Certificate: leaf, Bundle: bundle})
			if err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(api.Hint(err), c.hint) {
				t.Errorf("error %v, hint %q; want %q, %q", err, api.Hint(err), c.text, c.hint)
			}
			if asJSON(t, s) != before || s.settings.material != file {
				t.Errorf("it changed the status from %s to %s", before, asJSON(t, s))
			}
			good := &api.IssuedCertificate{Certificate: pemOf(issue(t, root, public, nil)), Bundle: pemOf(root.Cert)}
			if err := s.installCertificate(good); err != nil {
				t.Errorf("the right certificate for the same request: %v", err)
			}
			if err := s.installCertificate(good); err == nil {
				t.Error("a request was answered twice")
			}
		})
	}
	if err := certified(t, root, nil).installCertificate(nil); err == nil {
		t.Error("no certificate was taken")
	}
}

// An intermediate that comes along is handed to peers, and the issuer is the root.
func TestCertificateWithIntermediate(t *testing.T) {
	root := pki.Root(t)
	s := certified(t, root, nil)
	between := pki.Sign(t, "between", pki.ECKey(t, elliptic.P256()), &root, nil)
	chain := pemOf(issue(t, between, request(t, s), nil), between.Cert)
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: chain, Bundle: pemOf(root.Cert)}))
	if string(material(t, s).Cert) != chain || s.status.Cert.Issuer != ca.Fingerprint(root.Cert) {
		t.Errorf("the status is %+v", s.status.Cert)
	}
}

// An expired certificate can be renewed, and does not keep trust from changing.
func TestExpiredCertificate(t *testing.T) {
	root, next := pki.Root(t), pki.Root(t)
	s := certified(t, root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	if s.status.Cert.Issuer != ca.Fingerprint(root.Cert) {
		t.Errorf("the issuer of an expired certificate is %q", s.status.Cert.Issuer)
	}
	if err := s.installTrust(&api.TrustBundle{Bundle: pemOf(root.Cert, next.Cert)}); err != nil {
		t.Error(err)
	}
	leaf := issue(t, next, request(t, s), nil)
	if err := s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(leaf), Bundle: pemOf(next.Cert)}); err != nil {
		t.Error(err)
	}
}

func TestTrustFromOldToNew(t *testing.T) {
	old, next := pki.Root(t), pki.Root(t)
	s := certified(t, old, nil)
	trust := func(roots ...pki.Pair) error {
		var text string
		for _, r := range roots {
			text += pemOf(r.Cert)
		}
		return s.installTrust(&api.TrustBundle{Bundle: text})
	}
	expect := func(issuer pki.Pair, authorities ...pki.Pair) {
		t.Helper()
		var want []string
		for _, a := range authorities {
			want = append(want, ca.Fingerprint(a.Cert))
		}
		if c := s.status.Cert; c.Issuer != ca.Fingerprint(issuer.Cert) || !slices.Equal(c.Authorities, want) {
			t.Errorf("the status is %+v", c)
		}
	}
	file := s.settings.material
	if err := trust(next); err == nil || !strings.Contains(api.Hint(err), "renew") || s.settings.material != file {
		t.Errorf("a bundle without the own root: %v", err)
	}
	if err := trust(); err == nil {
		t.Error("an empty bundle was taken")
	}
	if err := s.installTrust(nil); err == nil {
		t.Error("no bundle was taken")
	}
	if err := trust(old); err != nil || s.settings.material != file {
		t.Errorf("the bundle in force: %v, changed %t", err, s.settings.material != file)
	}
	expect(old, old)
	key := string(material(t, s).Key)
	must.Do(t, trust(old, next))
	expect(old, old, next)
	if string(material(t, s).Key) != key {
		t.Error("a new bundle changed the key")
	}
	leaf := pemOf(issue(t, next, request(t, s), nil))
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: leaf, Bundle: pemOf(old.Cert, next.Cert)}))
	expect(next, old, next)
	if err := trust(old); err == nil {
		t.Error("the way back was open")
	}
	must.Do(t, trust(next))
	expect(next, next)
}

func TestPendingKeysAreFewAndShortLived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := pki.Root(t)
		s := certified(t, root, nil)
		take := func(public crypto.PublicKey) error {
			return s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(issue(t, root, public, nil)), Bundle: pemOf(root.Cert)})
		}
		keys := []crypto.PublicKey{request(t, s)}
		time.Sleep(time.Minute)
		for range maxPendingKeys {
			keys = append(keys, request(t, s))
		}
		if len(s.keys.keys) != maxPendingKeys {
			t.Errorf("%d keys wait", len(s.keys.keys))
		}
		if err := take(keys[0]); err == nil {
			t.Error("the oldest of too many keys still waited")
		}
		if err := take(keys[1]); err != nil {
			t.Error(err)
		}
		time.Sleep(pendingKeyLife - time.Second)
		if err := take(keys[2]); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := take(keys[3]); err == nil || len(s.keys.keys) != 0 {
			t.Errorf("%d keys waited too long", len(s.keys.keys))
		}
	})
}

func TestGatewayWithoutCertificateGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newTestSupervisor(t, handoff.Material{})
		began := time.Now()
		ok, err := s.awaitCertificate(t.Context())
		if ok || err == nil || api.Hint(err) == "" || time.Since(began) != CertificateTimeout {
			t.Errorf("after %v: %t, %v", time.Since(began), ok, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if ok, err := s.awaitCertificate(ctx); ok || err != nil {
			t.Errorf("ended: %t, %v", ok, err)
		}
		terminate := make(chan struct{})
		close(terminate)
		s.Terminate = terminate
		if ok, err := s.awaitCertificate(t.Context()); ok || err != nil {
			t.Errorf("terminated: %t, %v", ok, err)
		}
		s.Terminate = nil
		s.end.disable(0)
		if ok, err := s.awaitCertificate(t.Context()); ok || err != nil {
			t.Errorf("disabled: %t, %v", ok, err)
		}
	})
}

// A gateway on its way out takes nothing: its worker would be killed for not
// answering.
func TestDrainingGatewayTakesNothing(t *testing.T) {
	root := pki.Root(t)
	s := certified(t, root, nil)
	public := request(t, s)
	issued := &api.IssuedCertificate{Certificate: pemOf(issue(t, root, public, nil)), Bundle: pemOf(root.Cert)}
	s.settings.draining = true
	if err := s.installCertificate(issued); err == nil {
		t.Error("a request that came just before the end is carried out")
	}
	s.end.disable(0)
	for _, r := range []control.Request{
		{Op: control.OpCSR}, {Op: control.OpCertificate, Issued: issued}, {Op: control.OpTrust, Trust: &api.TrustBundle{Bundle: issued.Bundle}},
		{Op: control.OpMode, Mode: api.Permissive}, {Op: control.OpAllow, Everyone: true}, {Op: control.OpReset},
	} {
		if _, err := s.answer(t.Context(), r); err == nil || err.Error() != errEnding.Error() {
			t.Errorf("%s: %v", r.Op, err)
		}
	}
}

// FuzzMessages: no words of the control socket bring anything into force but a
// whole bundle that the own certificate leads to.
func FuzzMessages(f *testing.F) {
	root := pki.Root(f)
	good := pemOf(root.Cert)
	leaf := newLeaf(f, root, nil)
	own := pemOf(leaf.Cert)
	f.Add(own, good)
	f.Add(own+good, good+good)
	f.Add("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", " \n"+good)
	f.Add(string(leaf.KeyPEM(f)), "x")
	f.Fuzz(func(t *testing.T, certificate, bundle string) {
		certs, err := parseCertificates("certificate", certificate, maxChain)
		if (err == nil) != (len(certs) >= 1 && len(certs) <= maxChain) {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		if err == nil && withoutSpace(pemOf(certs...)) != withoutSpace(certificate) {
			t.Fatalf("%q became %q", certificate, pemOf(certs...))
		}
		s, _ := newTestSupervisor(t, handoff.Material{Cert: []byte(own), Key: leaf.KeyPEM(t), CA: []byte(good)})
		before := asJSON(t, s)
		if s.installCertificate(&api.IssuedCertificate{Certificate: certificate, Bundle: bundle}) == nil || asJSON(t, s) != before {
			t.Fatal("a certificate for no pending key was taken")
		}
		if s.installTrust(&api.TrustBundle{Bundle: bundle}) == nil && !slices.Contains(s.status.Cert.Authorities, ca.Fingerprint(root.Cert)) {
			t.Fatalf("the bundle %q was taken", bundle)
		}
	})
}

// revokeSerials has signer revoke certificates besides those of r.
func revokeSerials(t *testing.T, signer *ca.Authority, r *ca.Revocations, now time.Time, serials ...string) *ca.Revocations {
	t.Helper()
	var entries []ca.Revocation
	for _, serial := range serials {
		entries = append(entries, ca.Revocation{Serial: serial, At: now, Until: now.Add(time.Hour)})
	}
	return must.Get(signer.Revoke(r, entries, now))(t)
}

// revokeMany returns more than half of what all lists together may be, and more than a pod's cgroup keeps.
func revokeMany(t *testing.T, signer *ca.Authority) *ca.Revocations {
	t.Helper()
	now := time.Now()
	entries := make([]ca.Revocation, ca.MaxRevocations)
	for i := range entries {
		entries[i] = ca.Revocation{Identity: "spiffe://td/ns/a/sa/c", Pod: fmt.Sprintf("%064d", i), At: now, Until: now.Add(time.Hour)}
	}
	return must.Get(signer.Revoke(nil, entries, now))(t)
}

// refuses checks which lists a gateway has.
func refuses(t *testing.T, s *supervisor, want *ca.Revocations) {
	t.Helper()
	if got := s.status.Cert.Revocations; !maps.Equal(got, want.Numbers()) || !bytes.Equal(material(t, s).Revoked, want.Encode()) {
		t.Errorf("the status says %v, want %v", got, want.Numbers())
	}
}

// What is revoked comes with trust and with certificates, is never replaced by an older list, and goes with
// the root of who has revoked it.
func TestRevocations(t *testing.T) {
	root, next := pki.Root(t), pki.Root(t)
	s := certified(t, root, nil)
	signer := must.Get(ca.Import(root.CertPEM(), root.KeyPEM(t), "td"))(t)
	now := time.Now()
	revoke := func(r *ca.Revocations, serial string) *ca.Revocations {
		return revokeSerials(t, signer, r, now, serial)
	}
	trust := func(r *ca.Revocations, roots ...*x509.Certificate) error {
		return s.installTrust(&api.TrustBundle{Bundle: pemOf(roots...), Revoked: r.Encode()})
	}
	expect := func(want *ca.Revocations) {
		t.Helper()
		refuses(t, s, want)
	}
	first := revoke(nil, "a1")
	second := revoke(first, "b2")
	must.Do(t, trust(second, root.Cert))
	expect(second)
	must.Do(t, trust(first, root.Cert))
	expect(second)
	must.Do(t, trust(nil, root.Cert))
	expect(second)
	foreign := must.Get(must.Get(ca.Import(next.CertPEM(), next.KeyPEM(t), "td"))(t).Revoke(nil, first.Entries(now), now))(t)
	if err := trust(foreign, root.Cert); !errors.Is(err, ca.ErrRevocations) {
		t.Errorf("a list of a root that is not trusted: %v", err)
	}
	expect(second)

	// Somebody has shown the authority an older list as the last.
	forked := revokeSerials(t, signer, first, now.Add(time.Minute), "c3")
	if err := trust(forked, root.Cert); !errors.Is(err, errUnused) || !strings.Contains(err.Error(), "certificate b2") {
		t.Errorf("a newer list that lacks what is revoked: %v", err)
	}
	expect(second)
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(issue(t, root, request(t, s), nil)), Bundle: pemOf(root.Cert), Revoked: forked.Encode()}))
	expect(second)

	// A certificate brings the lists as well.
	own := issue(t, root, request(t, s), nil)
	third := revoke(second, own.SerialNumber.Text(16))
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(own), Bundle: pemOf(root.Cert, next.Cert), Revoked: third.Encode()}))
	expect(third)
	if !s.status.Cert.Revoked {
		t.Error("it does not say that its own certificate is revoked")
	}
	renewed := issue(t, next, request(t, s), nil)
	must.Do(t, s.installCertificate(&api.IssuedCertificate{Certificate: pemOf(renewed), Bundle: pemOf(root.Cert, next.Cert)}))
	expect(third)
	if s.status.Cert.Revoked {
		t.Error("a new certificate is revoked")
	}
	must.Do(t, trust(nil, next.Cert))
	expect(nil)
}

// TestInheritedRevocations: a gateway that takes over begins with the lists of the one before, as far as its own roots
// vouch for them, and with what it was sent itself if that is newer.
func TestInheritedRevocations(t *testing.T) {
	root, other := pki.Root(t), pki.Root(t)
	signer := must.Get(ca.Import(root.CertPEM(), root.KeyPEM(t), "td"))(t)
	second := must.Get(ca.Import(other.CertPEM(), other.KeyPEM(t), "td"))(t)
	now := time.Now()
	first := revokeSerials(t, signer, nil, now, "a1")
	newer := revokeSerials(t, signer, first, now, "b2")
	forked := revokeSerials(t, signer, first, now.Add(time.Minute), "c3")
	of := revokeSerials(t, second, nil, now, "d4")
	altered := bytes.Replace(newer.Encode(), []byte("b2"), []byte("b3"), 1)
	wide, wideOf := revokeMany(t, signer), revokeMany(t, second)
	both := []*x509.Certificate{root.Cert, other.Cert}
	for name, c := range map[string]struct {
		roots      []*x509.Certificate
		kept       []byte
		sent, want *ca.Revocations
		says       string
	}{
		"nothing":                    {sent: first, want: first},
		"nobody told it":             {kept: newer.Encode(), want: newer},
		"the same":                   {kept: newer.Encode(), sent: newer, want: newer},
		"it has a newer one":         {kept: first.Encode(), sent: newer, want: newer},
		"its own is older":           {kept: newer.Encode(), sent: first, want: newer},
		"its own has lost something": {kept: newer.Encode(), sent: forked, want: newer, says: "certificate b2"},
		"of a root that it has not":  {kept: first.Newest(of).Encode(), want: first, says: "no root vouches"},
		"of both roots":              {roots: both, kept: first.Encode(), sent: of, want: first.Newest(of)},
		"altered":                    {kept: altered, sent: first, want: first, says: "no root vouches"},
		"no lists at all":            {kept: []byte("{}"), sent: first, want: first, says: "no root vouches"},
		"too many with those it has": {roots: both, kept: wide.Encode(), sent: wideOf, want: wide, says: "larger than"},
		"too many of another root":   {kept: wideOf.Encode(), sent: wide, want: wide},
	} {
		t.Run(name, func(t *testing.T) {
			own, trusted := newLeaf(t, root, nil), c.roots
			if trusted == nil {
				trusted = []*x509.Certificate{root.Cert}
			}
			s, log := newTestSupervisor(t, handoff.Material{
				Cert: own.CertPEM(), Key: own.KeyPEM(t), CA: []byte(pemOf(trusted...)), Revoked: c.sent.Encode(),
			})
			s.status.Cert.Revocations = c.sent.Numbers()
			must.Do(t, s.inheritRevocations(c.kept))
			refuses(t, s, c.want)
			if !strings.Contains(log.String(), c.says) {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

// TestTooManyToKeep: a sidecar goes on with more than its pod's cgroup keeps, and says so.
func TestTooManyToKeep(t *testing.T) {
	root := pki.Root(t)
	signer := must.Get(ca.Import(root.CertPEM(), root.KeyPEM(t), "td"))(t)
	wide := revokeMany(t, signer)
	own := newLeaf(t, root, nil)
	s, log := newTestSupervisor(t, handoff.Material{Cert: own.CertPEM(), Key: own.KeyPEM(t), CA: root.CertPEM()})
	config := *s.settings.config
	config.Sidecar = true
	s.settings.config = &config
	must.Do(t, s.installTrust(&api.TrustBundle{Bundle: pemOf(root.Cert), Revoked: wide.Encode()}))
	refuses(t, s, wide)
	if says := fmt.Sprintf("keeps %d bytes", maxKept); !strings.Contains(log.String(), says) || !strings.Contains(log.String(), "told anew") {
		t.Errorf("the log says %s", log)
	}
}
