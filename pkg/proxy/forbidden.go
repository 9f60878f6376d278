//go:build linux

package proxy

import (
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// errForbidden is the cause of a connection that ResetForbidden resets.
var errForbidden = errors.New("new settings forbid the open connection")

// grant is what an inbound connection is let in for.
type grant struct {
	// leaf is the peer's verified certificate, port the application's.
	leaf *x509.Certificate
	port uint16
}

// check returns why rules refuse the grant, regardless of their Audit.
func (g *grant) check(rules *api.Policy) error {
	id, err := identity.FromCertificate(g.leaf)
	if err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	if err := rules.Check(id.Namespace, id.ServiceAccount, g.port); err != nil {
		return fmt.Errorf("%v: %w", id, err)
	}
	return nil
}

// ResetForbidden resets the open connections that the settings in force forbid: those of peers
// that the rules refuse, and in strict mode those that are carried in plaintext.
func (p *Proxy) ResetForbidden() {
	s := p.settings.Load()
	for _, c := range p.live.snapshot() {
		if err := c.forbidden(s); err != nil && c.abort(fmt.Errorf("%w: %w", errForbidden, err)) {
			c.counts.Reset.Add(1)
		}
	}
}

// forbidden returns why s forbids c, or nil.
func (c *connection) forbidden(s *settings) error {
	if s.mode == api.Strict && c.plaintext.Load() {
		return errors.New("the mode is strict")
	}
	if g := c.grant.Load(); g != nil && !s.rules.Audit {
		return g.check(s.rules)
	}
	return nil
}
