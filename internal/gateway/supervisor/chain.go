//go:build linux

package supervisor

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

const (
	// maxRoots bounds a trust bundle. A rotation has two.
	maxRoots = 16
	// maxChain bounds a certificate together with what leads to a root.
	maxChain = 8
)

// parseCertificates reads 1 to limit certificates in PEM form. Nothing else may
// stand between them: above all no key, which does not belong there.
func parseCertificates(what, text string, limit int) ([]*x509.Certificate, error) {
	certs, err := ca.ParseCertificates([]byte(text))
	switch {
	case err != nil:
		return nil, fmt.Errorf("parsing the %s: %w", what, err)
	case len(certs) > limit:
		return nil, fmt.Errorf("the %s holds more than %d certificates", what, limit)
	case withoutSpace(text) != withoutSpace(string(ca.EncodeCertificates(certs))):
		// The decoder skips what it does not understand.
		return nil, fmt.Errorf("the %s holds something else than certificates", what)
	}
	return certs, nil
}

func withoutSpace(text string) string { return strings.Join(strings.Fields(text), "") }

// parseBundle reads a trust bundle.
func parseBundle(text string) ([]*x509.Certificate, error) {
	roots, err := parseCertificates("trust bundle", text, maxRoots)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		if err := ca.CheckSigner(root); err != nil {
			return nil, fmt.Errorf("the trust bundle: %w", err)
		}
	}
	return roots, nil
}

// checkTime names both clocks if cert is not valid now: what is wrong with one
// that was issued a moment ago is a clock.
func checkTime(what string, cert *x509.Certificate, now time.Time) error {
	if !now.Before(cert.NotBefore) && !now.After(cert.NotAfter) {
		return nil
	}
	return api.WithHint(fmt.Errorf("%s is valid from %s to %s, this node's clock says %s", what,
		cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
		"compare the clocks of the node and of the machine that issues certificates")
}

// checkChain reports why peers that trust roots would not accept chain, as a
// server's or as a client's.
func checkChain(chain, roots []*x509.Certificate, now time.Time) error {
	for _, cert := range chain[1:] {
		if err := checkTime("an intermediate certificate", cert, now); err != nil {
			return err
		}
	}
	if _, err := ca.Verify(chain, roots, now); err != nil {
		return api.WithHint(fmt.Errorf("the new certificate does not lead to the trust bundle: %w", err),
			"both must come from one authority")
	}
	return nil
}

// issuerOf returns the fingerprint of the root that chain leads to, or "". A
// certificate that is not valid now is looked at when it was, or will be, last.
func issuerOf(chain, roots []*x509.Certificate, now time.Time) string {
	at := now
	switch leaf := chain[0]; {
	case now.After(leaf.NotAfter):
		at = leaf.NotAfter
	case now.Before(leaf.NotBefore):
		at = leaf.NotBefore
	}
	root, err := ca.Verify(chain, roots, at)
	if err != nil {
		return ""
	}
	return ca.Fingerprint(root)
}

// describeCertificate is what a status says of a certificate.
func describeCertificate(chain, roots []*x509.Certificate, revoked *ca.Revocations) api.Certificate {
	return api.Certificate{
		Serial: chain[0].SerialNumber.Text(16), NotBefore: chain[0].NotBefore, NotAfter: chain[0].NotAfter,
		Authorities: ca.Fingerprints(roots), Issuer: issuerOf(chain, roots, time.Now()),
		Revocations: revoked.Numbers(), Revoked: revoked.Check(chain[0]) != nil,
	}
}
