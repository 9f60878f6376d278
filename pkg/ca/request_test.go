package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

// boastful asks for far more than a pod may have.
func boastful() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "system:admin", Organization: []string{"system:masters"}},
		DNSNames:    []string{"kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(10, 9, 9, 9)},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "cluster.local", Path: "/ns/kube-system/sa/root"}},
		// Basic constraints that say CA.
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}},
	}
}

func TestSign(t *testing.T) {
	root := pki.Sign(t, "root", pki.ECKey(t, elliptic.P384()), nil, nil)
	between := pki.Sign(t, "between", pki.ECKey(t, elliptic.P256()), &root, nil)
	chained := must.Get(Import(append(between.CertPEM(), root.CertPEM()...), between.KeyPEM(t), "cluster.local"))(t)
	for name, a := range map[string]*Authority{"root": newTestAuthority(t, "cluster.local"), "chain": chained} {
		key := pki.ECKey(t, elliptic.P256())
		leaf := must.Get(a.Sign(pki.Request(t, boastful(), key), LeafRequest{Identity: testID("cluster.local"), IPs: testIPs, TTL: time.Hour, Pod: testPod}))(t)
		if len(leaf.KeyPEM) != 0 {
			t.Errorf("%s: a key came with it", name)
		}
		if cert := checkLeaf(t, a, leaf, key.Public()); time.Until(cert.NotAfter) > time.Hour {
			t.Errorf("%s: %v", name, leaf)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	a := newTestAuthority(t, "cluster.local")
	good := pki.Request(t, &x509.CertificateRequest{}, pki.ECKey(t, elliptic.P256()))
	block, _ := pem.Decode(good)
	// The last byte belongs to the signature.
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID("cluster.local")}))(t)
	for name, csr := range map[string][]byte{
		"nothing":          nil,
		"text":             []byte("please"),
		"forged":           pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: forged}),
		"cut":              pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: block.Bytes[:len(block.Bytes)/2]}),
		"a certificate":    leaf.CertPEM,
		"a key":            leaf.KeyPEM,
		"two requests":     append(bytes.Clone(good), good...),
		"a word behind it": append(bytes.Clone(good), "x"...),
		"too large":        append(bytes.Clone(good), bytes.Repeat([]byte("\n"), maxRequest)...),
		"P-384":            pki.Request(t, &x509.CertificateRequest{}, pki.ECKey(t, elliptic.P384())),
		"RSA":              pki.Request(t, &x509.CertificateRequest{}, pki.RSAKey(t, 2048)),
		"Ed25519":          pki.Request(t, &x509.CertificateRequest{}, pki.Ed25519Key(t)),
		// The library no longer makes one that is signed with SHA-1: this names
		// that algorithm, and must be refused for it before its signature.
		"SHA-1": pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: withSHA1(t, block.Bytes)}),
	} {
		leaf, err := a.Sign(csr, LeafRequest{Identity: testID("cluster.local")})
		if !errors.Is(err, ErrBadRequest) || leaf != nil {
			t.Errorf("%s: %v, %v", name, leaf, err)
			continue
		}
		expect.Message(t, name, err)
		if name == "SHA-1" && !strings.Contains(err.Error(), "SHA1") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, req := range map[string]LeafRequest{
		"another trust domain": {Identity: testID("other.local")},
		"no identity":          {},
		"negative lifetime":    {Identity: testID("cluster.local"), TTL: -time.Hour},
	} {
		if leaf, err := a.Sign(good, req); err == nil || errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v, %v", name, leaf, err)
		}
	}
}

// withSHA1 changes the signature algorithm of a request from ecdsa-with-SHA256
// (1.2.840.10045.4.3.2) to ecdsa-with-SHA1 (1.2.840.10045.4.1).
func withSHA1(t *testing.T, der []byte) []byte {
	t.Helper()
	sha256 := []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
	sha1 := []byte{0x30, 0x09, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01}
	if bytes.Count(der, sha256) != 1 || der[1] >= 0x7f && der[1] != 0x81 {
		t.Fatalf("a request of another shape: %x", der)
	}
	der = bytes.Replace(der, sha256, sha1, 1)
	if der[1] == 0x81 {
		der[2]--
	} else {
		der[1]--
	}
	return der
}

// FuzzSign: whatever a gateway sends, the certificate is for the pod that was
// asked about, and for a key that is in the request.
func FuzzSign(f *testing.F) {
	a := must.Get(New(Options{}))(f)
	key := pki.ECKey(f, elliptic.P256())
	f.Add(pki.Request(f, &x509.CertificateRequest{}, key))
	f.Add(pki.Request(f, boastful(), key))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add(a.Bundle())
	f.Fuzz(func(t *testing.T, csr []byte) {
		leaf, err := a.Sign(csr, LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs})
		if err != nil {
			if !errors.Is(err, ErrBadRequest) || leaf != nil {
				t.Fatalf("%v, %v", leaf, err)
			}
			return
		}
		certs := must.Get(ParseCertificates(leaf.CertPEM))(t)
		id, err := identity.FromCertificate(certs[0])
		if err != nil || id != testID(DefaultTrustDomain) || len(certs[0].IPAddresses) != len(testIPs) || certs[0].IsCA {
			t.Fatalf("%v, %v", certs[0], err)
		}
		block, _ := pem.Decode(csr)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || request.CheckSignature() != nil || !certs[0].PublicKey.(*ecdsa.PublicKey).Equal(request.PublicKey) {
			t.Fatalf("signed without proof: %v", err)
		}
	})
}
