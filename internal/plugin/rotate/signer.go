package rotate

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
)

// SignerResult is how far the gateways of a cluster have come in following the roots of its signer.
type SignerResult struct {
	Signer *signer.Signer
	// Gateways counts those that run and answer, and Blocked are those that are in the way.
	Gateways int
	Blocked  []Blocked
	// Next says what Follow would do; it is empty if there is nothing to do.
	Next string
}

// Follow brings all gateways what the signer of the cluster is trusted by now, while traffic goes on:
//
//  1. trust: all gateways trust the signer's new roots as well; only then is a certificate
//     that leads to one of them given to anybody;
//  2. reissue: gateways whose certificates lead to a root that the signer has dropped get others;
//  3. drop: only then do gateways drop those roots.
//
// What all gateways were brought is noted in the trust bundle of the cluster, so that Follow can be
// interrupted and run again. overlook goes on without gateways that do not answer: they refuse
// the certificates of others until they are brought the roots. Errors are as those of Rotate.
func (r *AuthorityRotator) Follow(ctx context.Context, overlook bool) (*SignerResult, error) {
	s, err := r.openSigner(ctx)
	if err != nil {
		return nil, err
	}
	result := &SignerResult{Signer: s}
	reach := func(g goal) error {
		g.authority, g.overlook = result.Signer, overlook
		var reached AuthorityResult
		err := r.reach(ctx, g, &reached)
		result.Gateways, result.Blocked = reached.Gateways, reached.Blocked
		return err
	}
	brought := func(roots []*x509.Certificate) error {
		if err := authority.Brought(ctx, r.Location, s, roots); err != nil {
			return err
		}
		result.Signer = s.Knowing(roots)
		return nil
	}
	trusted := s.Roots()
	if err := reach(goal{doing: "using certificates that lead to the signer's roots", roots: trusted}); err != nil {
		return result, err
	}
	if len(s.New()) > 0 {
		if err := brought(slices.Concat(s.Trust(), s.Gone())); err != nil {
			return result, err
		}
		r.say("1/3 trust: %s the roots of signer %s", count(result.Gateways, "trusts", "trust"), s.Name)
	}
	if err := reach(goal{doing: "dropping roots that signer " + s.Name + " is not trusted by any more", issuers: trusted, roots: trusted}); err != nil {
		return result, err
	}
	if len(s.Gone()) > 0 {
		r.say("2/3 reissue: %s that lead to the roots of signer %s", count(result.Gateways, "has a certificate", "have certificates"), s.Name)
	}
	if err := reach(goal{doing: "ending the trust in roots that signer " + s.Name + " has dropped", issuers: trusted, roots: trusted, alone: true}); err != nil {
		return result, err
	}
	if len(s.Gone()) > 0 {
		if err := brought(s.Trust()); err != nil {
			return result, err
		}
		r.say("3/3 drop: %s the roots of signer %s alone", count(result.Gateways, "trusts", "trust"), s.Name)
	}
	return result, nil
}

// openSigner opens the signer of the cluster, which must not be its authority.
func (r *AuthorityRotator) openSigner(ctx context.Context) (*signer.Signer, error) {
	s, err := authority.OpenSigner(ctx, r.Location)
	if err == nil && s.Own() {
		return nil, api.WithHint(fmt.Errorf("signer %s is the authority of the cluster, whose key is elsewhere", s.Name),
			"who has it rotates it, with 'kubectl gateway rotate --ca', for all gateways")
	}
	return s, err
}

// FollowPlan looks what Follow would do. It changes nothing.
func (r *AuthorityRotator) FollowPlan(ctx context.Context) (*SignerResult, error) {
	s, err := r.openSigner(ctx)
	if err != nil {
		return nil, err
	}
	result := &SignerResult{Signer: s}
	goal := goal{authority: s, roots: s.Roots(), issuers: s.Roots(), alone: true}
	seen, err := r.inspect(ctx, goal)
	if err != nil {
		return nil, err
	}
	result.Gateways, result.Blocked = seen.count, seen.blocked
	switch {
	case len(s.New()) > 0:
		result.Next = "1/3 trust: give the signer's new roots to all gateways"
	case len(s.Gone()) > 0:
		result.Next = "2/3 reissue: renew certificates that lead to roots which the signer has dropped; then 3/3 drop: take those away from all gateways"
	case len(seen.open) > 0:
		result.Next = "bring the signer's roots to gateways that lack them or have others"
	}
	return result, nil
}
