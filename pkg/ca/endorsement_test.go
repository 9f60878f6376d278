package ca

import (
	"crypto"
	"crypto/elliptic"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/pki"
)

func TestEndorsement(t *testing.T) {
	for name, old := range authoritiesOfAllKeys(t) {
		next, third := newTestAuthority(t, DefaultTrustDomain), newTestAuthority(t, DefaultTrustDomain)
		e := must.Get(Endorse(old, next))(t)
		if e.Partner(old) != Fingerprint(next.Root()) || e.Partner(next) != Fingerprint(old.Root()) || e.Partner(third) != "" {
			t.Errorf("%s: partners %q, %q, %q", name, e.Partner(old), e.Partner(next), e.Partner(third))
		}
		elsewhere := *old
		elsewhere.trustDomain = "other.local"
		changed := *e
		changed.New = Fingerprint(third.Root())
		if e.Partner(&elsewhere) != "" || changed.Partner(old) != "" {
			t.Errorf("%s: it holds for what was not signed", name)
		}
	}
}

// authoritiesOfAllKeys returns one for each kind of key that can be imported.
func authoritiesOfAllKeys(t *testing.T) map[string]*Authority {
	t.Helper()
	all := map[string]*Authority{"made": newTestAuthority(t, DefaultTrustDomain)}
	for name, key := range map[string]crypto.Signer{"P-521": pki.ECKey(t, elliptic.P521()), "RSA": pki.RSAKey(t, 2048), "Ed25519": pki.Ed25519Key(t)} {
		root := pki.Sign(t, name, key, nil, nil)
		a := must.Get(Import(root.CertPEM(), root.KeyPEM(t), DefaultTrustDomain))(t)
		all[name] = a
	}
	return all
}
