package rotate

import (
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// goal is what all gateways are to be brought to.
type goal struct {
	// doing is what comes after that, in words.
	doing string
	// authority signs, and its roots are what gateways are given.
	authority *ca.Authority
	// known are the roots that a certificate may lead to; others are none of the
	// rotation's business. issuers are those of them that it may stay with.
	known, issuers []string
	// roots are what a gateway must trust, and nothing else if alone is set.
	roots []string
	alone bool
}

func goalTrust(rotation *authority.Rotation) goal {
	both := rotation.Both()
	return goal{doing: "signing with the new authority", authority: both, known: both.Roots(), issuers: both.Roots(), roots: both.Roots()}
}

func goalReissue(rotation *authority.Rotation) goal {
	g := goalTrust(rotation)
	g.doing = "dropping the old root, which is in use"
	g.issuers, g.roots = g.issuers[:1], g.roots[:1]
	return g
}

func goalDrop(rotation *authority.Rotation) goal {
	g := goalReissue(rotation)
	g.doing = "putting the old authority away"
	g.authority, g.alone = rotation.Current(), true
	return g
}

// issued reports whether a gateway may keep its certificate.
func (g *goal) issued(status *api.Status) bool {
	return slices.Contains(g.issuers, status.Cert.Issuer) && status.Cert.NotAfter.After(time.Now())
}

func (g *goal) reached(status *api.Status) bool {
	trusted := status.Cert.Authorities
	return g.issued(status) && holdsAll(trusted, g.roots) && (!g.alone || holdsAll(g.roots, trusted))
}

func holdsAll(list, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(list, w) })
}
