// Package pki makes keys and certificates for tests, also those that no
// authority should have.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// Pair is a certificate with its key.
type Pair struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// CertPEM returns the certificate in PEM form.
func (p Pair) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert.Raw})
}

// KeyPEM returns the key in PKCS #8 form.
func (p Pair) KeyPEM(t testing.TB) []byte {
	t.Helper()
	der := must.Get(x509.MarshalPKCS8PrivateKey(p.Key))(t)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// Root makes a self-signed CA certificate with an ECDSA P-256 key.
func Root(t testing.TB) Pair {
	t.Helper()
	return Sign(t, "root", ECKey(t, elliptic.P256()), nil, nil)
}

// Sign makes a CA certificate, valid from two days ago for two days and changed by
// edit, that parent signs, or that signs itself without one.
func Sign(t testing.TB, name string, key crypto.Signer, parent *Pair, edit func(*x509.Certificate)) Pair {
	t.Helper()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-48 * time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = &Pair{template, key}
	}
	return Pair{parent.create(t, template, key.Public(), edit), key}
}

// Leaf makes a certificate for servers and clients, valid from five minutes ago for
// an hour and changed by edit.
func (p Pair) Leaf(t testing.TB, id identity.ID, ips []netip.Addr, public crypto.PublicKey, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		NotBefore:             time.Now().Add(-5 * time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{id.URL()},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	return p.create(t, template, public, edit)
}

func (p Pair) create(t testing.TB, template *x509.Certificate, public crypto.PublicKey, edit func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template.SerialNumber = must.Get(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)))(t)
	if edit != nil {
		edit(template)
	}
	der := must.Get(x509.CreateCertificate(rand.Reader, template, p.Cert, public, p.Key))(t)
	return must.Get(x509.ParseCertificate(der))(t)
}

// Request makes a certificate request in PEM form.
func Request(t testing.TB, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der := must.Get(x509.CreateCertificateRequest(rand.Reader, template, key))(t)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// ECKey makes an ECDSA key.
func ECKey(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	return must.Get(ecdsa.GenerateKey(curve, rand.Reader))(t)
}

// RSAKey makes an RSA key.
func RSAKey(t testing.TB, bits int) crypto.Signer {
	t.Helper()
	return must.Get(rsa.GenerateKey(rand.Reader, bits))(t)
}

// Ed25519Key makes an Ed25519 key.
func Ed25519Key(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// AddOtherName adds a name of a kind that Go's library skips to those that r asks for.
func AddOtherName(t testing.TB, r *x509.CertificateRequest) {
	t.Helper()
	const uri, ip, registeredID = 6, 7, 8 // RFC 5280, section 4.2.1.6
	name := func(tag int, value []byte) asn1.RawValue {
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value}
	}
	names := []asn1.RawValue{name(registeredID, []byte{0x2a, 3, 4})}
	for _, u := range r.URIs {
		names = append(names, name(uri, []byte(u.String())))
	}
	for _, a := range r.IPAddresses {
		if four := a.To4(); four != nil {
			a = four
		}
		names = append(names, name(ip, a))
	}
	r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: must.Get(asn1.Marshal(names))(t)})
}

// AddAttribute adds an attribute to r in which some signers look for names.
func AddAttribute(r *x509.CertificateRequest) {
	//lint:ignore SA1019 there is no other way to make one
	r.Attributes = []pkix.AttributeTypeAndValueSET{{
		Type:  asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 13, 2, 1},
		Value: [][]pkix.AttributeTypeAndValue{{{Type: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 13, 2, 1}, Value: "dns=kubernetes"}}},
	}}
}
