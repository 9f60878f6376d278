package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// minRSABits is the least size of an RSA key that NIST SP 800-131A allows for
// signatures.
const minRSABits = 2048

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

// EncodeKey returns a private key in PKCS #8 and PEM form. Errors never quote it.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, errors.New("the private key cannot be encoded")
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der}), nil
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
