//go:build linux

package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/traffic"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Certificates are backdated ([ca.Backdate]), so that clocks may differ by as much. When a
// certificate is still refused for its time, the log says so: the cause is mostly a clock, or
// a renewal that did not happen, and no attack.

// alertExpired is the alert for a certificate that is expired or not valid yet (RFC 8446,
// section 6.2).
const alertExpired = tls.AlertError(45)

// validityProblem returns the certificate that err refuses for its time, and what is wrong
// with it at the time now. It returns nil if err is about something else.
func validityProblem(err error, now time.Time) (*x509.Certificate, error) {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil {
		return nil, nil
	}
	whose := "the peer's certificate"
	// crypto/x509 checks the time first: the name is not verified.
	if id, err := identity.FromCertificate(invalid.Cert); err == nil {
		whose = fmt.Sprintf("the certificate of a peer that calls itself %.200s", id.String())
	}
	return invalid.Cert, outOfTime(whose, invalid.Cert.NotBefore, invalid.Cert.NotAfter, now)
}

// outOfTime returns by how much now lies outside of a certificate's life, or nil.
func outOfTime(whose string, notBefore, notAfter, now time.Time) error {
	shown := now.UTC().Format(time.RFC3339)
	switch {
	case now.After(notAfter):
		return fmt.Errorf("%s expired %v ago by this node's clock (%s): it was not renewed, or clocks differ", whose, round(now.Sub(notAfter)), shown)
	case now.Before(notBefore):
		return fmt.Errorf("%s is not valid before %v from now by this node's clock (%s): clocks differ by more than four minutes", whose, round(notBefore.Sub(now)), shown)
	}
	return nil
}

// round keeps the message short, and never returns 0.
func round(d time.Duration) time.Duration { return max(d.Round(time.Second), time.Second) }

// validityReason chooses the reason for a certificate that err refuses for its time or because it is
// revoked, and explains it. For other errors it returns other and err.
func validityReason(err error, now time.Time, expired, notYetValid, other traffic.Reason) (traffic.Reason, error) {
	certificate, problem := validityProblem(err, now)
	switch {
	case errors.Is(err, ca.ErrRevoked):
		return traffic.Revoked, err
	case problem == nil:
		return other, err
	case now.Before(certificate.NotBefore):
		return notYetValid, problem
	}
	return expired, problem
}

// rejection returns the reason for err, the verdict of a peer on our certificate.
func rejection(err *net.OpError) traffic.Reason {
	if err.Err != nil && err.Err.Error() == alertExpired.Error() {
		return traffic.RejectedTime
	}
	return traffic.Rejected
}
