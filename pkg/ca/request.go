package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// maxRequest bounds a request in PEM form, in bytes. One for a P-256 key without
// names has about 400.
const maxRequest = 16 << 10

// subjectAltName is the extension with the names of a request (RFC 5280, section 4.2.1.6).
var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// NewRequest makes a PKCS #10 request in PEM form for a key. The names in it are
// for people to read: [Authority.Sign] ignores them.
func NewRequest(key crypto.Signer, id identity.ID, ips []netip.Addr) ([]byte, error) {
	template := &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return EncodeRequest(der), nil
}

// Sign makes the certificate that [Authority.Issue] would make, for a key that
// somebody else holds: KeyPEM of the result is empty. csrPEM is a PKCS #10
// request in PEM form. Its signature must show that whoever made it has the key,
// which must be ECDSA P-256. Everything else in it is ignored: req alone says
// whose certificate it becomes. The error is [ErrBadRequest] if the request is
// what is wrong.
func (a *Authority) Sign(csrPEM []byte, req LeafRequest) (*Leaf, error) {
	request, err := ParseRequest(csrPEM)
	if err != nil {
		return nil, api.WithHint(fmt.Errorf("reading the certificate request: %w", err),
			"use the plugin and the gateway image of one release")
	}
	return a.certify(req, request.PublicKey.(*ecdsa.PublicKey))
}

// ParseRequest reads a PKCS #10 request in PEM form for an ECDSA P-256 key, whose private key its
// maker has proved to have. The error is [ErrBadRequest], and words of the request may be in it.
func ParseRequest(text []byte) (*x509.CertificateRequest, error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("%w: it is larger than %d bytes", ErrBadRequest, maxRequest)
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("%w: it is not in PEM form", ErrBadRequest)
	case block.Type != blockRequest:
		return nil, fmt.Errorf("%w: %s where a request belongs", ErrBadRequest, describe(block))
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, fmt.Errorf("%w: something follows it", ErrBadRequest)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	public, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, ErrKeyType)
	}
	switch request.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	default:
		// The library still lets SHA-1 pass in requests.
		return nil, fmt.Errorf("%w: it is signed with %v", ErrBadRequest, request.SignatureAlgorithm)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: whoever made it does not have its key: %w", ErrBadRequest, err)
	}
	return request, nil
}

// EncodeRequest returns a PKCS #10 request in PEM form.
func EncodeRequest(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockRequest, Bytes: der})
}

// extensionRequest is the attribute with the extensions of a request (RFC 2986, RFC 2985 section 5.4.2).
var extensionRequest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14}

// hasMore reports whether a request has something that the library leaves out, and a signer may heed: names of another kind
// than it knows, or attributes.
func hasMore(request *x509.CertificateRequest) bool {
	var info struct {
		Version            int
		Subject, PublicKey asn1.RawValue
		Attributes         []struct {
			ID     asn1.ObjectIdentifier
			Values asn1.RawValue
		} `asn1:"tag:0"`
	}
	if rest, err := asn1.Unmarshal(request.RawTBSCertificateRequest, &info); err != nil || len(rest) > 0 {
		return true
	}
	for _, attribute := range info.Attributes {
		if !attribute.ID.Equal(extensionRequest) {
			return true
		}
	}
	known := len(request.URIs) + len(request.IPAddresses)
	for _, extension := range request.Extensions {
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(extension.Value, &names); err != nil || len(rest) > 0 {
			return true
		}
		known -= len(names)
	}
	return known != 0
}

// CheckNames returns [ErrBadRequest] if request asks for more than the identity and the addresses of about.
// It may ask for less.
func CheckNames(request *x509.CertificateRequest, about LeafRequest) error {
	if hasMore(request) || len(request.Subject.Names) > 0 || len(request.DNSNames) > 0 || len(request.EmailAddresses) > 0 ||
		slices.ContainsFunc(request.Extensions, func(e pkix.Extension) bool { return !e.Id.Equal(subjectAltName) }) {
		return fmt.Errorf("%w: it asks for more than an identity and addresses", ErrBadRequest)
	}
	for _, name := range request.URIs {
		if name.String() != about.Identity.String() {
			return fmt.Errorf("%w: it is not for %s", ErrBadRequest, about.Identity)
		}
	}
	for _, name := range request.IPAddresses {
		if ip, _ := netip.AddrFromSlice(name); !slices.Contains(about.IPs, ip.Unmap()) {
			return fmt.Errorf("%w: it is not for the addresses of the pod", ErrBadRequest)
		}
	}
	return nil
}
