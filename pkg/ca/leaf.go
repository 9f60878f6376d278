package ca

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// DefaultLeafTTL is how long a pod's certificate is valid when nothing else is
// asked for: 30 days outlast most pods between two rollouts, and keep a stolen
// key of which nobody knows from being of use for long.
const DefaultLeafTTL = 30 * 24 * time.Hour

// LeafRequest says what certificate a pod is to get.
type LeafRequest struct {
	// Identity must belong to the authority's trust domain.
	Identity identity.ID
	// IPs are all addresses of the pod.
	IPs []netip.Addr
	// Pod is the pod itself, the zero value for a certificate of no pod. Of it an [Authority] asks for the
	// UID alone.
	Pod api.PodRef
	// TTL counts from Now; [DefaultLeafTTL] if zero. The certificate ends with the
	// authority at the latest.
	TTL time.Duration
	// Now is the present if zero.
	Now time.Time
}

// Leaf is a pod's certificate with its key.
type Leaf struct {
	// CertPEM is the certificate, followed by the intermediates that lead to
	// the trust bundle if the authority is not a root itself.
	CertPEM []byte
	// KeyPEM is the private key in PKCS #8 form.
	KeyPEM []byte `json:"-"`
	// Serial is in lower-case hexadecimal.
	Serial              string
	NotBefore, NotAfter time.Time
}

// String names l without its key.
func (l Leaf) String() string {
	return fmt.Sprintf("certificate %s valid until %s", l.Serial, l.NotAfter.Format(time.RFC3339))
}

// GoString keeps the key out of the output of %#v.
func (l Leaf) GoString() string { return l.String() }

// Issue makes a key (ECDSA P-256) and a certificate for it: the identity as
// the only URI name, the addresses as IP names, the pod's UID as the serial number
// in the subject, by which it can be revoked, for servers and clients alike,
// valid from [Backdate] ago. It refuses identities of another trust domain,
// addresses that are nobody's own ([identity.CheckAddress]),
// and whatever a verifier would not accept from this authority.
func (a *Authority) Issue(req LeafRequest) (*Leaf, error) {
	key, err := NewKey()
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate for %s: %w", req.Identity, err)
	}
	leaf, err := a.certify(req, &key.PublicKey)
	if err == nil {
		leaf.KeyPEM, err = EncodeKey(key)
	}
	return leaf, err
}

// certify makes the certificate that Issue and Sign promise for a public key.
func (a *Authority) certify(req LeafRequest, public *ecdsa.PublicKey) (_ *Leaf, err error) {
	if err := req.Identity.Validate(); err != nil {
		return nil, fmt.Errorf("issuing a certificate: %w", err)
	}
	if req.Identity.TrustDomain != a.trustDomain {
		return nil, api.WithHint(
			fmt.Errorf("issuing a certificate for %s: the authority's trust domain is %q", req.Identity, a.trustDomain),
			"an authority serves one trust domain; 'kubectl gateway init-ca --force --trust-domain' replaces it")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("issuing a certificate for %s: %w", req.Identity, err)
		}
	}()
	now, ttl := cmp.Or(req.Now, time.Now()), cmp.Or(req.TTL, DefaultLeafTTL)
	if ttl < 0 {
		return nil, fmt.Errorf("lifetime %v is negative", ttl)
	}
	if err := a.ValidAt(now); err != nil {
		return nil, err
	}
	notAfter := now.Add(ttl)
	if end := a.NotAfter(); end.Before(notAfter) {
		notAfter = end
	}
	ips := make([]net.IP, 0, len(req.IPs))
	for _, ip := range req.IPs {
		if err := identity.CheckAddress(ip); err != nil {
			return nil, err
		}
		ips = append(ips, ip.Unmap().AsSlice())
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{SerialNumber: req.Pod.UID},
		NotBefore:             now.Add(-Backdate).UTC(),
		NotAfter:              notAfter.UTC(),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           PeerUsages(),
		URIs:                  []*url.URL{req.Identity.URL()},
		IPAddresses:           ips,
	}
	cert, err := sign(template, a.chain[0], public, a.key)
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{cert}, a.chain[:len(a.chain)-1]...)
	// A leaf that fails here would make every handshake of its pod fail.
	if _, err := Verify(chain, []*x509.Certificate{a.Root()}, now); err != nil {
		return nil, fmt.Errorf("%w: what it signs does not verify: %w", ErrNotAuthority, err)
	}
	return &Leaf{
		CertPEM:   EncodeCertificates(chain),
		Serial:    serial.Text(16),
		NotBefore: cert.NotBefore,
		NotAfter:  cert.NotAfter,
	}, nil
}

// podUID returns the UID of the pod that a leaf was issued for, empty if it does not say.
func podUID(leaf *x509.Certificate) string { return leaf.Subject.SerialNumber }

// PeerUsages returns what a gateway's certificate is for: servers and clients.
func PeerUsages() []x509.ExtKeyUsage {
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

// NamesAddress reports whether ip is among the addresses in cert.
func NamesAddress(cert *x509.Certificate, ip netip.Addr) bool {
	return slices.ContainsFunc(cert.IPAddresses, func(name net.IP) bool {
		a, ok := netip.AddrFromSlice(name)
		return ok && a.Unmap() == ip
	})
}
