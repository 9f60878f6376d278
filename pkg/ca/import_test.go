package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

func rsaKey(t *testing.T, bits int) crypto.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ed25519Key(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestImportKeyTypes(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "P-521": ecKey(t, elliptic.P521()),
		"RSA 2048": rsaKey(t, 2048), "Ed25519": ed25519Key(t),
	} {
		root := sign(t, name, key, nil, nil)
		encodings := [][]byte{root.keyPEM(t)}
		switch k := key.(type) {
		case *rsa.PrivateKey:
			encodings = append(encodings, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
		case *ecdsa.PrivateKey:
			der, err := x509.MarshalECPrivateKey(k)
			if err != nil {
				t.Fatal(err)
			}
			text := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})
			encodings = append(encodings, append(text, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...))
		}
		for i, text := range encodings {
			a, err := Import(root.certPEM(), text, "", time.Now())
			if err != nil {
				t.Errorf("%s, encoding %d: %v", name, i, err)
				continue
			}
			if a.TrustDomain() != DefaultTrustDomain {
				t.Errorf("trust domain %q", a.TrustDomain())
			}
			leaf, err := a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := verifyGo(t, a.Bundle(), leaf.CertPEM, x509.ExtKeyUsageClientAuth); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !leaf.NotAfter.Equal(root.cert.NotAfter) {
				t.Errorf("%s: the leaf outlives its authority", name)
			}
		}
	}
}

