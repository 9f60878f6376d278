package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

func TestImportKeyTypes(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"P-256": pki.ECKey(t, elliptic.P256()), "P-384": pki.ECKey(t, elliptic.P384()), "P-521": pki.ECKey(t, elliptic.P521()),
		"RSA 2048": pki.RSAKey(t, 2048), "Ed25519": pki.Ed25519Key(t),
	} {
		root := pki.Sign(t, name, key, nil, nil)
		encodings := [][]byte{root.KeyPEM(t)}
		switch k := key.(type) {
		case *rsa.PrivateKey:
			encodings = append(encodings, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
		case *ecdsa.PrivateKey:
			der := must.Get(x509.MarshalECPrivateKey(k))(t)
			text := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})
			encodings = append(encodings, append(text, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...))
		}
		for i, text := range encodings {
			t.Logf("%s, encoding %d", name, i)
			a := must.Get(Import(root.CertPEM(), text, ""))(t)
			if a.TrustDomain() != DefaultTrustDomain {
				t.Errorf("trust domain %q", a.TrustDomain())
			}
			leaf := must.Get(a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs}))(t)
			if err := verify(t, a.Bundle(), leaf.CertPEM); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !leaf.NotAfter.Equal(root.Cert.NotAfter) {
				t.Errorf("%s: the leaf outlives its authority", name)
			}
		}
	}
}

