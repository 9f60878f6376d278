package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// TrustDomainOf returns the trust domain that the SPIFFE ID of the first
// certificate with one names, or "" if none has one.
func TrustDomainOf(chain []*x509.Certificate) (string, error) {
	for _, cert := range chain {
		for _, uri := range cert.URIs {
			if uri.Scheme != "spiffe" {
				continue
			}
			if td, ok := strings.CutPrefix(uri.String(), "spiffe://"); ok && identity.ValidateTrustDomain(td) == nil {
				return td, nil
			}
			return "", fmt.Errorf("%w: its SPIFFE ID %q is not that of a trust domain", ErrNotAuthority, uri)
		}
	}
	return "", nil
}

// sortChain returns the certificates in order of signing, from certs[0] to its
// self-signed root. Every certificate must be part of that chain.
func sortChain(certs []*x509.Certificate) ([]*x509.Certificate, error) {
	chain, rest := certs[:1:1], append([]*x509.Certificate(nil), certs[1:]...)
	for !selfSigned(chain[len(chain)-1]) {
		last := chain[len(chain)-1]
		found := false
		for i, candidate := range rest {
			if bytes.Equal(last.RawIssuer, candidate.RawSubject) && last.CheckSignatureFrom(candidate) == nil {
				chain, rest, found = append(chain, candidate), append(rest[:i], rest[i+1:]...), true
				break
			}
		}
		if !found {
			return nil, api.WithHint(
				fmt.Errorf("%w: the chain ends at %q, which is not self-signed", ErrNotAuthority, last.Subject),
				"put all certificates into one file: first the one whose key you give, last its self-signed root")
		}
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

// ParseCertificates reads one or more certificates and accepts nothing else.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("%s where only certificates belong", describe(block))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return certs, nil
}

// EncodeCertificates returns certificates in PEM form.
func EncodeCertificates(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		// Writing to a bytes.Buffer cannot fail.
		_ = pem.Encode(&out, &pem.Block{Type: blockCertificate, Bytes: cert.Raw})
	}
	return out.Bytes()
}
