package authority

import (
	"errors"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Source says where a new authority comes from.
type Source struct {
	// CertPEM and KeyPEM are an authority that exists (see [ca.Import]). Both are empty
	// if one is to be made.
	CertPEM, KeyPEM []byte
	// TTL is the lifetime of one that is made; [ca.DefaultTTL] if zero.
	TTL time.Duration
}

// Validate returns what contradicts itself in s.
func (s *Source) Validate() error {
	switch {
	case (len(s.CertPEM) == 0) != (len(s.KeyPEM) == 0):
		return api.WithHint(errors.New("a certificate and its private key are needed together"), "give both --from-cert and --from-key")
	case s.exists() && s.TTL != 0:
		return api.WithHint(errors.New("the lifetime of an existing certificate cannot be chosen"), "leave out --ttl")
	}
	return nil
}

// exists reports whether s is an authority that exists.
func (s *Source) exists() bool { return len(s.CertPEM) > 0 }

// get imports the authority, or makes it. trustDomain may be empty: that of the
// certificate, or else [ca.DefaultTrustDomain].
func (s *Source) get(trustDomain string) (*ca.Authority, error) {
	if !s.exists() {
		a, err := ca.New(ca.Options{TrustDomain: trustDomain, TTL: s.TTL})
		if err != nil {
			return nil, fmt.Errorf("making the authority: %w", err)
		}
		return a, nil
	}
	a, err := ca.Import(s.CertPEM, s.KeyPEM, trustDomain)
	if err == nil {
		err = a.ValidAt(time.Now())
	}
	if errors.Is(err, ca.ErrMismatch) {
		err = api.WithHint(err, "the first certificate of --from-cert must be the one that --from-key belongs to")
	}
	if err != nil {
		return nil, fmt.Errorf("importing the authority: %w", err)
	}
	return a, nil
}
