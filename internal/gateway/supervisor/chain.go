//go:build linux

package supervisor

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

const (
	// maxRoots bounds a trust bundle. A rotation has two.
	maxRoots = 16
	// maxChain bounds a certificate together with what leads to a root.
	maxChain = 8
)

// peerUsages are what a gateway's certificate is used for.
var peerUsages = [...]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}

const blockCertificate = "CERTIFICATE"

// parseCertificates reads 1 to limit certificates in PEM form. Nothing else may
// stand between them: above all no key, which does not belong there.
func parseCertificates(what, text string, limit int) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := []byte(text); len(certs) <= limit; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != blockCertificate {
			return nil, fmt.Errorf("the %s holds something else than certificates", what)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing the %s: %w", what, err)
		}
		certs = append(certs, cert)
	}
	switch {
	case len(certs) == 0:
		return nil, fmt.Errorf("the %s is not PEM", what)
	case len(certs) > limit:
		return nil, fmt.Errorf("the %s holds more than %d certificates", what, limit)
	case withoutSpace(text) != withoutSpace(string(encodeCertificates(certs))):
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
		if !root.BasicConstraintsValid || !root.IsCA || root.KeyUsage != 0 && root.KeyUsage&x509.KeyUsageCertSign == 0 {
			return nil, errors.New("the trust bundle holds a certificate that is not an authority's")
		}
	}
	return roots, nil
}

func encodeCertificates(certs []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		// Writing to a bytes.Buffer cannot fail.
		_ = pem.Encode(&out, &pem.Block{Type: blockCertificate, Bytes: cert.Raw})
	}
	return out.Bytes()
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
	for _, usage := range peerUsages {
		if _, err := chain[0].Verify(verifyOptions(chain, roots, now, usage)); err != nil {
			return api.WithHint(fmt.Errorf("the new certificate does not lead to the trust bundle: %w", err),
				"both must come from one authority")
		}
	}
	return nil
}

func verifyOptions(chain, roots []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) x509.VerifyOptions {
	o := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	}
	for _, root := range roots {
		o.Roots.AddCert(root)
	}
	for _, between := range chain[1:] {
		o.Intermediates.AddCert(between)
	}
	return o
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
	found, err := chain[0].Verify(verifyOptions(chain, roots, at, x509.ExtKeyUsageAny))
	if err != nil {
		return ""
	}
	return fingerprint(found[0][len(found[0])-1])
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

func fingerprints(certs []*x509.Certificate) []string {
	all := make([]string, len(certs))
	for i, cert := range certs {
		all[i] = fingerprint(cert)
	}
	return all
}

// describeCertificate is what a status says of a certificate.
func describeCertificate(chain, roots []*x509.Certificate) api.Certificate {
	return api.Certificate{
		Serial: chain[0].SerialNumber.Text(16), NotBefore: chain[0].NotBefore, NotAfter: chain[0].NotAfter,
		Authorities: fingerprints(roots), Issuer: issuerOf(chain, roots, time.Now()),
	}
}
