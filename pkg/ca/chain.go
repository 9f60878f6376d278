package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// sortChain returns the certificates in order of signing, from certs[0] to its
// self-signed root. Every certificate must be part of that chain.
func sortChain(certs []*x509.Certificate) ([]*x509.Certificate, error) {
	chain, rest := certs[:1:1], slices.Clone(certs[1:])
	for last := chain[0]; !selfSigned(last); last = chain[len(chain)-1] {
		i := slices.IndexFunc(rest, func(candidate *x509.Certificate) bool {
			return bytes.Equal(last.RawIssuer, candidate.RawSubject) && last.CheckSignatureFrom(candidate) == nil
		})
		if i < 0 {
			return nil, api.WithHint(
				fmt.Errorf("%w: the chain ends at %q, which is not self-signed", ErrNotAuthority, last.Subject),
				"put all certificates into one file: first the one whose key you give, last its self-signed root")
		}
		chain, rest = append(chain, rest[i]), slices.Delete(rest, i, i+1)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: the certificate of %q is not part of the chain", ErrNotAuthority, rest[0].Subject)
	}
	return chain, nil
}

func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) &&
		cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// CheckSigner returns [ErrNotAuthority] unless cert may sign certificates.
func CheckSigner(cert *x509.Certificate) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return api.WithHint(fmt.Errorf("%w: it is not a CA certificate (basic constraints)", ErrNotAuthority),
			"give the certificate of an authority, not that of a server")
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%w: its key usage does not include signing certificates", ErrNotAuthority)
	}
	return nil
}

// Fingerprint returns the SHA-256 of cert's DER form in lower-case hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Fingerprints returns the [Fingerprint] of each certificate.
func Fingerprints(certs []*x509.Certificate) []string {
	all := make([]string, len(certs))
	for i, cert := range certs {
		all[i] = Fingerprint(cert)
	}
	return all
}

// Validity returns the time in which all certificates of a chain are valid.
func Validity(chain []*x509.Certificate) (notBefore, notAfter time.Time) {
	for i, cert := range chain {
		if i == 0 || cert.NotBefore.After(notBefore) {
			notBefore = cert.NotBefore
		}
		if i == 0 || cert.NotAfter.Before(notAfter) {
			notAfter = cert.NotAfter
		}
	}
	return notBefore, notAfter
}

// Verify returns the root that chain, a leaf followed by its intermediates, leads
// to. It fails if a peer that trusts roots would refuse the leaf at now, as a
// server's or as a client's.
func Verify(chain, roots []*x509.Certificate, now time.Time) (*x509.Certificate, error) {
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, between := range chain[1:] {
		options.Intermediates.AddCert(between)
	}
	var root *x509.Certificate
	for _, usage := range PeerUsages() {
		// The usages in one call are alternatives, and a gateway needs both.
		options.KeyUsages = []x509.ExtKeyUsage{usage}
		found, err := chain[0].Verify(options)
		if err != nil {
			return nil, err
		}
		root = found[0][len(found[0])-1]
	}
	return root, nil
}