func TestImportChain(t *testing.T) {
	root := pki.Sign(t, "root", pki.RSAKey(t, 2048), nil, nil)
	middle := pki.Sign(t, "middle", pki.ECKey(t, elliptic.P384()), &root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(12 * time.Hour) })
	issuer := pki.Sign(t, "issuer", pki.ECKey(t, elliptic.P256()), &middle, func(c *x509.Certificate) {
		c.MaxPathLenZero = true
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "prod.example.org"}}
	})
	// The order after the first does not matter.
	for _, order := range [][]pki.Pair{{issuer, middle, root}, {issuer, root, middle}} {
		var text []byte
		for _, p := range order {
			text = append(text, p.CertPEM()...)
		}
		a := must.Get(Import(text, issuer.KeyPEM(t), ""))(t)
		if a.TrustDomain() != "prod.example.org" || !a.Certificate().Equal(issuer.Cert) {
			t.Errorf("imported %v", a)
		}
		if string(a.Bundle()) != string(root.CertPEM()) {
			t.Error("the bundle is not the root alone")
		}
		leaf := must.Get(a.Issue(LeafRequest{Identity: testID("prod.example.org"), IPs: testIPs}))(t)
		if !leaf.NotAfter.Equal(middle.Cert.NotAfter) {
			t.Errorf("leaf ends %v, its chain %v", leaf.NotAfter, middle.Cert.NotAfter)
		}
		certs, err := ParseCertificates(leaf.CertPEM)
		if err != nil || len(certs) != 3 || !certs[1].Equal(issuer.Cert) || !certs[2].Equal(middle.Cert) {
			t.Errorf("the leaf's chain has %d certificates: %v", len(certs), err)
		}
		must.Do(t, verify(t, a.Bundle(), leaf.CertPEM))
		if out, err := verifyOpenSSL(t, a.Bundle(), leaf.CertPEM, "sslserver"); err != nil {
			t.Errorf("openssl: %v: %s", err, out)
		}
		encoded := must.Get(a.Encode())(t)
		if b, err := Decode(encoded); err != nil || !b.Equal(a) || len(b.chain) != 3 {
			t.Errorf("decoded %v, %v", b, err)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	key := pki.ECKey(t, elliptic.P256())
	good := pki.Sign(t, "good", key, nil, nil)
	other := pki.Sign(t, "other", pki.ECKey(t, elliptic.P256()), nil, nil)
	tight := pki.Sign(t, "tight", pki.ECKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := pki.Sign(t, "below", key, &tight, nil)
	edited := func(edit func(*x509.Certificate)) pki.Pair { return pki.Sign(t, "edited", key, nil, edit) }
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})
	oldEncrypted := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES"}, Bytes: []byte("x")})
	spiffe := func(host, path string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: host, Path: path}} }
	}
	weakCurve := pki.Sign(t, "weak", pki.ECKey(t, elliptic.P224()), nil, nil)
	weakRSA := pki.Sign(t, "weak", pki.RSAKey(t, 1024), nil, nil)
	for name, c := range map[string]struct {
		cert, key []byte
		td        string
		want      error
		hint      string
	}{
		"another key":            {cert: good.CertPEM(), key: other.KeyPEM(t), want: ErrMismatch},
		"a server's certificate": {cert: edited(func(c *x509.Certificate) { c.IsCA = false }).CertPEM(), key: good.KeyPEM(t), want: ErrNotAuthority, hint: "server"},
		"no signing of certificates": {cert: edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }).CertPEM(), key: good.KeyPEM(t),
			want: ErrNotAuthority},
		"expired": {cert: edited(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }).CertPEM(), key: good.KeyPEM(t), want: ErrExpired, hint: "--force"},
		"not yet": {cert: edited(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }).CertPEM(), key: good.KeyPEM(t), want: ErrExpired, hint: "clock"},
		"servers only": {cert: edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }).CertPEM(),
			key: good.KeyPEM(t), want: ErrNotAuthority},
		"constrained to other URIs": {cert: edited(func(c *x509.Certificate) { c.PermittedURIDomains = []string{"other.local"} }).CertPEM(),
			key: good.KeyPEM(t), want: ErrNotAuthority},
		"path too long":        {cert: slices.Concat(below.CertPEM(), tight.CertPEM()), key: good.KeyPEM(t), want: ErrNotAuthority},
		"chain without root":   {cert: below.CertPEM(), key: good.KeyPEM(t), want: ErrNotAuthority, hint: "self-signed root"},
		"unrelated":            {cert: slices.Concat(good.CertPEM(), other.CertPEM()), key: good.KeyPEM(t), want: ErrNotAuthority},
		"weak curve":           {cert: weakCurve.CertPEM(), key: weakCurve.KeyPEM(t), want: ErrNotAuthority, hint: "P-256"},
		"weak RSA":             {cert: weakRSA.CertPEM(), key: weakRSA.KeyPEM(t), want: ErrNotAuthority, hint: "2048"},
		"encrypted":            {cert: good.CertPEM(), key: encrypted, hint: "openssl pkey"},
		"encrypted, old form":  {cert: good.CertPEM(), key: oldEncrypted, hint: "openssl pkey"},
		"two keys":             {cert: good.CertPEM(), key: slices.Concat(good.KeyPEM(t), other.KeyPEM(t)), want: ErrDamaged},
		"swapped":              {cert: good.KeyPEM(t), key: good.CertPEM(), want: ErrDamaged},
		"no certificate":       {cert: []byte("hello"), key: good.KeyPEM(t), want: ErrDamaged},
		"no key":               {cert: good.CertPEM(), key: []byte("hello"), want: ErrDamaged},
		"broken key":           {cert: good.CertPEM(), key: pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: []byte("x")}), want: ErrDamaged},
		"broken certificate":   {cert: pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: []byte("x")}), key: good.KeyPEM(t), want: ErrDamaged},
		"other trust domain":   {cert: edited(spiffe("a.example", "")).CertPEM(), key: good.KeyPEM(t), td: "b.example", hint: "--trust-domain"},
		"identity of a pod":    {cert: edited(spiffe("a.example", "/ns/x/sa/y")).CertPEM(), key: good.KeyPEM(t), want: ErrNotAuthority},
		"trust domain unusual": {cert: good.CertPEM(), key: good.KeyPEM(t), td: "a..b", hint: "cluster.local"},
	} {
		a, err := Import(c.cert, c.key, c.td)
		if err == nil {
			err = a.ValidAt(time.Now())
		}
		expect.Refusal(t, name, err, c.want, "", c.hint)
	}
}

// An authority that may sign for some addresses only is of use; a pod outside
// of them is not enabled with a certificate that its peers refuse.
func TestImportAddressConstraint(t *testing.T) {
	_, permitted, err := net.ParseCIDR("10.0.0.0/8")
	must.Do(t, err)
	root := pki.Sign(t, "root", pki.ECKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{permitted} })
	a := must.Get(Import(root.CertPEM(), root.KeyPEM(t), ""))(t)
	if _, err := a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs[:1]}); err != nil {
		t.Error(err)
	}
	if _, err := a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs[1:]}); !errors.Is(err, ErrNotAuthority) {
		t.Errorf("issued for an address outside of the constraint: %v", err)
	}
}
