//go:build linux

package proxy

import (
	"crypto/x509"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Revoke replaces what authorities have revoked: peers with such certificates are refused from then on,
// also where sessions and connections are used again, and connections with them that are open are reset.
func (p *Proxy) Revoke(revoked *ca.Revocations) {
	if p.revoked.Swap(revoked) == nil && revoked == nil {
		return
	}
	p.carriers.drop()
	for _, c := range p.live.snapshot() {
		c.resetRevoked()
	}
}

// revocation returns why leaf, which a peer has shown, is revoked, or nil.
func (s *settings) revocation(leaf *x509.Certificate) error {
	if s.revoked == nil {
		return nil
	}
	if err := s.revoked.Load().Check(leaf); err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	return nil
}

// identify notes the certificate of c's peer, so that c ends when that is revoked. It may have been
// meanwhile.
func (c *connection) identify(leaf *x509.Certificate) {
	c.peerCertificate.Store(leaf)
	c.resetRevoked()
}

func (c *connection) resetRevoked() {
	leaf := c.peerCertificate.Load()
	if leaf == nil {
		return
	}
	if err := c.proxy.revoked.Load().Check(leaf); err != nil && c.abort(fmt.Errorf("peer's certificate: %w", err)) {
		c.counts.Reset.Add(1)
	}
}
