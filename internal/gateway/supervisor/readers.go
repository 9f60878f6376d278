//go:build linux

package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/existing"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// serveReaders answers those who read the status of the pod with this UID through the container
// runtime, until ctx is done. Where it cannot, the status is read by commands.
func (s *supervisor) serveReaders(ctx context.Context, podUID string) {
	if s.StatusPort == 0 {
		return
	}
	if err := s.listenForReaders(ctx, podUID); err != nil {
		s.Log.Info("the status is read by commands alone", "port", s.StatusPort, "error", err)
	}
}

func (s *supervisor) listenForReaders(ctx context.Context, podUID string) error {
	pod, _, err := bpf.PodCgroup(podUID)
	if err != nil {
		return err
	}
	// The runtime connects to 127.0.0.1 first.
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.StatusPort)
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp4", address.String())
	if err != nil {
		return err
	}
	protocol := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{api.ALPNStatus}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.shownToReaders() },
	}
	return control.ServeReaders(ctx, ln, func(ctx context.Context, conn net.Conn) (net.Conn, error) {
		local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if err := existing.Outside(local, remote, pod.Path); err != nil {
			return nil, err
		}
		secured := tls.Server(conn, protocol)
		return secured, secured.HandshakeContext(ctx)
	}, s.answer)
}

// shownToReaders returns the gateway's certificate with its chain, the roots included: a reader knows
// only their fingerprints.
func (s *supervisor) shownToReaders() (*tls.Certificate, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return nil, err
	}
	if !m.Certified() {
		return nil, errors.New("the gateway has no certificate yet")
	}
	certificate, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return nil, err
	}
	roots, err := parseBundle(string(m.CA))
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		certificate.Certificate = append(certificate.Certificate, root.Raw)
	}
	return &certificate, nil
}
