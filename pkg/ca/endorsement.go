package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

// Endorsement makes two roots in a trust bundle those of one rotation: both
// authorities sign that the new one follows the old one. Operators have the key of
// one of the two, and believe that one. Without it, anyone who can write the
// ConfigMap could have a root of theirs handed to every gateway that is enabled.
type Endorsement struct {
	// Old and New are the fingerprints of the roots.
	Old string `json:"old"`
	New string `json:"new"`
	// OldSignature and NewSignature are made with the keys that sign leaves.
	OldSignature []byte `json:"oldSignature"`
	NewSignature []byte `json:"newSignature"`
}

// statement returns what is signed. It is not DER, so that it never passes for a
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

// Partner returns the fingerprint of the other root of a rotation, or "" unless
// a's own key has signed for it. e may be nil.
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
	_, hash := a.algorithm()
	signature, err := crypto.SignMessage(a.key, rand.Reader, statement, hash)
	if err != nil {
		return nil, fmt.Errorf("signing that one authority follows the other: %w", err)
	}
	return signature, nil
}

func (a *Authority) signed(statement, signature []byte) bool {
	algorithm, _ := a.algorithm()
	return a.chain[0].CheckSignature(algorithm, statement, signature) == nil
}

// algorithm returns how a signs a statement. Ed25519 hashes by itself.
func (a *Authority) algorithm() (x509.SignatureAlgorithm, crypto.Hash) {
	switch a.key.Public().(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, crypto.SHA256
	case ed25519.PublicKey:
		return x509.PureEd25519, 0
	}
	return x509.ECDSAWithSHA256, crypto.SHA256
}
