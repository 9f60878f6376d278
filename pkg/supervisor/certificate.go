//go:build linux

package supervisor

import (
	"errors"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

func (s *supervisor) requestCertificate() (*api.CertificateRequest, error) {
	return nil, errors.New("certificates cannot be renewed yet")
}

func (s *supervisor) takeCertificate(*api.IssuedCertificate) error {
	return errors.New("certificates cannot be renewed yet")
}

func (s *supervisor) takeTrust(*api.TrustBundle) error {
	return errors.New("trust cannot be changed yet")
}
