package ca

import "context"

// Issuer issues certificates for keys that gateways made. An [Authority] is one that does it by
// itself.
type Issuer interface {
	// TrustDomain returns the only trust domain whose identities are issued.
	TrustDomain() string
	// Bundle returns the roots that gateways are to trust, as PEM.
	Bundle() []byte
	// Roots returns the fingerprints of Bundle, in its order.
	Roots() []string
	// Revocations returns what gateways are to refuse of what those roots vouch for.
	Revocations() *Revocations
	// Keeping returns the issuer for a gateway that trusts the roots with these fingerprints: its
	// bundle also holds those of them that others still need.
	Keeping(roots []string) Issuer
	// Certify issues a certificate for the public key of a PKCS #10 request in PEM form, whose
	// identity and addresses are those of about. KeyPEM of the result is empty.
	Certify(ctx context.Context, csr []byte, about LeafRequest) (*Leaf, error)
}

var _ Issuer = (*Authority)(nil)

// Certify is [Authority.Sign] as part of Issuer.
func (a *Authority) Certify(_ context.Context, csr []byte, about LeafRequest) (*Leaf, error) {
	return a.Sign(csr, about)
}

// Keeping is part of Issuer. The bundle of a holds all roots of a rotation by itself.
func (a *Authority) Keeping([]string) Issuer { return a }
