package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// Endorsement is what makes two roots in a trust bundle those of one rotation:
// the statement that new follows old, signed by both authorities. Without it
// whoever can write the ConfigMap could have a root of theirs handed to every
// gateway that is enabled: operators have the key of one of the two authorities,
// and believe that one.
type Endorsement struct {
	// Old and New are the fingerprints of the roots.
	Old string `json:"old"`
	New string `json:"new"`
	// OldSignature and NewSignature are made with the keys that sign leaves.
	OldSignature []byte `json:"oldSignature"`
	NewSignature []byte `json:"newSignature"`
}

// statement is what is signed. It is no DER, so that it can never pass for a
// certificate that one of the authorities has signed.
func (e *Endorsement) statement(trustDomain string) []byte {
	return fmt.Appendf(nil, "kubectl-gateway rotation 1\n%s\n%s\n%s\n", trustDomain, e.Old, e.New)
}

// Endorse has both authorities sign that next follows old.
func Endorse(old, next *Authority) (*Endorsement, error) {
	e := &Endorsement{Old: Fingerprint(old.Root()), New: Fingerprint(next.Root())}
	var err error
	if e.OldSignature, err = old.sign(e.statement(old.trustDomain)); err != nil {
		return nil, err
	}
	if e.NewSignature, err = next.sign(e.statement(old.trustDomain)); err != nil {
		return nil, err
	}
	return e, nil
}

// Partner returns the fingerprint of the root that a's own key says belongs to
// the same rotation, or "". e may be nil.
func (e *Endorsement) Partner(a *Authority) string {
	if e == nil {
		return ""
	}
	own, statement := Fingerprint(a.Root()), e.statement(a.trustDomain)
	switch {
	case own == e.Old && a.signed(statement, e.OldSignature):
		return e.New
	case own == e.New && a.signed(statement, e.NewSignature):
		return e.Old
	}
	return ""
}

func (a *Authority) sign(statement []byte) ([]byte, error) {
	digest := sha256.Sum256(statement)
	input, options := digest[:], crypto.SignerOpts(crypto.SHA256)
	if _, ok := a.key.Public().(ed25519.PublicKey); ok {
		input, options = statement, crypto.Hash(0) // Ed25519 hashes by itself
	}
	signature, err := a.key.Sign(rand.Reader, input, options)
	if err != nil {
		return nil, fmt.Errorf("signing that one authority follows the other: %w", err)
	}
	return signature, nil
}

func (a *Authority) signed(statement, signature []byte) bool {
	var algorithm x509.SignatureAlgorithm
	switch a.key.Public().(type) {
	case *ecdsa.PublicKey:
		algorithm = x509.ECDSAWithSHA256
	case *rsa.PublicKey:
		algorithm = x509.SHA256WithRSA
	case ed25519.PublicKey:
		algorithm = x509.PureEd25519
	}
	return a.chain[0].CheckSignature(algorithm, statement, signature) == nil
}
