package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrHeld means that a private key cannot be written in the open, as it does not lie there either.
var ErrHeld = errors.New("the private key is not kept in the open")

// Opener returns the private key that block stands for in the text of an authority. Of about only
// the certificates and the trust domain are known yet.
type Opener func(about *Authority, block *pem.Block) (crypto.Signer, error)

// heldKey is a private key of which a PEM block tells how to get at it. It is opened when it signs
// for the first time: who only looks at an authority needs no key. It is safe for concurrent use.
type heldKey struct {
	block  *pem.Block
	public crypto.PublicKey
	open   func() (crypto.Signer, error)

	mu     sync.Mutex
	opened crypto.Signer
	// tried says that the authority has issued a certificate.
	tried atomic.Bool
}

// Public is part of crypto.Signer.
func (k *heldKey) Public() crypto.PublicKey { return k.public }

// Sign is part of crypto.Signer.
func (k *heldKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := k.get()
	if err != nil {
		return nil, err
	}
	return key.Sign(rand, digest, opts)
}

// SignMessage is part of crypto.MessageSigner: some keys sign only what they have hashed themselves.
func (k *heldKey) SignMessage(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	key, err := k.get()
	if err != nil {
		return nil, err
	}
	return crypto.SignMessage(key, rand, message, opts)
}

// get opens the key, unless it is open. A failure is not remembered: an agent may answer the next time.
func (k *heldKey) get() (crypto.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.opened != nil {
		return k.opened, nil
	}
	key, err := k.open()
	if err == nil && !samePublic(k.public, key.Public()) {
		err = ErrMismatch
	}
	if err != nil {
		return nil, err
	}
	k.opened = key
	return key, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	public, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b)
}

// Held returns the PEM block that stands for a's private key, nil if that lies in the open.
func (a *Authority) Held() *pem.Block {
	if held, ok := a.key.(*heldKey); ok {
		return held.block
	}
	return nil
}

// Hold returns a copy of a in whose text block stands in the place of the private key. The key stays open.
func (a *Authority) Hold(block *pem.Block) *Authority {
	b := *a
	b.key = &heldKey{block: block, public: a.key.Public(), opened: a.key}
	if held, ok := a.key.(*heldKey); ok {
		b.key = &heldKey{block: block, public: held.public, open: held.get}
	}
	return &b
}

// Unlock opens a's private key and tries it, as [New] and [Import] do. It does nothing for a key
// that lies in the open.
func (a *Authority) Unlock() error {
	held, ok := a.key.(*heldKey)
	if !ok || held.tried.Load() {
		return nil
	}
	if _, err := held.get(); err != nil {
		return err
	}
	err := a.try()
	held.tried.Store(err == nil)
	return err
}

// Open returns a as [Authority.Encode] does for one whose key lies in the open. The error is
// [ErrHeld] if a's key cannot leave where it is.
func (a *Authority) Open() ([]byte, error) {
	b := *a
	if held, ok := a.key.(*heldKey); ok {
		key, err := held.get()
		if err != nil {
			return nil, err
		}
		b.key = key
	}
	text, err := b.Encode()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHeld, err)
	}
	return text, nil
}

// KeyOf returns the private key in text, which [Authority.Open] wrote. The error is [ErrMismatch]
// unless text is about the very authority that about is.
func KeyOf(text []byte, about *Authority) (crypto.Signer, error) {
	a, err := Decode(text)
	if err != nil {
		return nil, err
	}
	if a.trustDomain != about.trustDomain || !slices.EqualFunc(a.chain, about.chain, func(x, y *x509.Certificate) bool { return bytes.Equal(x.Raw, y.Raw) }) {
		return nil, fmt.Errorf("%w: the certificates beside it are those of another authority", ErrMismatch)
	}
	return a.key, nil
}
