package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

func TestNew(t *testing.T) {
	a, b := newTestAuthority(t, "prod.example.org"), newTestAuthority(t, "prod.example.org")
	cert := a.Certificate()
	want := contents{URIs: []string{"spiffe://prod.example.org"}, Subject: cert.Subject.String(), CA: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, PermittedURIDomains: []string{"prod.example.org"}}
	expect.Equal(t, "the certificate", want, contentsOf(cert))
	if !cert.MaxPathLenZero || !cert.PermittedDNSDomainsCritical || len(cert.SubjectKeyId) == 0 {
		t.Errorf("no path length %v, critical %v, subject key id %x", !cert.MaxPathLenZero, cert.PermittedDNSDomainsCritical, cert.SubjectKeyId)
	}
	if bits := cert.SerialNumber.BitLen(); bits > 128 || bits < 64 {
		t.Errorf("serial number of %d bits", bits)
	}
	if k, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		t.Errorf("key of type %T", cert.PublicKey)
	}
	if years := time.Until(cert.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("valid for %.1f years", years)
	}
	if a.TrustDomain() != "prod.example.org" || len(a.Fingerprint()) != 64 {
		t.Errorf("trust domain %q, fingerprint %q", a.TrustDomain(), a.Fingerprint())
	}
	if b.Fingerprint() == a.Fingerprint() || b.Certificate().Subject.String() == cert.Subject.String() {
		t.Error("two authorities look alike")
	}
}

func TestTrusting(t *testing.T) {
	a, b := newTestAuthority(t, "cluster.local"), newTestAuthority(t, "cluster.local")
	both := a.Trusting(b.Root(), a.Root(), b.Root())
	expect.Equal(t, "roots", []string{a.Fingerprint(), b.Fingerprint()}, both.Roots())
	if string(both.Bundle()) != string(a.Bundle())+string(b.Bundle()) || len(a.Roots()) != 1 || !both.Equal(a) {
		t.Errorf("a trusts %v, the copy %v", a.Roots(), both.Roots())
	}
}

func TestNewRefuses(t *testing.T) {
	for _, td := range []string{"Prod", "a/b", "a..b", ".a", "a.", "10.0.0.1", "a b", strings.Repeat("a", 64), strings.Repeat("a.", 130) + "a"} {
		if _, err := New(Options{TrustDomain: td}); err == nil {
			t.Errorf("trust domain %q was accepted", td)
		} else if api.Hint(err) == "" {
			t.Errorf("trust domain %q: no hint with %q", td, err)
		}
	}
	for _, ttl := range []time.Duration{-time.Hour, 290 * 365 * 24 * time.Hour} {
		if _, err := New(Options{TTL: ttl, Now: time.Date(9800, 1, 1, 0, 0, 0, 0, time.UTC)}); err == nil {
			t.Errorf("lifetime %v was accepted", ttl)
		}
	}
}

func TestIssue(t *testing.T) {
	// Underscores and dashes are unusual in host names, and constraints have to
	// match them all the same.
	for _, td := range []string{"cluster.local", "a", "my_team-1.example.org", strings.Repeat("a", 63)} {
		a := newTestAuthority(t, td)
		before := time.Now()
		leaf, err := a.Issue(LeafRequest{Identity: testID(td), IPs: []netip.Addr{netip.MustParseAddr("::ffff:10.0.2.2"), testIPs[1]}, Pod: testPod})
		if err != nil {
			t.Fatalf("trust domain %s: %v", td, err)
		}
		key := must.Get(parseKey(leaf.KeyPEM))(t)
		cert := checkLeaf(t, a, leaf, key.Public())
		if !NamesAddress(cert, testIPs[1]) || NamesAddress(cert, netip.MustParseAddr("10.0.2.3")) || cert.VerifyHostname("10.0.2.2") != nil {
			t.Errorf("addresses %v", cert.IPAddresses)
		}
		if bits := cert.SerialNumber.BitLen(); bits > 128 || bits < 64 {
			t.Errorf("serial number of %d bits", bits)
		}
		if d := before.Sub(cert.NotBefore); d < Backdate-2*time.Second || d > Backdate+2*time.Second {
			t.Errorf("valid since %v before now", d)
		}
		if d := cert.NotAfter.Sub(before); d < DefaultLeafTTL-2*time.Second || d > DefaultLeafTTL+time.Minute {
			t.Errorf("valid for %v", d)
		}
		if verify(t, newTestAuthority(t, td).Bundle(), leaf.CertPEM) == nil {
			t.Error("verified by the bundle of another authority")
		}
		for _, purpose := range []string{"sslserver", "sslclient"} {
			if out, err := verifyOpenSSL(t, a.Bundle(), leaf.CertPEM, purpose); err != nil {
				t.Errorf("trust domain %s: openssl: %v: %s", td, err, out)
			}
		}
	}
}

