package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
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

// minRSABits is the least size of an RSA key that NIST SP 800-131A allows for
// signatures.
const minRSABits = 2048

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
	switch {
	case !issuer.BasicConstraintsValid || !issuer.IsCA:
		return nil, api.WithHint(fmt.Errorf("%w: it is not a CA certificate (basic constraints)", ErrNotAuthority),
			"give the certificate of an authority, not that of a server")
	case issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%w: its key usage does not include signing certificates", ErrNotAuthority)
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

func checkKeyType(public crypto.PublicKey) error {
	const hint = "use an ECDSA key (P-256, P-384 or P-521), an RSA key of 2048 bits or more, or Ed25519"
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return api.WithHint(fmt.Errorf("%w: curve P-224 is too weak", ErrNotAuthority), hint)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return api.WithHint(fmt.Errorf("%w: an RSA key of %d bits is too weak", ErrNotAuthority, k.N.BitLen()), hint)
		}
	case ed25519.PublicKey:
	default:
		return api.WithHint(fmt.Errorf("%w: keys of type %T are not supported", ErrNotAuthority, public), hint)
	}
	return nil
}

// describe names a PEM block in words that no search for leaked keys finds.
func describe(block *pem.Block) string {
	if strings.HasSuffix(block.Type, blockKey) {
		return "a private key"
	}
	return fmt.Sprintf("a PEM block %q", block.Type)
}

// parseKey reads the one private key in text. Errors never quote the text.
func parseKey(text []byte) (crypto.Signer, error) {
	var key crypto.Signer
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type == "EC PARAMETERS" {
			continue // written by "openssl ecparam -genkey" before the key itself
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, api.WithHint(errors.New("the key is encrypted"), "decrypt it first with 'openssl pkey -in FILE -out FILE'")
		}
		if key != nil {
			return nil, fmt.Errorf("%w: more than one PEM block", ErrDamaged)
		}
		var parsed any
		var err error
		switch block.Type {
		case blockKey:
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			return nil, fmt.Errorf("%w: %s where a private key belongs", ErrDamaged, describe(block))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: the key cannot be parsed", ErrDamaged)
		}
		signer, ok := parsed.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("%w: keys of type %T cannot sign", ErrNotAuthority, parsed)
		}
		key = signer
	}
	if key == nil {
		return nil, fmt.Errorf("%w: no private key in PEM form", ErrDamaged)
	}
	return key, nil
}
