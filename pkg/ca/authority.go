package ca

import (
	"cmp"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// DefaultTrustDomain is the trust domain when none is asked for.
	DefaultTrustDomain = "cluster.local"
	// DefaultTTL is how long a new authority is valid: ten years of 365 days,
	// what kubeadm gives a cluster's own authority.
	DefaultTTL = 10 * 365 * 24 * time.Hour
	// Backdate is how far before its making a certificate becomes valid, so
	// that a node whose clock is a little slow accepts it. An API server takes no certificate
	// for a pod that begins more than five minutes from its own time: a minute is left for a signer's clock.
	Backdate = 4 * time.Minute
)

// Authority holds a certificate authority: its certificates and its key. It is
// immutable and safe for concurrent use.
type Authority struct {
	// chain starts with the certificate that key belongs to and ends with the
	// self-signed root. The two are the same for an authority made by New.
	chain       []*x509.Certificate
	key         crypto.Signer
	trustDomain string
	// trusted are roots that verifiers must trust besides the authority's own: that
	// of its predecessor or successor during a rotation.
	trusted []*x509.Certificate
	// revoked is handed out besides the bundle.
	revoked *Revocations
}

// Options say what authority New makes.
type Options struct {
	// TrustDomain is [DefaultTrustDomain] if empty.
	TrustDomain string
	// TTL counts from Now; [DefaultTTL] if zero.
	TTL time.Duration
	// Now is the present if zero. The authority becomes valid [Backdate] before.
	Now time.Time
	// Key is a new ECDSA P-256 key if nil.
	Key crypto.Signer
}

// New makes a self-signed authority. It can sign only
// leaves (path length 0), and URI names only within its trust domain (RFC 5280,
// section 4.2.1.10). The trust domain stands in the certificate as the URI name
// spiffe://<trust domain>.
func New(o Options) (*Authority, error) {
	o.TrustDomain = cmp.Or(o.TrustDomain, DefaultTrustDomain)
	o.TTL = cmp.Or(o.TTL, DefaultTTL)
	now := cmp.Or(o.Now, time.Now())
	if err := ValidateTrustDomain(o.TrustDomain); err != nil {
		return nil, err
	}
	if o.TTL < 0 {
		return nil, fmt.Errorf("lifetime %v of the authority is negative", o.TTL)
	}
	key := o.Key
	if key == nil {
		made, err := NewKey()
		if err != nil {
			return nil, err
		}
		key = made
	}
	notAfter := now.Add(o.TTL).UTC()
	if notAfter.Year() > 9999 {
		return nil, fmt.Errorf("lifetime %v of the authority ends after the year 9999", o.TTL)
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial,
		// Verifiers search issuers by name, and two authorities of one trust
		// domain must not look alike to them.
		Subject:                     pkix.Name{CommonName: "kubectl-gateway authority", SerialNumber: hex.EncodeToString(serial.Bytes())},
		NotBefore:                   now.Add(-Backdate).UTC(),
		NotAfter:                    notAfter,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                        []*url.URL{{Scheme: "spiffe", Host: o.TrustDomain}},
		PermittedURIDomains:         []string{o.TrustDomain},
		PermittedDNSDomainsCritical: true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority's certificate: %w", err)
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

// Bundle returns the roots that a verifier must trust, in PEM form: the authority's
// own, then those of [Authority.Trusting]. It holds no key.
func (a *Authority) Bundle() []byte { return EncodeCertificates(a.roots()) }

// Roots returns the fingerprints of [Authority.Bundle], in its order.
func (a *Authority) Roots() []string { return Fingerprints(a.roots()) }

// NotBefore returns when the last certificate of a becomes valid.
func (a *Authority) NotBefore() time.Time {
	notBefore, _ := Validity(a.chain)
	return notBefore
}

// NotAfter returns when the first certificate of a expires.
func (a *Authority) NotAfter() time.Time {
	_, notAfter := Validity(a.chain)
	return notAfter
}

// ValidAt returns [ErrExpired] unless every certificate of a is valid at now.
func (a *Authority) ValidAt(now time.Time) error {
	notBefore, notAfter := Validity(a.chain)
	switch {
	case now.Before(notBefore):
		return api.WithHint(fmt.Errorf("%w: it starts on %s", ErrExpired, notBefore.Format(time.RFC3339)),
			"check the clock of this machine")
	case now.After(notAfter):
		return api.WithHint(fmt.Errorf("%w: it ended on %s", ErrExpired, notAfter.Format(time.RFC3339)),
			"replace it with 'kubectl gateway init-ca --force', then give all gateways new certificates with 'kubectl gateway rotate --all -A'")
	}
	return nil
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

// Trusting returns a copy of a whose bundle holds other roots besides a's own.
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

// sign makes the certificate of template for a public key.
func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading back the certificate: %w", err)
	}
	return cert, nil
}

// newSerial returns a positive random number of at most 128 bits.
func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[15] |= 1
	return new(big.Int).SetBytes(b[:])
}
