//go:build linux

package supervisor

import (
	"context"
	"errors"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

func (s *supervisor) disable(context.Context, time.Duration) (*api.DisableReport, error) {
	return nil, errors.New("gateways cannot be disabled yet")
}
