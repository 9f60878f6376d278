//go:build linux

package supervisor

import (
	"context"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
)

// answer serves the control socket.
func (s *supervisor) answer(ctx context.Context, r control.Request) (any, error) {
	defer s.rest.Reset(restAfter)
	// A gateway on its way out cannot carry out other requests.
	if r.Op != control.OpStatus && r.Op != control.OpInherited && r.Op != control.OpDisable && closed(s.end.begun) {
		return nil, errEnding
	}
	if st, _ := s.snapshot(); st.State == api.Disabled {
		switch r.Op {
		case control.OpStatus, control.OpStarted:
		case control.OpDisable:
			return &api.DisableReport{}, nil
		default:
			return nil, errIdle
		}
	}
	var err error
	switch r.Op {
	case control.OpStatus:
		// Without a certificate a gateway does not get ready by itself.
		s.await(ctx, r.Wait, api.Starting, api.Degraded)
		err = ctx.Err()
	case control.OpStarted:
		err = s.started(ctx, r.Wait, r.PassAfter)
	case control.OpMode, control.OpAllow, control.OpCover:
		return s.changeAndReset(r)
	case control.OpLog:
		err = s.changeLog(r)
	case control.OpCSR:
		return s.requestCertificate()
	case control.OpCertificate:
		if err = s.installCertificate(r.Issued); err == nil {
			// After the first one the plugin wants to hear that the gateway is ready.
			s.await(ctx, r.Wait, api.Starting)
		}
	case control.OpTrust:
		err = s.installTrust(r.Trust)
	case control.OpAnew:
		err = s.anew()
	case control.OpReset:
		err = s.resetExisting()
	case control.OpDisable:
		return s.disable(ctx, r.DrainTimeout)
	case control.OpHandOver:
		return s.offer(r.DrainTimeout)
	case control.OpTakeOver:
		err = s.takeOver(ctx, r.Handover)
	case control.OpInherited:
		return s.inherited.edges(), nil
	default:
		err = api.WithHint(fmt.Errorf("unknown request %q", r.Op), "use the plugin and the gateway image of one release")
	}
	if err != nil {
		return nil, err
	}
	return s.describeNow()
}

// changeAndReset carries out a change, and resets what it forbids if that is wanted.
func (s *supervisor) changeAndReset(r control.Request) (*api.Status, error) {
	reset, err := s.change(r)
	if err != nil {
		return nil, err
	}
	if r.Mode == api.Strict && r.Existing == api.ExistingReset {
		n, err := s.reset()
		if err != nil {
			return nil, fmt.Errorf("the mode is strict, but plaintext connections that no gateway carries are still open: %w", err)
		}
		reset += n
	}
	st, err := s.describeNow()
	if err == nil {
		st.Reset = reset
	}
	return st, err
}
