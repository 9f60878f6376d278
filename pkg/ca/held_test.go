package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

// A held key is opened for a signature, and for nothing else.
func TestHeldKey(t *testing.T) {
	plain := newTestAuthority(t, DefaultTrustDomain)
	block := &pem.Block{Type: "BOX", Bytes: []byte("x")}
	text := must.Get(plain.Hold(block).Encode())(t)
	if bytes.Contains(text, []byte("PRIVATE KEY")) || !bytes.Contains(text, []byte("BEGIN BOX")) {
		t.Fatalf("text %s", text)
	}
	opened := 0
	broken := errors.New("no agent answers")
	var err error = broken
	a := must.Get(DecodeHeld(text, func(about *Authority, b *pem.Block) (crypto.Signer, error) {
		opened++
		expect.Equal(t, "the block", block.Bytes, b.Bytes)
		if !about.Equal(plain) {
			t.Errorf("it is about %v", about)
		}
		return plain.key, err
	}))(t)
	expect.Equal(t, "its bundle", string(plain.Bundle()), string(a.Bundle()))
	expect.Equal(t, "its text", string(text), string(must.Get(a.Encode())(t)))
	expect.Equal(t, "opened by looking at it", 0, opened)
	if _, _, err := a.PEM(); !errors.Is(err, ErrHeld) {
		t.Errorf("its key for a Secret: %v", err)
	}
	// A failure is not for good.
	if err := a.Unlock(); !errors.Is(err, broken) {
		t.Errorf("unlocked: %v", err)
	}
	err = nil
	must.Do(t, a.Unlock())
	leaf := must.Get(a.Issue(LeafRequest{Identity: testID(DefaultTrustDomain), IPs: testIPs}))(t)
	must.Do(t, verify(t, plain.Bundle(), leaf.CertPEM))
	expect.Equal(t, "opened", 2, opened)
	expect.Equal(t, "its text in the open", string(must.Get(plain.Encode())(t)), string(must.Get(a.Open())(t)))
	must.Get(Endorse(a, newTestAuthority(t, DefaultTrustDomain), time.Now().Add(time.Hour)))(t)

	if _, err := Decode(text); !errors.Is(err, ErrDamaged) {
		t.Errorf("read by who knows nothing of held keys: %v", err)
	}
}

func TestHeldKeyOfAnother(t *testing.T) {
	a, b := newTestAuthority(t, DefaultTrustDomain), newTestAuthority(t, DefaultTrustDomain)
	text := must.Get(a.Hold(&pem.Block{Type: "BOX"}).Encode())(t)
	locked := must.Get(DecodeHeld(text, func(*Authority, *pem.Block) (crypto.Signer, error) { return b.key, nil }))(t)
	if err := locked.Unlock(); !errors.Is(err, ErrMismatch) {
		t.Errorf("unlocked: %v", err)
	}
	// The same key with other certificates is another authority.
	again := must.Get(New(Options{Key: a.key}))(t)
	if _, err := KeyOf(must.Get(again.Encode())(t), a); !errors.Is(err, ErrMismatch) {
		t.Errorf("key of the other certificate: %v", err)
	}
	must.Get(KeyOf(must.Get(a.Encode())(t), a))(t)
}

// liar signs with another key than it says.
type liar struct{ crypto.Signer }

func (l liar) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	other, err := NewKey()
	if err != nil {
		return nil, err
	}
	return other.Sign(rand, digest, opts)
}

func TestSignaturesAreVerified(t *testing.T) {
	a := newTestAuthority(t, DefaultTrustDomain)
	held := must.Get(DecodeHeld(must.Get(a.Hold(&pem.Block{Type: "BOX"}).Encode())(t), func(*Authority, *pem.Block) (crypto.Signer, error) {
		return liar{a.key.(*ecdsa.PrivateKey)}, nil
	}))(t)
	if err := held.Unlock(); err == nil {
		t.Error("a certificate with a wrong signature")
	}
	if _, err := Endorse(held, newTestAuthority(t, DefaultTrustDomain), time.Now().Add(time.Hour)); !errors.Is(err, ErrMismatch) {
		t.Errorf("a statement with a wrong signature: %v", err)
	}
}
