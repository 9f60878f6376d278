//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unique"

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
	// In band the connection is the application's own, and api.ALPNFrames means frames alone.
	reusing := []string{api.ALPNFrames, api.ALPNReuse, api.ALPN}
	common := tls.Config{
		Certificates:                []tls.Certificate{certificate},
		NextProtos:                  []string{api.ALPNFrames, api.ALPN},
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            s.verifyConnection,
		Time:                        s.now,
	}
	s.client = common.Clone()
	s.client.RootCAs = s.roots
	if s.wireTo(true) == api.WirePort {
		s.client.NextProtos = reusing
	}
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
	s.inbandServer = s.server.Clone()
	s.server.NextProtos = reusing
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
	if state.NegotiatedProtocol != api.ALPN && !reuses(state) {
		return fmt.Errorf("peer did not agree on protocol %s", api.ALPN)
	}
	return s.verifyPeer(state.PeerCertificates[0], state.VerifiedChains)
}

// verifyPeer is the part of verifyConnection that may have another outcome later.
func (s *settings) verifyPeer(leaf *x509.Certificate, chains [][]*x509.Certificate) error {
	if !s.validNow(chains) {
		return errNoValidChain
	}
	if err := s.revocation(leaf); err != nil {
		return err
	}
	if err := identity.CheckAddresses(leaf); err != nil && !s.loopbackPods {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	id, err := identity.FromCertificate(leaf)
	if err != nil {
		return fmt.Errorf("peer's certificate: %w", err)
	}
	if id.TrustDomain != s.trustDomain {
		return fmt.Errorf("peer belongs to trust domain %q, not %q", id.TrustDomain, s.trustDomain)
	}
	return nil
}

// reuses reports whether a TLS connection to a peer port carries several connections of applications.
func reuses(state tls.ConnectionState) bool {
	return state.NegotiatedProtocol == api.ALPNReuse || state.NegotiatedProtocol == api.ALPNFrames
}

// validNow reports whether one of chains is valid.
func (s *settings) validNow(chains [][]*x509.Certificate) bool {
	now := s.now()
	return slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool {
		notBefore, notAfter := ca.Validity(chain)
		return !now.Before(notBefore) && !now.After(notAfter)
	})
}

// chains verifies what a peer has shown for a use.
func (s *settings) chains(shown []*x509.Certificate, usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	if len(shown) == 0 {
		return nil, errors.New("peer has no certificate")
	}
	options := x509.VerifyOptions{
		Roots:         s.roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   s.now(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, c := range shown[1:] {
		options.Intermediates.AddCert(c)
	}
	chains, err := shown[0].Verify(options)
	if err != nil {
		return nil, fmt.Errorf("peer's certificate: %w", err)
	}
	return chains, nil
}

// verifyService is verifyConnection for a peer whose address is unknown: it also checks chain,
// validity and key usage, for resumed sessions as well.
func (s *settings) verifyService(state tls.ConnectionState) error {
	var err error
	if state.VerifiedChains, err = s.chains(state.PeerCertificates, x509.ExtKeyUsageServerAuth); err != nil {
		return err
	}
	return s.verifyConnection(state)
}

// describeTLS adds the peer, whom verifyConnection accepted, and the TLS parameters to the
// log line.
func (c *connection) describeTLS() {
	state := c.tls.ConnectionState()
	// Most connections are with few peers.
	c.line.Peer = unique.Make(state.PeerCertificates[0].URIs[0].String()).Value()
	c.identify(state.PeerCertificates[0])
	c.line.session = session{cipher: tls.CipherSuiteName(state.CipherSuite), curve: state.CurveID, resumed: state.DidResume}
}
