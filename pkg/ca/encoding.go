package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// Encode returns a as one text: trust domain, key and certificates as PEM blocks,
// in this order. It holds the private key.
func (a *Authority) Encode() ([]byte, error) {
	key, err := a.keyPEM()
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: blockTrustDomain, Bytes: []byte(a.trustDomain)})
	out = append(out, key...)
	return append(out, EncodeCertificates(a.chain)...), nil
}

// PEM returns what [Import] reads: a's certificates and its private key.
func (a *Authority) PEM() (certs, key []byte, err error) {
	key, err = a.keyPEM()
	return EncodeCertificates(a.chain), key, err
}

func (a *Authority) keyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
}

// Decode reads what [Authority.Encode] wrote and nothing else: a text that was cut,
// edited or mixed from two is damaged, even where its parts could be read. An
// authority that has expired can be decoded: see [Authority.ValidAt].
func Decode(text []byte) (*Authority, error) {
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
	certs, err := ParseCertificates(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
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
	again, err := a.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(bytes.TrimSpace(again), bytes.TrimSpace(text)) {
		return nil, fmt.Errorf("%w: it holds more or other text than was written", ErrDamaged)
	}
	return newAuthority(chain, signer, trustDomain)
}
