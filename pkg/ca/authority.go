package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

const (
	// DefaultTrustDomain is the trust domain when none is asked for.
	DefaultTrustDomain = "cluster.local"
	// DefaultTTL is how long a new authority is valid: ten years of 365 days,
	// what kubeadm gives a cluster's own authority.
	DefaultTTL = 10 * 365 * 24 * time.Hour
	// backdate is how far before its making a certificate becomes valid, so
	// that a node whose clock is a little slow accepts it.
	backdate = 5 * time.Minute
)

// Authority holds a certificate authority: its certificates and its key. It is
// immutable and safe for concurrent use.
type Authority struct {
	// chain starts with the certificate that key belongs to and ends with the
	// self-signed root. The two are the same for an authority made by New.
	chain       []*x509.Certificate
	key         crypto.Signer
	trustDomain string
	// trusted are the roots besides its own that verifiers must trust: that of
	// the authority's predecessor or successor while a rotation is under way.
	trusted []*x509.Certificate
}

// Options say what authority New makes.
type Options struct {
	// TrustDomain is [DefaultTrustDomain] if empty.
	TrustDomain string
	// TTL is [DefaultTTL] if zero.
	TTL time.Duration
	// Now is time.Now if nil. The authority becomes valid five minutes before.
	Now func() time.Time
}

// New makes a self-signed authority with an ECDSA P-256 key. It can sign only
// leaves (path length 0), and URI names only within its trust domain (RFC 5280,
// section 4.2.1.10). The trust domain stands in the certificate as the URI name
// spiffe://<trust domain>.
func New(o Options) (*Authority, error) {
	if o.TrustDomain == "" {
		o.TrustDomain = DefaultTrustDomain
	}
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if err := ValidateTrustDomain(o.TrustDomain); err != nil {
		return nil, err
	}
	if o.TTL < 0 {
		return nil, fmt.Errorf("lifetime %v of the authority is negative", o.TTL)
	}
	now := clock(o.Now)
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	notAfter := now.Add(o.TTL).UTC()
	if notAfter.Year() > 9999 {
		return nil, fmt.Errorf("lifetime %v of the authority ends after the year 9999", o.TTL)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Two authorities of one trust domain must not look alike to
		// verifiers that search issuers by name.
		Subject:                     pkix.Name{CommonName: "kubectl-gateway authority", SerialNumber: hex.EncodeToString(serial.Bytes())},
		NotBefore:                   now.Add(-backdate).UTC(),
		NotAfter:                    notAfter,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                        []*url.URL{{Scheme: "spiffe", Host: o.TrustDomain}},
		PermittedURIDomains:         []string{o.TrustDomain},
		PermittedDNSDomainsCritical: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the authority's certificate: %w", err)
	}
	return newAuthority([]*x509.Certificate{cert}, key, o.TrustDomain)
}

// Certificate returns the certificate that signs leaves. The caller must not
// change it.
func (a *Authority) Certificate() *x509.Certificate { return a.chain[0] }

// TrustDomain returns the only trust domain that a issues identities of.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// Fingerprint returns the SHA-256 of the certificate that signs leaves, in
// lower-case hexadecimal.
func (a *Authority) Fingerprint() string { return Fingerprint(a.chain[0]) }

// Bundle returns the PEM form of the certificates that a verifier must trust:
// first the authority's own root, then that of its predecessor or successor if
// there is one ([Authority.Trusting]). It holds no key.
func (a *Authority) Bundle() []byte { return EncodeCertificates(a.roots()) }

// Roots returns the fingerprints of the certificates in [Authority.Bundle], in
// their order.
func (a *Authority) Roots() []string {
	var list []string
	for _, cert := range a.roots() {
		list = append(list, Fingerprint(cert))
	}
	return list
}

// NotAfter returns when the first certificate of a expires.
func (a *Authority) NotAfter() time.Time {
	t := a.chain[0].NotAfter
	for _, cert := range a.chain[1:] {
		if cert.NotAfter.Before(t) {
			t = cert.NotAfter
		}
	}
	return t
}

// NotBefore returns when the last certificate of a becomes valid.
func (a *Authority) NotBefore() time.Time {
	t := a.chain[0].NotBefore
	for _, cert := range a.chain[1:] {
		if cert.NotBefore.After(t) {
			t = cert.NotBefore
		}
	}
	return t
}

// String names a without its key.
func (a *Authority) String() string {
	return fmt.Sprintf("authority %s of trust domain %s", a.Fingerprint()[:16], a.trustDomain)
}

// Equal reports whether a and b sign with the same certificate for the same
// trust domain. Both may be nil.
func (a *Authority) Equal(b *Authority) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.chain[0].Equal(b.chain[0]) && a.trustDomain == b.trustDomain
}

// Trusting returns a copy of a whose bundle holds others besides a's own root.
func (a *Authority) Trusting(others ...*x509.Certificate) *Authority {
	b := *a
	b.trusted = nil
	for _, cert := range others {
		if !slices.ContainsFunc(b.roots(), cert.Equal) {
			b.trusted = append(b.trusted, cert)
		}
	}
	return &b
}

func (a *Authority) roots() []*x509.Certificate {
	return append([]*x509.Certificate{a.Root()}, a.trusted...)
}

// Root returns the self-signed certificate that a's chain ends with. The caller
// must not change it.
func (a *Authority) Root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// Fingerprint returns the SHA-256 of cert's DER form in lower-case hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
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

// newSerial returns a positive random number of at most 128 bits.
func newSerial() (*big.Int, error) {
	for {
		var b [16]byte
		if _, err := rand.Read(b[:]); err != nil {
			return nil, fmt.Errorf("choosing a serial number: %w", err)
		}
		if serial := new(big.Int).SetBytes(b[:]); serial.Sign() > 0 {
			return serial, nil
		}
	}
}

func clock(now func() time.Time) time.Time {
	if now == nil {
		return time.Now()
	}
	return now()
}
