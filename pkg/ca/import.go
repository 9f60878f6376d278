package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// PEM block types of RFC 7468, and one of our own for the trust domain of an
// authority whose certificate does not name it.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
	blockTrustDomain = "SPIFFE TRUST DOMAIN"
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
	chain, err := sortChain(certs)
	if err != nil {
		return nil, err
	}
	if trustDomain == "" {
		if trustDomain, err = TrustDomainOf(chain); err != nil {
			return nil, err
		}
		if trustDomain == "" {
			trustDomain = DefaultTrustDomain
		}
	}
	return newAuthority(chain, key, trustDomain)
}

// newAuthority is where every Authority comes from: it checks what the package
// comment promises.
func newAuthority(chain []*x509.Certificate, key crypto.Signer, trustDomain string) (*Authority, error) {
	issuer := chain[0]
	public, ok := issuer.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
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
	// Path lengths, name constraints, extended key usages and signatures of
	// the whole chain: the verifier knows them all.
	trial := LeafRequest{
		Identity: identity.ID{TrustDomain: trustDomain, Namespace: "default", ServiceAccount: "default"},
		TTL:      time.Minute,
		Now:      a.NotBefore,
	}
	if _, err := a.Issue(trial); err != nil {
		return nil, fmt.Errorf("trying the authority: %w", err)
	}
	return a, nil
}

// describe names a PEM block in words that no search for leaked keys finds.
func describe(block *pem.Block) string {
	if strings.HasSuffix(block.Type, blockKey) {
		return "a private key"
	}
	return fmt.Sprintf("a PEM block %q", block.Type)
}
