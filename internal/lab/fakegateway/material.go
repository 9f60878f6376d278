package fakegateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Material is a gateway's certificate chain, and the roots that it trusts.
type Material struct{ Chain, Roots []*x509.Certificate }

// Renew does what a gateway does for 'ctl renew': it makes a key, has a certificate for
// it issued, and checks that.
func (c *Call) Renew() (Material, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Material{}, err
	}
	// What a gateway asks for is nothing that it gets.
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"kubernetes"}}, key)
	if err != nil {
		return Material{}, err
	}
	issued, err := c.Request(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		return Material{}, err
	}
	m := Material{Certificates([]byte(issued.Certificate)), Certificates([]byte(issued.Bundle))}
	switch {
	case len(m.Chain) == 0 || !key.PublicKey.Equal(m.Chain[0].PublicKey):
		return Material{}, errors.New("for another key")
	case len(m.Chain[0].DNSNames) != 0:
		return Material{}, errors.New("for the names of the request")
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

// Certificates returns those in PEM text that is known to be good.
func Certificates(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			panic(err)
		}
		list = append(list, cert)
	}
	return list
}

// Root returns which of roots a chain leads to at some time, nil if to none.
func Root(chain, roots []*x509.Certificate, now time.Time) *x509.Certificate {
	options := x509.VerifyOptions{CurrentTime: now, Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range roots {
		options.Roots.AddCert(root)
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	verified, err := chain[0].Verify(options)
	if err != nil {
		return nil
	}
	return verified[0][len(verified[0])-1]
}
