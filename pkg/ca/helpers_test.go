package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

var testPod = api.PodRef{UID: "uid-1"}

var testIPs = []netip.Addr{netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::2")}

func testID(trustDomain string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: "shop", ServiceAccount: "cart"}
}

func newTestAuthority(t *testing.T, trustDomain string) *Authority {
	t.Helper()
	return must.Get(New(Options{TrustDomain: trustDomain}))(t)
}

// verify checks a PEM chain against a PEM bundle the way a gateway does.
func verify(t *testing.T, bundle, chain []byte) error {
	t.Helper()
	roots := must.Get(ParseCertificates(bundle))(t)
	certs := must.Get(ParseCertificates(chain))(t)
	_, err := Verify(certs, roots, time.Now())
	return err
}

// contents are what a certificate says of its holder.
type contents struct {
	URIs, IPs, DNSNames []string
	Subject             string
	CA                  bool
	MaxPathLen          int
	KeyUsage            x509.KeyUsage
	ExtKeyUsage         []x509.ExtKeyUsage
	PermittedURIDomains []string
}

func contentsOf(cert *x509.Certificate) contents {
	c := contents{DNSNames: cert.DNSNames, Subject: cert.Subject.String(), CA: cert.IsCA, MaxPathLen: cert.MaxPathLen,
		KeyUsage: cert.KeyUsage, ExtKeyUsage: cert.ExtKeyUsage, PermittedURIDomains: cert.PermittedURIDomains}
	for _, uri := range cert.URIs {
		c.URIs = append(c.URIs, uri.String())
	}
	for _, ip := range cert.IPAddresses {
		c.IPs = append(c.IPs, ip.String())
	}
	return c
}

// checkLeaf checks that leaf is a certificate of the pod testID for a key, and that
// peers of a accept it.
func checkLeaf(t *testing.T, a *Authority, leaf *Leaf, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	chain := must.Get(ParseCertificates(leaf.CertPEM))(t)
	cert := chain[0]
	want := contents{URIs: []string{testID(a.TrustDomain()).String()}, IPs: []string{"10.0.2.2", "fd00::2"}, MaxPathLen: -1, Subject: "SERIALNUMBER=uid-1",
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	expect.Equal(t, "the certificate", want, contentsOf(cert))
	told := Leaf{CertPEM: leaf.CertPEM, KeyPEM: leaf.KeyPEM, Serial: cert.SerialNumber.Text(16), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
	expect.Equal(t, "what is told of it", told, *leaf)
	if !cert.PublicKey.(*ecdsa.PublicKey).Equal(key) {
		t.Error("it is for another key")
	}
	must.Do(t, verify(t, a.Bundle(), leaf.CertPEM))
	return cert
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
		must.Do(t, os.WriteFile(path, text, 0o600))
	}
	out, err := exec.CommandContext(t.Context(), openssl, "verify", "-x509_strict", "-purpose", purpose,
		"-CAfile", bundleFile, "-untrusted", chainFile, chainFile).CombinedOutput()
	return string(out), err
}
