package ca

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

func TestDecodeRefuses(t *testing.T) {
	encode := func(a *Authority) []byte {
		return must.Get(a.Encode())(t)
	}
	a, b := newTestAuthority(t, DefaultTrustDomain), newTestAuthority(t, DefaultTrustDomain)
	good := encode(a)
	server := pki.Sign(t, "server", pki.ECKey(t, elliptic.P256()), nil, func(c *x509.Certificate) { c.IsCA = false })
	for name, c := range map[string]struct {
		text []byte
		want error
	}{
		"empty":                   {nil, ErrDamaged},
		"half":                    {good[:len(good)/2], ErrDamaged},
		"key without certificate": {good[:bytes.Index(good, []byte("-----BEGIN CERT"))], ErrDamaged},
		"certificate without key": {a.Bundle(), ErrDamaged},
		"last line missing":       {good[:len(good)-30], ErrDamaged},
		"text behind":             {append(slices.Clone(good), "hello\n"...), ErrDamaged},
		"two authorities":         {slices.Concat(good, encode(b)), ErrDamaged},
		"zeros":                   {make([]byte, 4096), ErrDamaged},
		"key of another":          {encode(&Authority{chain: a.chain, key: b.key, trustDomain: a.trustDomain}), ErrMismatch},
		"trust domain of another": {encode(&Authority{chain: a.chain, key: a.key, trustDomain: "other.local"}), nil},
		"certificate of a server": {encode(&Authority{chain: []*x509.Certificate{server.Cert}, key: server.Key, trustDomain: DefaultTrustDomain}), ErrNotAuthority},
	} {
		got, err := Decode(c.text)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
}

// Every single changed byte is noticed, or makes no difference.
func TestDecodeNoticesEveryByte(t *testing.T) {
	a := newTestAuthority(t, DefaultTrustDomain)
	text := must.Get(a.Encode())(t)
	for i := range text {
		for _, flip := range []byte{0x01, 0x20, 0x80} {
			changed := slices.Clone(text)
			changed[i] ^= flip
			b, err := Decode(changed)
			if err == nil && (!b.Equal(a) || !b.key.(interface {
				Equal(x crypto.PrivateKey) bool
			}).Equal(a.key)) {
				t.Fatalf("byte %d changed by %#x gives another authority", i, flip)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	a := must.Get(New(Options{}))(f)
	text := must.Get(a.Encode())(f)
	f.Add(text)
	f.Add(text[:len(text)/2])
	f.Add(a.Bundle())
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := Decode(text)
		if (b == nil) != (err != nil) {
			t.Fatalf("%v, %v", b, err)
		}
		if err != nil || b.ValidAt(time.Now()) != nil {
			return
		}
		if _, err := b.Issue(LeafRequest{Identity: testID(b.TrustDomain())}); err != nil {
			t.Fatalf("accepted an authority that does not work: %v", err)
		}
	})
}
