package signer

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Request says by which object a signer is asked.
type Request string

const (
	// RequestAuto is RequestPod where the server has that, and RequestCSR elsewhere.
	RequestAuto Request = "auto"
	// RequestPod is a PodCertificateRequest, which Kubernetes 1.37 has.
	RequestPod Request = "pod"
	// RequestCSR is a CertificateSigningRequest.
	RequestCSR Request = "csr"
)

// maxRoots bounds what a signer is trusted by. Gateways take no more.
const maxRoots = 16

// Choice says which signer issues the certificates of a cluster's gateways.
type Choice struct {
	// Name is the signer's, such as example.com/mesh.
	Name string `json:"name"`
	// TrustDomain is that of all identities.
	TrustDomain string `json:"trustDomain"`
	// Request is RequestAuto if empty.
	Request Request `json:"request,omitempty"`
	// TrustBundle are the roots in PEM form. If empty, they are those of the signer's
	// ClusterTrustBundle objects.
	TrustBundle string `json:"trustBundle,omitempty"`
}

// Validate returns what is wrong with c.
func (c *Choice) Validate() error {
	domain, path, found := strings.Cut(c.Name, "/")
	if !found || path == "" || strings.ContainsAny(path, ": \t\n") || len(c.Name) > 571 || len(validation.IsDNS1123Subdomain(domain)) > 0 {
		return api.WithHint(fmt.Errorf("%q is not the name of a signer", c.Name), "write it as in spec.signerName, like example.com/mesh")
	}
	if err := ca.ValidateTrustDomain(c.TrustDomain); err != nil {
		return err
	}
	switch c.Request {
	case "", RequestAuto, RequestPod, RequestCSR:
	default:
		return api.WithHint(fmt.Errorf("request %q is unknown", c.Request), fmt.Sprintf("use %s, %s or %s", RequestAuto, RequestPod, RequestCSR))
	}
	if c.TrustBundle == "" {
		return nil
	}
	_, err := c.roots([]string{c.TrustBundle}, "the trust bundle")
	return err
}

// roots reads the roots in PEM texts, which where names.
func (c *Choice) roots(texts []string, where string) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for _, text := range texts {
		certs, err := ca.ParseCertificates([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("reading %s of signer %s: %w", where, c.Name, err)
		}
		for _, cert := range certs {
			if err := ca.CheckSigner(cert); err != nil {
				return nil, fmt.Errorf("reading %s of signer %s: certificate of %q: %w", where, c.Name, cert.Subject, err)
			}
		}
		roots = append(roots, certs...)
	}
	roots = usable(roots)
	switch {
	case len(roots) == 0:
		return nil, api.WithHint(fmt.Errorf("reading %s of signer %s: %w", where, c.Name, ErrNoTrust),
			"find out whether the signer runs and publishes its roots, or give them with 'kubectl gateway init-ca --signer=… --trust-bundle=FILE'")
	case len(roots) > maxRoots:
		return nil, api.WithHint(fmt.Errorf("%s of signer %s has %d roots, and gateways take %d", where, c.Name, len(roots), maxRoots),
			"give those that vouch for gateways with 'kubectl gateway init-ca --signer=… --trust-bundle=FILE'")
	}
	return roots, nil
}

// ErrNoTrust means that there is no root by which a signer could be trusted.
var ErrNoTrust = errors.New("there is no root that is valid now")
