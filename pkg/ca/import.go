package ca

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// Import makes an authority of an existing one. certPEM holds the certificate
// that is to sign leaves and, if it is not a root, those that lead from it to
// its self-signed root. keyPEM holds its private key, unencrypted, in PKCS #8,
// PKCS #1 or SEC 1 form. trustDomain may be empty: then the certificate's
// SPIFFE ID tells, and without one it is [DefaultTrustDomain]. An authority that
// has expired can be imported: see [Authority.ValidAt].
func Import(certPEM, keyPEM []byte, trustDomain string) (*Authority, error) {
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w: %w", ErrDamaged, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	return importWith(certs, key, trustDomain)
}

// ImportSigner is Import with a key that is somewhere else.
func ImportSigner(certPEM []byte, key crypto.Signer, trustDomain string) (*Authority, error) {
	certs, err := ParseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w: %w", ErrDamaged, err)
	}
	return importWith(certs, key, trustDomain)
}

func importWith(certs []*x509.Certificate, key crypto.Signer, trustDomain string) (*Authority, error) {
	chain, err := sortChain(certs)
	if err != nil {
		return nil, err
	}
	if trustDomain == "" {
		if trustDomain, err = TrustDomainOf(chain); err != nil {
			return nil, err
		}
		trustDomain = cmp.Or(trustDomain, DefaultTrustDomain)
	}
	return newAuthority(chain, key, trustDomain)
}

// newAuthority makes every Authority, and checks what the package comment promises. A key that is
// held is tried when it is opened.
func newAuthority(chain []*x509.Certificate, key crypto.Signer, trustDomain string) (*Authority, error) {
	issuer := chain[0]
	if !samePublic(issuer.PublicKey, key.Public()) {
		return nil, ErrMismatch
	}
	if err := CheckSigner(issuer); err != nil {
		return nil, err
	}
	if err := checkKeyType(key.Public()); err != nil {
		return nil, err
	}
	if err := ValidateTrustDomain(trustDomain); err != nil {
		return nil, err
	}
	named, err := TrustDomainOf(chain)
	if err != nil {
		return nil, err
	}
	if named != "" && named != trustDomain {
		return nil, api.WithHint(fmt.Errorf("the authority's certificate is for trust domain %q, not %q", named, trustDomain),
			"leave out --trust-domain, or use an authority of that trust domain")
	}
	a := &Authority{chain: chain, key: key, trustDomain: trustDomain}
	if a.Held() == nil {
		if err := a.try(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// try issues a certificate. It finds what path lengths, name constraints, extended key
// usages and signatures of the whole chain forbid.
func (a *Authority) try() error {
	trial := LeafRequest{
		Identity: identity.ID{TrustDomain: a.trustDomain, Namespace: "default", ServiceAccount: "default"},
		TTL:      time.Minute,
		Now:      a.NotBefore(),
	}
	if _, err := a.Issue(trial); err != nil {
		return fmt.Errorf("trying the authority: %w", err)
	}
	return nil
}

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

// ValidateTrustDomain allows what SPIFFE allows, less what verifiers cannot
// match against a URI name constraint (RFC 5280, section 4.2.1.10): addresses
// and names with empty labels.
func ValidateTrustDomain(td string) error {
	const hint = "use a name like cluster.local or prod.example.org"
	if err := identity.ValidateTrustDomain(td); err != nil {
		return api.WithHint(err, hint)
	}
	if _, err := netip.ParseAddr(td); err == nil {
		return api.WithHint(fmt.Errorf("trust domain %q is an address", td), hint)
	}
	for _, label := range strings.Split(td, ".") {
		if label == "" || len(label) > 63 {
			return api.WithHint(fmt.Errorf("trust domain %q: each part between dots must have 1 to 63 characters", td), hint)
		}
	}
	return nil
}
