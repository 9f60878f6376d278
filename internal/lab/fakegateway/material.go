package fakegateway

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Material is a gateway's certificate chain, and the roots that it trusts.
type Material struct {
	Chain, Roots []*x509.Certificate
	// Key is that of the first certificate in Chain, if the gateway has made it.
	Key *ecdsa.PrivateKey
	// First is what a sidecar got with them.
	First *api.FirstSettings
}

// Renew does what a gateway does for 'ctl renew': it makes a key, has a certificate for
// it issued, and checks that.
func (c *Call) Renew() (Material, error) {
	// What a gateway asks for is nothing that it gets.
	other := identity.ID{TrustDomain: "other", Namespace: "kube-system", ServiceAccount: "root"}
	m, err := c.RenewFor(other, nil)
	if err == nil && m.Chain[0].URIs[0].String() == other.String() {
		return Material{}, errors.New("for the names of the request")
	}
	return m, err
}

// RenewFor is Renew for a gateway that asks for id and ips.
func (c *Call) RenewFor(id identity.ID, ips []netip.Addr) (Material, error) {
	key, err := ca.NewKey()
	if err != nil {
		return Material{}, err
	}
	csr, err := ca.NewRequest(key, id, ips)
	if err != nil {
		return Material{}, err
	}
	issued, err := c.Request(csr)
	if err != nil {
		return Material{}, err
	}
	m := Material{Chain: Certificates([]byte(issued.Certificate)), Roots: Certificates([]byte(issued.Bundle)), Key: key, First: issued.First}
	switch {
	case len(m.Chain) == 0 || !key.PublicKey.Equal(m.Chain[0].PublicKey):
		return Material{}, errors.New("for another key")
	case Root(m.Chain, m.Roots, time.Now()) == nil:
		return Material{}, errors.New("leads to no root")
	}
	return m, nil
}

// Certificate returns what a gateway says about m.
func (m Material) Certificate() api.Certificate {
	leaf := m.Chain[0]
	c := api.Certificate{Serial: leaf.SerialNumber.Text(16), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	for _, root := range m.Roots {
		c.Authorities = append(c.Authorities, ca.Fingerprint(root))
	}
	// As if the gateway had looked before the certificate ended.
	if root := Root(m.Chain, m.Roots, leaf.NotAfter.Add(-time.Second)); root != nil {
		c.Issuer = ca.Fingerprint(root)
	}
	return c
}

// Certificates returns those in PEM text that is known to be good, or none.
func Certificates(text []byte) []*x509.Certificate {
	certs, err := ca.ParseCertificates(text)
	if err != nil && len(text) > 0 {
		panic(err)
	}
	return certs
}

// Root returns which of roots a chain leads to at some time, nil if to none.
func Root(chain, roots []*x509.Certificate, now time.Time) *x509.Certificate {
	root, err := ca.Verify(chain, roots, now)
	if err != nil {
		return nil
	}
	return root
}
