//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/identity"
)

// maxSessions is how many peers' sessions are kept for resumption. One takes
// about two kilobytes.
const maxSessions = 1024

// tlsConfigs returns the two configurations of these settings. Ticket keys and
// the session cache belong to them, so that no session of other settings can
// be resumed. crypto/tls checks chains, validity, key usage and the dialled
// address, also when a session is resumed; verifyConnection adds the rest.
func (s *settings) tlsConfigs(certificate tls.Certificate, roots *x509.CertPool) (client, server *tls.Config) {
	common := tls.Config{
		Certificates:                []tls.Certificate{certificate},
		NextProtos:                  []string{api.ALPN},
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            s.verifyConnection,
		Time:                        s.now,
	}
	client = common.Clone()
	client.RootCAs = roots
	client.ClientSessionCache = tls.NewLRUClientSessionCache(maxSessions)
	server = common.Clone()
	server.ClientCAs = roots
	server.ClientAuth = tls.RequireAndVerifyClientCert
	return client, server
}

// clientConfig returns the configuration to dial ip with. A session is
// resumed only with the address that it was made with.
func (s *settings) clientConfig(ip netip.Addr) *tls.Config {
	config := s.client.Clone()
	config.ServerName = ip.WithZone("").String()
	return config
}

// verifyConnection refuses whatever is not a gateway of the same trust domain.
// It is called for resumed sessions as well, and therefore looks at the
// validity of the chain again.
func (s *settings) verifyConnection(state tls.ConnectionState) error {
	if state.Version != tls.VersionTLS13 {
		return errors.New("peer does not speak TLS 1.3")
	}
	if state.NegotiatedProtocol != api.ALPN {
		return fmt.Errorf("peer did not agree on protocol %s", api.ALPN)
	}
	now := s.now()
	valid := false
	for _, chain := range state.VerifiedChains {
		valid = valid || validAt(chain, now)
	}
	if !valid {
		return errors.New("peer's certificate has no chain that is valid now")
	}
	id, err := identity.FromCertificate(state.PeerCertificates[0])
	if err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	if id.TrustDomain != s.trustDomain {
		return fmt.Errorf("peer belongs to trust domain %q, not %q", id.TrustDomain, s.trustDomain)
	}
	return nil
}

func validAt(chain []*x509.Certificate, now time.Time) bool {
	for _, c := range chain {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return false
		}
	}
	return len(chain) > 0
}

// certificateNames reports whether ip is among the IP SANs of certificate.
func certificateNames(certificate *x509.Certificate, ip netip.Addr) bool {
	for _, san := range certificate.IPAddresses {
		if a, ok := netip.AddrFromSlice(san); ok && a.Unmap() == ip {
			return true
		}
	}
	return false
}

// identityOf returns the SPIFFE ID of a peer that verifyConnection accepted.
func identityOf(leaf *x509.Certificate) string {
	if len(leaf.URIs) == 0 {
		return ""
	}
	return leaf.URIs[0].String()
}
