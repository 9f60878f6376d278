package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// PEM block types of RFC 7468, and one of our own for the trust domain of an
// authority whose certificate does not name it.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
	blockRequest     = "CERTIFICATE REQUEST"
	blockTrustDomain = "SPIFFE TRUST DOMAIN"
)

// Encode returns a as one text: trust domain, key and certificates as PEM blocks,
// in this order. It holds the private key, or the block that stands for it (see [Authority.Held]).
func (a *Authority) Encode() ([]byte, error) {
	certs, key, err := EncodeCertificates(a.chain), []byte(nil), error(nil)
	if held := a.Held(); held != nil {
		key = pem.EncodeToMemory(held)
	} else if key, err = EncodeKey(a.key); err != nil {
		return nil, err
	}
	trustDomain := pem.EncodeToMemory(&pem.Block{Type: blockTrustDomain, Bytes: []byte(a.trustDomain)})
	return slices.Concat(trustDomain, key, certs), nil
}

// PEM returns what [Import] reads: a's certificates and its private key. The error is [ErrHeld] if
// the key does not lie in the open.
func (a *Authority) PEM() (certs, key []byte, err error) {
	if a.Held() != nil {
		return nil, nil, ErrHeld
	}
	key, err = EncodeKey(a.key)
	return EncodeCertificates(a.chain), key, err
}

// Decode reads what [Authority.Encode] wrote and nothing else: a text that was cut,
// edited or mixed from two is damaged, even where its parts could be read. An
// authority that has expired can be decoded: see [Authority.ValidAt]. Its key must lie in the open.
func Decode(text []byte) (*Authority, error) { return DecodeHeld(text, nil) }

// DecodeHeld is Decode with keys that are held as well: open is called when such an authority signs for the
// first time, or by [Authority.Unlock].
func DecodeHeld(text []byte, open Opener) (*Authority, error) {
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	domain, rest := pem.Decode(text)
	if domain == nil || domain.Type != blockTrustDomain {
		return nil, fmt.Errorf("%w: it does not begin with a trust domain", ErrDamaged)
	}
	key, rest := pem.Decode(rest)
	if key == nil || key.Type != blockKey && (open == nil || key.Type == blockCertificate) {
		return nil, fmt.Errorf("%w: it has no private key", ErrDamaged)
	}
	certs, err := ParseCertificates(rest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	chain, err := sortChain(certs)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	a := &Authority{chain: chain, trustDomain: string(domain.Bytes)}
	if key.Type == blockKey {
		if a.key, err = parseKey(pem.EncodeToMemory(key)); err != nil {
			return nil, err
		}
	} else {
		about := *a
		a.key = &heldKey{block: key, public: chain[0].PublicKey, open: func() (crypto.Signer, error) { return open(&about, key) }}
	}
	again, err := a.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(bytes.TrimSpace(again), bytes.TrimSpace(text)) {
		return nil, fmt.Errorf("%w: it holds more or other text than was written", ErrDamaged)
	}
	return newAuthority(a.chain, a.key, a.trustDomain)
}

// ParseCertificates reads one or more certificates and accepts nothing else.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("%s where only certificates belong", describe(block))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in PEM form")
	}
	return certs, nil
}

// EncodeCertificates returns certificates in PEM form.
func EncodeCertificates(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		// Writing to a bytes.Buffer cannot fail.
		_ = pem.Encode(&out, &pem.Block{Type: blockCertificate, Bytes: cert.Raw})
	}
	return out.Bytes()
}

// describe names a PEM block in words that no search for leaked keys finds.
func describe(block *pem.Block) string {
	if strings.HasSuffix(block.Type, blockKey) {
		return "a private key"
	}
	return fmt.Sprintf("a PEM block %q", block.Type)
}