// An imported authority may be allowed to sign anything; it still serves one
// trust domain.
func TestIssueWithoutConstraint(t *testing.T) {
	root := pki.Root(t)
	a := must.Get(Import(root.CertPEM(), root.KeyPEM(t), "prod.example.org"))(t)
	if leaf, err := a.Issue(LeafRequest{Identity: testID("cluster.local")}); err == nil {
		t.Errorf("issued %v for another trust domain", leaf)
	} else {
		expect.Message(t, "another trust domain", err)
	}
}

// A stolen key of one trust domain must not open another one, whatever its
// thief signs with it.
func TestNameConstraint(t *testing.T) {
	a := newTestAuthority(t, "cluster.local")
	thief := &Authority{chain: a.chain, key: a.key, trustDomain: "other.local"}
	issued := pki.Sign(t, "", pki.ECKey(t, elliptic.P256()), &pki.Pair{Cert: a.chain[0], Key: a.key}, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = PeerUsages()
		c.URIs = append(c.URIs, testID("other.local").URL())
	})
	if err := verify(t, a.Bundle(), issued.CertPEM()); err == nil {
		t.Error("crypto/x509 accepts another trust domain")
	}
	if out, err := verifyOpenSSL(t, a.Bundle(), issued.CertPEM(), "sslserver"); err == nil || !strings.Contains(out, "permitted subtree violation") {
		t.Errorf("openssl: %v: %s", err, out)
	}
	if _, err := thief.Issue(LeafRequest{Identity: testID("other.local")}); !errors.Is(err, ErrNotAuthority) {
		t.Errorf("a leaf that no peer would accept was issued: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	a := newTestAuthority(t, "cluster.local")
	for name, req := range map[string]LeafRequest{
		"another trust domain": {Identity: testID("other.local")},
		"no service account":   {Identity: identity.ID{TrustDomain: "cluster.local", Namespace: "shop"}},
		"a path in a name":     {Identity: identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "a/b"}},
		"no address":           {Identity: testID("cluster.local"), IPs: []netip.Addr{{}}},
		"unspecified address":  {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.IPv4Unspecified()}},
		"multicast address":    {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("224.0.0.1")}},
		"unspecified, mapped":  {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("::ffff:0.0.0.0")}},
		"broadcast address":    {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("255.255.255.255")}},
		"loopback":             {Identity: testID("cluster.local"), IPs: []netip.Addr{testIPs[0], netip.MustParseAddr("127.0.0.1")}},
		"loopback of IPv6":     {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.IPv6Loopback()}},
		"loopback, mapped":     {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("::ffff:127.1.2.3")}},
		"link-local":           {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("169.254.169.254")}},
		"link-local of IPv6":   {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("fe80::1")}},
		"address with a zone":  {Identity: testID("cluster.local"), IPs: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		"negative lifetime":    {Identity: testID("cluster.local"), TTL: -time.Second},
		"after the end":        {Identity: testID("cluster.local"), Now: time.Now().Add(11 * 365 * 24 * time.Hour)},
		"before the beginning": {Identity: testID("cluster.local"), Now: time.Now().Add(-time.Hour)},
	} {
		if leaf, err := a.Issue(req); err == nil {
			t.Errorf("%s: issued %v", name, leaf)
		}
	}
}

func TestIssueEndsWithAuthority(t *testing.T) {
	a := must.Get(New(Options{TTL: time.Hour}))(t)
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), TTL: 24 * time.Hour}))(t)
	if !leaf.NotAfter.Equal(a.Certificate().NotAfter) {
		t.Errorf("leaf ends %v, authority %v", leaf.NotAfter, a.Certificate().NotAfter)
	}
}

