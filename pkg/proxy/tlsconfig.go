//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// maxSessions is how many peers' sessions are kept for resumption. One takes
// about two kilobytes.
const maxSessions = 1024

// maxClients is how many peers' configurations are kept, of about half a
// kilobyte each.
const maxClients = 1024

// tlsConfigs makes the configurations of these settings. Ticket keys and session caches belong
// to them, so that no session of other settings can be resumed, nor one with a Service where a
// certain pod is dialled. crypto/tls checks chains, validity, key usage and the dialled
// address, also when a session is resumed; verifyConnection adds the rest.
func (s *settings) tlsConfigs(certificate tls.Certificate) {
	common := tls.Config{
		Certificates:                []tls.Certificate{certificate},
		NextProtos:                  []string{api.ALPN},
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            s.verifyConnection,
		Time:                        s.now,
	}
	s.client = common.Clone()
	s.client.RootCAs = s.roots
	s.client.ClientSessionCache = tls.NewLRUClientSessionCache(maxSessions)
	s.clients = make(map[netip.Addr]*tls.Config)
	s.service = common.Clone()
	// crypto/tls verifies a chain only together with a name, and that of the pod behind a
	// Service is unknown. verifyService does all of it. Sessions are kept by the dialled
	// address.
	s.service.InsecureSkipVerify = true
	s.service.VerifyConnection = s.verifyService
	s.service.ClientSessionCache = tls.NewLRUClientSessionCache(maxSessions)
	s.server = common.Clone()
	s.server.ClientCAs = s.roots
	s.server.ClientAuth = tls.RequireAndVerifyClientCert
}

// clientConfig returns the configuration to dial ip with. A session is
// resumed only with the address that it was made with.
func (s *settings) clientConfig(ip netip.Addr) *tls.Config {
	ip = ip.WithZone("")
	s.mu.Lock()
	defer s.mu.Unlock()
	if config := s.clients[ip]; config != nil {
		return config
	}
	if len(s.clients) >= maxClients {
		clear(s.clients)
	}
	config := s.client.Clone()
	config.ServerName = ip.String()
	s.clients[ip] = config
	return config
}

// verifyConnection refuses peers that are not gateways of the same trust domain. It is called
// for resumed sessions as well, and therefore checks the validity of the chain again.
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
		notBefore, notAfter := ca.Validity(chain)
		valid = valid || !now.Before(notBefore) && !now.After(notAfter)
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

// verifyService is verifyConnection for a peer whose address is unknown: it also checks chain,
// validity and key usage, for resumed sessions as well.
func (s *settings) verifyService(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("peer has no certificate")
	}
	options := x509.VerifyOptions{
		Roots:         s.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   s.now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	var err error
	if state.VerifiedChains, err = state.PeerCertificates[0].Verify(options); err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	return s.verifyConnection(state)
}

// describeTLS adds the peer, whom verifyConnection accepted, and the TLS parameters to the
// log line.
func (c *connection) describeTLS() {
	state := c.tls.ConnectionState()
	c.line.Peer = state.PeerCertificates[0].URIs[0].String()
	c.line.TLS = api.TLS{
		Version: tls.VersionName(state.Version),
		Cipher:  tls.CipherSuiteName(state.CipherSuite),
		Resumed: state.DidResume,
		Local:   addrPort(c.wire.LocalAddr()),
		Remote:  addrPort(c.wire.RemoteAddr()),
	}
	if state.CurveID != 0 {
		c.line.TLS.KeyExchange = state.CurveID.String()
	}
}
