package ca

import (
	"crypto/x509"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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

// verifyGo checks a PEM chain against a PEM bundle the way a gateway does.
func verifyGo(t *testing.T, bundle, chain []byte, usage x509.ExtKeyUsage) error {
	t.Helper()
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		t.Fatal("the bundle holds no certificate")
	}
	certs, err := ParseCertificates(chain)
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

func checkMessage(t *testing.T, name string, err error) {
	t.Helper()
	for _, text := range []string{err.Error(), api.Hint(err)} {
		if text == "" || strings.Contains(text, "\n") || strings.Contains(text, "BEGIN") {
			t.Errorf("%s: not one line without PEM: %q", name, text)
		}
	}
}
