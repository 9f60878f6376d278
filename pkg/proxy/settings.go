//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// settings is what can change while the proxy runs. Except for caches it is immutable: a
// connection reads the current one once, at its start, and keeps it.
type settings struct {
	mode        api.Mode
	trustDomain string
	wire        api.Wire
	// rules say which peers may connect.
	rules               *api.Policy
	podIPs              []netip.Addr
	notBefore, notAfter time.Time
	// client, with an address added, is for the gateway of the pod at that address; service
	// is for any gateway of the trust domain; server and inbandServer are for accepted
	// connections.
	client, service, server, inbandServer *tls.Config
	// clients are copies of client with their addresses, made as they are needed.
	mu      sync.Mutex
	clients map[netip.Addr]*tls.Config
	// backends are pods behind Services.
	backends *backendTable
	// roots is the trust bundle.
	roots *x509.CertPool
	now   func() time.Time
	// revoked is that of the proxy, nil where there is none.
	revoked *atomic.Pointer[ca.Revocations]
	// loopbackPods is Options.loopbackPods.
	loopbackPods bool
}

func newSettings(config *api.Config, certificate tls.Certificate, roots *x509.CertPool, now func() time.Time) (*settings, error) {
	if config == nil || roots == nil {
		return nil, errors.New("configuration or trust bundle is missing")
	}
	if certificate.PrivateKey == nil || len(certificate.Certificate) == 0 {
		return nil, errors.New("certificate or key is missing")
	}
	if certificate.Leaf == nil {
		leaf, err := x509.ParseCertificate(certificate.Certificate[0])
		if err != nil {
			return nil, fmt.Errorf("reading the certificate: %w", err)
		}
		certificate.Leaf = leaf
	}
	id, err := identity.FromCertificate(certificate.Leaf)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	if id.TrustDomain != config.TrustDomain {
		return nil, fmt.Errorf("the certificate belongs to trust domain %q, the configuration to %q", id.TrustDomain, config.TrustDomain)
	}
	if config.Mode != api.Permissive && config.Mode != api.Strict {
		return nil, fmt.Errorf("mode %q is unknown", config.Mode)
	}
	rules, err := config.Rules.Parse()
	if err != nil {
		return nil, fmt.Errorf("reading the identity rules: %w", err)
	}
	wire := config.Wire.OrDefault()
	if wire != api.WireAuto && wire != api.WirePort && wire != api.WireInband {
		return nil, fmt.Errorf("wire %q is unknown", wire)
	}
	s := &settings{
		mode:        config.Mode,
		trustDomain: config.TrustDomain,
		wire:        wire,
		rules:       rules,
		podIPs:      slices.Clone(config.PodIPs),
		notBefore:   certificate.Leaf.NotBefore,
		notAfter:    certificate.Leaf.NotAfter,
		backends:    newBackendTable(now),
		roots:       roots,
		now:         now,
	}
	for _, ip := range config.PodIPs {
		if !ca.NamesAddress(certificate.Leaf, ip) {
			return nil, fmt.Errorf("the certificate does not name the pod's address %v", ip)
		}
	}
	s.tlsConfigs(certificate)
	return s, nil
}

// wireTo returns how connections are carried to a pod, or to a Service or a node port:
// api.WirePort, api.WireInband, or api.WireNone if the configured wire does not lead there.
func (s *settings) wireTo(pod bool) string {
	switch {
	case s.wire == api.WireInband, s.wire == api.WireAuto && !pod:
		return api.WireInband
	case pod:
		return api.WirePort
	}
	return api.WireNone
}

// ownPod reports whether ip is an address of the gateway's own pod.
func (s *settings) ownPod(ip netip.Addr) bool { return slices.Contains(s.podIPs, ip) }

// certificateProblem returns why the gateway's own certificate cannot be used now, as a reason
// and an error with the details. The error is nil if it can.
func (s *settings) certificateProblem() (reason traffic.Reason, err error) {
	now := s.now()
	reason = traffic.CertificateNotYetValid
	if now.After(s.notAfter) {
		reason = traffic.CertificateExpired
	}
	return reason, outOfTime("the gateway's own certificate", s.notBefore, s.notAfter, now)
}

// clientAddress returns the address of a captured connection's client for the header, and the one that the
// application has bound if the certificate does not name that. The eBPF programs bind captured sockets
// to the pod's address, unless the application has bound them: to a port alone, and remote is a loopback address, or to
// an address that the pod's status does not name.
func (s *settings) clientAddress(remote, destination netip.AddrPort) (client, bound netip.AddrPort, err error) {
	family := func(ip netip.Addr) bool { return ip.Is4() == destination.Addr().Is4() }
	if s.ownPod(remote.Addr()) && family(remote.Addr()) {
		return remote, netip.AddrPort{}, nil
	}
	i := slices.IndexFunc(s.podIPs, family)
	if i < 0 {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("the pod has no address of the family of %v", destination.Addr())
	}
	// A link-local address of IPv6 means nothing without its interface.
	scoped := remote.Addr().Is6() && remote.Addr().IsLinkLocalUnicast()
	if family(remote.Addr()) && !scoped && (!remote.Addr().IsLoopback() || s.loopbackPods) {
		bound = remote
	}
	return netip.AddrPortFrom(s.podIPs[i], remote.Port()), bound, nil
}
