//go:build linux

package supervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

// answer serves the control socket.
func (s *supervisor) answer(ctx context.Context, r control.Request) (any, error) {
	if err := s.checkEnding(r); err != nil {
		return nil, err
	}
	switch r.Op {
	case control.OpStatus:
	case control.OpMode, control.OpAllow, control.OpCover:
		if err := s.change(r); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpCSR:
		return s.requestCertificate()
	case control.OpCertificate:
		if err := s.installCertificate(r.Issued); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpTrust:
		if err := s.installTrust(r.Trust); err != nil {
			return nil, err
		}
		r.Wait = 0
	case control.OpReset:
		if err := s.resetExisting(); err != nil {
			return nil, err
		}
	case control.OpDisable:
		return s.disable(ctx, r.DrainTimeout)
	default:
		return nil, api.WithHint(fmt.Errorf("unknown request %q", r.Op), "use the plugin and the gateway image of one release")
	}
	timeout := time.After(r.Wait)
	for {
		st, changed := s.snapshot()
		// Without a certificate a gateway does not get ready by itself.
		if st.State == api.Ready || st.State == api.Uncertified || st.State == api.Draining || r.Wait <= 0 {
			return s.withCounters(st)
		}
		select {
		case <-changed:
		case <-timeout:
			r.Wait = 0
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