func TestImportChain(t *testing.T) {
	root := sign(t, "root", rsaKey(t, 2048), nil, nil)
	middle := sign(t, "middle", ecKey(t, elliptic.P384()), &root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(12 * time.Hour) })
	issuer := sign(t, "issuer", ecKey(t, elliptic.P256()), &middle, func(c *x509.Certificate) {
		c.MaxPathLenZero = true
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "prod.example.org"}}
	})
	// The order after the first does not matter.
	for _, order := range [][]pair{{issuer, middle, root}, {issuer, root, middle}} {
		var text []byte
		for _, p := range order {
			text = append(text, p.certPEM()...)
		}
		a, err := Import(text, issuer.keyPEM(t), "", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if a.TrustDomain() != "prod.example.org" || !a.Certificate().Equal(issuer.cert) {
			t.Errorf("imported %v", a)
		}
		if string(a.Bundle()) != string(root.certPEM()) {
			t.Error("the bundle is not the root alone")
		}
		leaf, err := a.Issue(LeafRequest{Identity: testID("prod.example.org"), IPs: testIPs})
		if err != nil {
			t.Fatal(err)
		}
		if !leaf.NotAfter.Equal(middle.cert.NotAfter) {
			t.Errorf("leaf ends %v, its chain %v", leaf.NotAfter, middle.cert.NotAfter)
		}
		certs, err := parseCertificates(leaf.CertPEM)
		if err != nil || len(certs) != 3 || !certs[1].Equal(issuer.cert) || !certs[2].Equal(middle.cert) {
			t.Errorf("the leaf's chain has %d certificates: %v", len(certs), err)
		}
		if err := verifyGo(t, a.Bundle(), leaf.CertPEM, x509.ExtKeyUsageServerAuth); err != nil {
			t.Error(err)
		}
		if out, err := verifyOpenSSL(t, a.Bundle(), leaf.CertPEM, "sslserver"); err != nil {
			t.Errorf("openssl: %v: %s", err, out)
		}
		// The chain survives the file.
		dir := t.TempDir()
		if err := CreateDir(dir, a); err != nil {
			t.Fatal(err)
		}
		if b, err := LoadDir(dir); err != nil || !b.same(a) || len(b.chain) != 3 {
			t.Errorf("loaded %v, %v", b, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	good := sign(t, "good", key, nil, nil)
	other := sign(t, "other", ecKey(t, elliptic.P256()), nil, nil)
	tight := sign(t, "tight", ecKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := sign(t, "below", key, &tight, nil)
	edited := func(edit func(*x509.Certificate)) pair { return sign(t, "edited", key, nil, edit) }
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	oldEncrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES"}, Bytes: []byte("x")})
	spiffe := func(host, path string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: host, Path: path}} }
	}
	weakCurve := sign(t, "weak", ecKey(t, elliptic.P224()), nil, nil)
	weakRSA := sign(t, "weak", rsaKey(t, 1024), nil, nil)
	for name, c := range map[string]struct {
		cert, key []byte
		td        string
		want      error
		hint      string
	}{
		"another key":            {cert: good.certPEM(), key: other.keyPEM(t), want: ErrMismatch},
		"a server's certificate": {cert: edited(func(c *x509.Certificate) { c.IsCA = false }).certPEM(), key: good.keyPEM(t), want: ErrNotAuthority, hint: "server"},
		"no signing of certificates": {cert: edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }).certPEM(), key: good.keyPEM(t),
			want: ErrNotAuthority},
		"expired": {cert: edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }).certPEM(), key: good.keyPEM(t), want: ErrExpired, hint: "--force"},
		"not yet": {cert: edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }).certPEM(), key: good.keyPEM(t), want: ErrExpired, hint: "clock"},
		"servers only": {cert: edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }).certPEM(),
			key: good.keyPEM(t), want: ErrNotAuthority},
		"constrained to other URIs": {cert: edited(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.local"} }).certPEM(),
			key: good.keyPEM(t), want: ErrNotAuthority},
		"path too long":        {cert: slices.Concat(below.certPEM(), tight.certPEM()), key: good.keyPEM(t), want: ErrNotAuthority},
		"chain without root":   {cert: below.certPEM(), key: good.keyPEM(t), want: ErrNotAuthority, hint: "self-signed root"},
		"unrelated":            {cert: slices.Concat(good.certPEM(), other.certPEM()), key: good.keyPEM(t), want: ErrNotAuthority},
		"weak curve":           {cert: weakCurve.certPEM(), key: weakCurve.keyPEM(t), want: ErrNotAuthority, hint: "P-256"},
		"weak RSA":             {cert: weakRSA.certPEM(), key: weakRSA.keyPEM(t), want: ErrNotAuthority, hint: "2048"},
		"encrypted":            {cert: good.certPEM(), key: encrypted, hint: "openssl pkey"},
		"encrypted, old form":  {cert: good.certPEM(), key: oldEncrypted, hint: "openssl pkey"},
		"two keys":             {cert: good.certPEM(), key: slices.Concat(good.keyPEM(t), other.keyPEM(t)), want: ErrDamaged},
		"swapped":              {cert: good.keyPEM(t), key: good.certPEM(), want: ErrDamaged},
		"no certificate":       {cert: []byte("hello"), key: good.keyPEM(t), want: ErrDamaged},
		"no key":               {cert: good.certPEM(), key: []byte("hello"), want: ErrDamaged},
		"broken key":           {cert: good.certPEM(), key: pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: []byte("x")}), want: ErrDamaged},
		"broken certificate":   {cert: pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: []byte("x")}), key: good.keyPEM(t), want: ErrDamaged},
		"other trust domain":   {cert: edited(spiffe("a.example", "")).certPEM(), key: good.keyPEM(t), td: "b.example", hint: "--trust-domain"},
		"identity of a pod":    {cert: edited(spiffe("a.example", "/ns/x/sa/y")).certPEM(), key: good.keyPEM(t), want: ErrNotAuthority},
		"trust domain unusual": {cert: good.certPEM(), key: good.keyPEM(t), td: "a..b", hint: "cluster.local"},
	} {
		a, err := Import(c.cert, c.key, c.td, time.Now())
		if err == nil {
			t.Errorf("%s: imported %v", name, a)
			continue
		}
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if !strings.Contains(api.Hint(err), c.hint) {
			t.Errorf("%s: hint %q does not speak of %q", name, api.Hint(err), c.hint)
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: error is not one line without PEM: %q", name, err)
		}
	}
}

// An authority that may sign for some addresses only is of use; a pod outside
// of them is not enabled with a certificate that its peers refuse.
func TestImportAddressConstraint(t *testing.T) {
	_, permitted, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	root := sign(t, "root", ecKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{permitted} })
	a, err := Import(root.certPEM(), root.keyPEM(t), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs[:1]}); err != nil {
		t.Error(err)
	}
	if _, err := a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs[1:]}); !errors.Is(err, ErrNotAuthority) {
		t.Errorf("issued for an address outside of the constraint: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	a, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	text, err := a.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add(a.Bundle())
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := decode(text, time.Now())
		if (b == nil) != (err != nil) {
			t.Fatalf("%v, %v", b, err)
		}
		if err != nil {
			return
		}
		if _, err := b.Issue(LeafRequest{Identity: testID(b.TrustDomain())}); err != nil {
			t.Fatalf("accepted an authority that does not work: %v", err)
		}
	})
}