// Whatever somebody does to log or print these values, no key comes out.
func TestPrintingShowsNoKey(t *testing.T) {
	a := newTestAuthority(t, "cluster.local")
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID("cluster.local")}))(t)
	for _, value := range []any{a, leaf, *leaf, []any{a, leaf}} {
		asJSON := must.Get(json.Marshal(value))(t)
		outputs := []string{string(asJSON)}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			outputs = append(outputs, fmt.Sprintf(verb, value))
		}
		secrets := []string{"PRIVATE", "KeyPEM", secretNumber(t, a.key), fmt.Sprint(leaf.KeyPEM), strings.Split(string(leaf.KeyPEM), "\n")[1]}
		for _, out := range outputs {
			for _, secret := range secrets {
				if strings.Contains(out, secret) {
					t.Errorf("%T prints %.200s", value, out)
				}
			}
		}
	}
	if strings.Contains(string(a.Bundle()), "PRIVATE") {
		t.Error("the bundle holds the key")
	}
}

// secretNumber is the key as printing it as a struct would show it.
func secretNumber(t *testing.T, key crypto.Signer) string {
	t.Helper()
	b := must.Get(key.(*ecdsa.PrivateKey).Bytes())(t)
	return new(big.Int).SetBytes(b).String()
}

func TestEndorsement(t *testing.T) {
	for name, old := range authoritiesOfAllKeys(t) {
		next, third := newTestAuthority(t, DefaultTrustDomain), newTestAuthority(t, DefaultTrustDomain)
		now := time.Now()
		e := must.Get(Endorse(old, next, now.Add(time.Hour)))(t)
		partners := func(e *Endorsement, now time.Time) (found [3]string) {
			for i, a := range []*Authority{old, next, third} {
				partner, err := e.Partner(a, now)
				if err == nil {
					found[i] = partner
				} else if !errors.Is(err, ErrEnded) {
					t.Errorf("%s: %v", name, err)
				}
			}
			return found
		}
		both := [3]string{Fingerprint(next.Root()), Fingerprint(old.Root())}
		expect.Equal(t, name, both, partners(e, now))
		expect.Equal(t, name+", in its last second", both, partners(e, e.NotAfter))
		expect.Equal(t, name+", after its end", [3]string{}, partners(e, e.NotAfter.Add(time.Second)))
		var read Endorsement
		must.Do(t, json.Unmarshal(must.Get(json.Marshal(e))(t), &read))
		expect.Equal(t, name+", read", both, partners(&read, now))

		elsewhere := *old
		elsewhere.trustDomain = "other.local"
		if partner, err := e.Partner(&elsewhere, now); partner != "" || err != nil {
			t.Errorf("%s: it holds in another trust domain: %q, %v", name, partner, err)
		}
		for what, change := range map[string]func(*Endorsement){
			"another new root": func(e *Endorsement) { e.New = Fingerprint(third.Root()) },
			"a later end":      func(e *Endorsement) { e.NotAfter = e.NotAfter.Add(time.Hour) },
			"no end":           func(e *Endorsement) { e.NotAfter = time.Time{} },
		} {
			changed := *e
			change(&changed)
			expect.Equal(t, name+", "+what, [3]string{}, partners(&changed, now))
		}
	}
}

// TestEndorsementWithoutEnd: what an earlier release signed is recognised, and holds at no time.
func TestEndorsementWithoutEnd(t *testing.T) {
	old, next := newTestAuthority(t, DefaultTrustDomain), newTestAuthority(t, DefaultTrustDomain)
	e := &Endorsement{Old: Fingerprint(old.Root()), New: Fingerprint(next.Root())}
	e.OldSignature = must.Get(old.sign(e.statement(DefaultTrustDomain)))(t)
	partner, err := e.Partner(old, time.Now())
	if partner != e.New || !errors.Is(err, ErrEnded) {
		t.Errorf("%q, %v", partner, err)
	}
}

// authoritiesOfAllKeys returns one for each kind of key that can be imported.
func authoritiesOfAllKeys(t *testing.T) map[string]*Authority {
	t.Helper()
	all := map[string]*Authority{"made": newTestAuthority(t, DefaultTrustDomain)}
	for name, key := range map[string]crypto.Signer{"P-521": pki.ECKey(t, elliptic.P521()), "RSA": pki.RSAKey(t, 2048), "Ed25519": pki.Ed25519Key(t)} {
		root := pki.Sign(t, name, key, nil, nil)
		a := must.Get(Import(root.CertPEM(), root.KeyPEM(t), DefaultTrustDomain))(t)
		all[name] = a
	}
	return all
}
