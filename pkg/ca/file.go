package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// encode returns the form that an authority has in its file: trust domain, key
// and certificates as PEM blocks, in this order. It holds the private key.
func (a *Authority) encode() ([]byte, error) {
	key, err := a.keyPEM()
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: blockTrustDomain, Bytes: []byte(a.trustDomain)})
	out = append(out, key...)
	return append(out, encodeCertificates(a.chain)...), nil
}

func (a *Authority) keyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

// decode reads what encode wrote and nothing else: a file that was cut, edited
// or mixed from two is damaged, even where its parts could be read.
func decode(text []byte, now time.Time) (*Authority, error) {
	a, err := decodeParts(text)
	if err != nil {
		return nil, err
	}
	return newAuthority(a.chain, a.key, a.trustDomain, now)
}

// decodeAnyTime is decode for an authority that need not be valid any more: one
// that signs nothing.
func decodeAnyTime(text []byte, now time.Time) (*Authority, error) {
	a, err := decodeParts(text)
	if err != nil {
		return nil, err
	}
	if a.checkTime(now) != nil {
		now = a.NotBefore()
	}
	return newAuthority(a.chain, a.key, a.trustDomain, now)
}

// decodeParts checks the form of a file. What it returns has yet to be tried.
func decodeParts(text []byte) (*Authority, error) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	domain, rest := pem.Decode(text)
	if domain == nil || domain.Type != blockTrustDomain {
		return nil, fmt.Errorf("%w: it does not begin with a trust domain", ErrDamaged)
	}
	key, rest := pem.Decode(rest)
	if key == nil || key.Type != blockKey {
		return nil, fmt.Errorf("%w: it has no private key", ErrDamaged)
	}
	signer, err := parseKey(pem.EncodeToMemory(key))
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(rest)
	if err != nil {
		return nil, err
	}
	chain, err := sortChain(certs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	trustDomain := string(domain.Bytes)
	if err := identity.ValidateTrustDomain(trustDomain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	a := &Authority{chain: chain, key: signer, trustDomain: trustDomain}
	again, err := a.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(bytes.TrimSpace(again), bytes.TrimSpace(text)) {
		return nil, fmt.Errorf("%w: it holds more or other text than was written", ErrDamaged)
	}
	return a, nil
}
