// Package identity holds the names that certificates carry: SPIFFE IDs of the
// form spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ID is the identity of a pod.
type ID struct {
	TrustDomain    string
	Namespace      string
	ServiceAccount string
}

// lowerCase are the characters of a trust domain. A path segment has upper case, too.
const lowerCase = "abcdefghijklmnopqrstuvwxyz0123456789.-_"

// String returns the SPIFFE ID as it stands in certificates.
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount
}

// URL returns the SPIFFE ID as the URI SAN of a certificate.
func (id ID) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.ServiceAccount}
}

// Validate reports whether every part of id may stand in a SPIFFE ID.
func (id ID) Validate() error {
	if err := ValidateTrustDomain(id.TrustDomain); err != nil {
		return err
	}
	for _, part := range []struct{ what, value string }{{"namespace", id.Namespace}, {"service account", id.ServiceAccount}} {
		if err := validateSegment(part.value); err != nil {
			return fmt.Errorf("%s %q: %w", part.what, part.value, err)
		}
	}
	return nil
}

// ValidateTrustDomain checks the characters and the length (at most 255) that
// the SPIFFE ID standard, section 2.1, allows in a trust domain.
func ValidateTrustDomain(td string) error {
	if td == "" || len(td) > 255 {
		return fmt.Errorf("trust domain %q: length must be 1 to 255", td)
	}
	if strings.Trim(td, lowerCase) != "" {
		return fmt.Errorf("trust domain %q: only a-z, 0-9, dot, dash and underscore are allowed", td)
	}
	return nil
}

// validateSegment checks one path segment as section 2.2 of the standard does.
func validateSegment(s string) error {
	if s == "" || s == "." || s == ".." || len(s) > 253 {
		return errors.New("empty, relative or longer than 253 characters")
	}
	if strings.Trim(s, lowerCase+"ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return errors.New("only letters, digits, dot, dash and underscore are allowed")
	}
	return nil
}

// Parse reads a SPIFFE ID of the form that gateways use.
func Parse(text string) (ID, error) {
	rest, ok := strings.CutPrefix(text, "spiffe://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return ID{}, fmt.Errorf("identity %q is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>", text)
	}
	id := ID{TrustDomain: parts[0], Namespace: parts[2], ServiceAccount: parts[4]}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("identity %q: %w", text, err)
	}
	return id, nil
}

// FromCertificate returns the identity that cert carries. The certificate must
// have exactly one URI SAN (X.509-SVID standard, section 2).
func FromCertificate(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, fmt.Errorf("certificate has %d URI names instead of one", len(cert.URIs))
	}
	return Parse(cert.URIs[0].String())
}
