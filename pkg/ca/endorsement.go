package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"
)

// Endorsement makes two roots in a trust bundle those of one rotation: both
// authorities sign that the new one follows the old one. Operators have the key of
// one of the two, and believe that one. Without it, anyone who can write the
// ConfigMap could have a root of theirs handed to every gateway that is enabled.
// It ends by itself: a copy of it brings no root back after that.
type Endorsement struct {
	// Old and New are the fingerprints of the roots.
	Old string `json:"old"`
	New string `json:"new"`
	// NotAfter is the last second in which it holds. Those of earlier releases have
	// none, and hold at no time.
	NotAfter time.Time `json:"notAfter,omitzero"`
	// OldSignature and NewSignature are made with the keys that sign leaves.
	OldSignature []byte `json:"oldSignature"`
	NewSignature []byte `json:"newSignature"`
}

// statement returns what is signed. It is not DER, so that it never passes for a
// certificate that one of the authorities has signed.
func (e *Endorsement) statement(trustDomain string) []byte {
	if e.NotAfter.IsZero() {
		return fmt.Appendf(nil, "kubectl-gateway rotation 1\n%s\n%s\n%s\n", trustDomain, e.Old, e.New)
	}
	return fmt.Appendf(nil, "kubectl-gateway rotation 2\n%s\n%s\n%s\n%d\n", trustDomain, e.Old, e.New, e.NotAfter.Unix())
}

// Endorse has both authorities sign that next follows old, until notAfter.
func Endorse(old, next *Authority, notAfter time.Time) (*Endorsement, error) {
	e := &Endorsement{Old: Fingerprint(old.Root()), New: Fingerprint(next.Root()), NotAfter: notAfter.UTC().Truncate(time.Second)}
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
// a's own key has signed for it. With [ErrEnded] it returns the root of a statement
// that does not hold at now. e may be nil.
func (e *Endorsement) Partner(a *Authority, now time.Time) (string, error) {
	if e == nil {
		return "", nil
	}
	own, statement, partner := Fingerprint(a.Root()), e.statement(a.trustDomain), ""
	switch {
	case own == e.Old && a.signed(statement, e.OldSignature):
		partner = e.New
	case own == e.New && a.signed(statement, e.NewSignature):
		partner = e.Old
	default:
		return "", nil
	}
	switch {
	case e.NotAfter.IsZero():
		return partner, fmt.Errorf("%w: an earlier release made it, without an end", ErrEnded)
	case now.After(e.NotAfter):
		return partner, fmt.Errorf("%w on %s", ErrEnded, e.NotAfter.Format(time.RFC3339))
	}
	return partner, nil
}

func (a *Authority) sign(statement []byte) ([]byte, error) {
	_, hash := a.algorithm()
	signature, err := crypto.SignMessage(a.key, rand.Reader, statement, hash)
	if err != nil {
		return nil, fmt.Errorf("signing a statement: %w", err)
	}
	if !a.signed(statement, signature) {
		return nil, fmt.Errorf("signing a statement: %w: the signature is not of its key", ErrMismatch)
	}
	return signature, nil
}

func (a *Authority) signed(statement, signature []byte) bool {
	algorithm, _ := a.algorithm()
	return a.chain[0].CheckSignature(algorithm, statement, signature) == nil
}

// algorithm returns how a signs a statement.
func (a *Authority) algorithm() (x509.SignatureAlgorithm, crypto.Hash) {
	return signatureOf(a.key.Public())
}

// signatureOf returns how a statement is signed with the key of public. Ed25519 hashes by itself.
func signatureOf(public crypto.PublicKey) (x509.SignatureAlgorithm, crypto.Hash) {
	switch public.(type) {
	case *rsa.PublicKey:
		return x509.SHA256WithRSA, crypto.SHA256
	case ed25519.PublicKey:
		return x509.PureEd25519, 0
	}
	return x509.ECDSAWithSHA256, crypto.SHA256
}
