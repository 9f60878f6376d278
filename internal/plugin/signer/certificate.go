package signer

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// maxAnswer bounds a signer's answer, in bytes. The API server takes no longer one.
	maxAnswer = 1 << 20
	// maxChain bounds a certificate together with what leads to a root. Gateways take no more.
	maxChain = 8
)

// checkRequest returns why a request is not handed on. A signer may copy the names in it, and a gateway
// that somebody took over may ask for those of others.
func checkRequest(request *x509.CertificateRequest, about ca.LeafRequest) error {
	switch err := ca.CheckNames(request, about); {
	case err != nil:
		return err
	case len(request.URIs) != 1:
		return fmt.Errorf("%w: it is not for %s", ca.ErrBadRequest, about.Identity)
	case len(request.IPAddresses) != len(about.IPs):
		return fmt.Errorf("%w: it is not for the addresses of the pod", ca.ErrBadRequest)
	}
	return nil
}

// leaf checks what a signer has answered to request.
func (s *Signer) leaf(text string, request *x509.CertificateRequest, about ca.LeafRequest) (*ca.Leaf, error) {
	if len(text) > maxAnswer {
		return nil, fmt.Errorf("%w: its answer is longer than %d bytes", ErrUnfit, maxAnswer)
	}
	chain, err := ca.ParseCertificates([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrUnfit, terminal.Clean(err.Error()))
	}
	if len(chain) > maxChain {
		return nil, fmt.Errorf("%w: its chain has %d certificates, and gateways take %d", ErrUnfit, len(chain), maxChain)
	}
	now := time.Now()
	if lacks := lacking(chain[0], request, about, now); len(lacks) > 0 {
		return nil, api.WithHint(fmt.Errorf("%w: %s", ErrUnfit, strings.Join(lacks, "; ")), hintFor(chain[0]))
	}
	// One root that all gateways trust suffices, whatever other ones it leads to.
	if _, err := ca.Verify(chain, without(s.trust, s.New()), now); err != nil {
		root, err := ca.Verify(chain, s.trust, now)
		if err != nil {
			return nil, api.WithHint(fmt.Errorf("%w: it leads to none of the signer's roots: %s", ErrUnfit, terminal.Clean(err.Error())),
				"compare what the signer publishes (kubectl get clustertrustbundles), or the file of --trust-bundle, with what it signs with")
		}
		return nil, api.WithHint(fmt.Errorf("%w: %.16s", ErrNewRoot, ca.Fingerprint(root)),
			"'kubectl gateway rotate --ca' brings it to them, and so does 'kubectl gateway watch' by itself")
	}
	return &ca.Leaf{
		CertPEM: ca.EncodeCertificates(chain), Serial: chain[0].SerialNumber.Text(16),
		NotBefore: chain[0].NotBefore, NotAfter: chain[0].NotAfter,
	}, nil
}

// lacking names everything that keeps cert from being the certificate that was asked for.
func lacking(cert *x509.Certificate, request *x509.CertificateRequest, about ca.LeafRequest, now time.Time) []string {
	var lacks []string
	add := func(missing bool, format string, args ...any) {
		if missing {
			lacks = append(lacks, fmt.Sprintf(format, args...))
		}
	}
	public, ok := cert.PublicKey.(*ecdsa.PublicKey)
	add(!ok || !public.Equal(request.PublicKey), "it is for another key than that of the request")
	add(cert.IsCA, "it is that of an authority")
	id, err := identity.FromCertificate(cert)
	switch {
	case len(cert.URIs) == 0:
		add(true, "it lacks the URI name %s", about.Identity)
	case err != nil:
		add(true, "its URI names are not %s alone: %s", about.Identity, terminal.Clean(err.Error()))
	default:
		add(id != about.Identity, "it is for %s, and not for %s", id, about.Identity)
	}
	for _, ip := range about.IPs {
		add(!ca.NamesAddress(cert, ip), "it lacks the address %s of the pod", ip)
	}
	for _, name := range cert.IPAddresses {
		ip, _ := netip.AddrFromSlice(name)
		add(!slices.Contains(about.IPs, ip.Unmap()), "it names the address %s, which is not the pod's", ip.Unmap())
	}
	for _, usage := range ca.PeerUsages() {
		add(!slices.Contains(cert.ExtKeyUsage, usage), "it lacks the key usage %v", usage)
	}
	add(cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0, "its key usage lacks digitalSignature")
	add(now.Before(cert.NotBefore) || now.After(cert.NotAfter), "it is valid from %s to %s, and the clock of this machine says %s",
		cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	return lacks
}

// hintFor says what to do about a certificate that lacks something.
func hintFor(cert *x509.Certificate) string {
	const configure = "the signer has to issue what gateways ask for: a SPIFFE ID as the only URI name, all addresses of the pod, and both key usages"
	if len(cert.IPAddresses) == 0 {
		return configure + "; without addresses every pod of the trust domain could pass for every other one"
	}
	return configure
}
