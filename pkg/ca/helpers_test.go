package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

var testIPs = []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::2")}

func testID(trustDomain string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: "shop", ServiceAccount: "cart"}
}

func newTestAuthority(t *testing.T, trustDomain string) *Authority {
	t.Helper()
	a, err := New(Options{TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pair is a certificate with its key, as an operator might bring one along.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func (p pair) certPEM() []byte { return encodeCertificates([]*x509.Certificate{p.cert}) }

func (p pair) keyPEM(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})
}

// sign makes a CA certificate, changed by edit, that parent signs, or that
// signs itself without one.
func sign(t *testing.T, name string, key crypto.Signer, parent *pair, edit func(*x509.Certificate)) pair {
	t.Helper()
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if edit != nil {
		edit(template)
	}
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

// verifyGo checks a PEM chain against a PEM bundle the way a gateway does.
func verifyGo(t *testing.T, bundle, chain []byte, usage x509.ExtKeyUsage) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatal("the bundle holds no certificate")
	}
	certs, err := parseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// verifyOpenSSL is a second opinion.
func verifyOpenSSL(t *testing.T, bundle, chain []byte, purpose string) (string, error) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("openssl is needed")
		}
		t.Skip("openssl is not installed: no second opinion on certificates")
	}
	dir := t.TempDir()
	bundleFile, chainFile := filepath.Join(dir, "bundle.pem"), filepath.Join(dir, "chain.pem")
	for path, text := range map[string][]byte{bundleFile: bundle, chainFile: chain} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose,
		"-CAfile", bundleFile, "-untrusted", chainFile, chainFile).CombinedOutput()
	return string(out), err
}
