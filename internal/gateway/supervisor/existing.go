//go:build linux

package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/existing"
)

// existingTimeout bounds a look for existing connections, and a reset of them.
const existingTimeout = 10 * time.Second

// existingConnections is what the supervisor remembers of connections that no gateway
// carries. The kernel says each time how many are open.
type existingConnections struct {
	sync.Mutex
	// wanted says that the status is to list them.
	wanted bool
	// reset counts those that were reset.
	reset int
}

// startExisting treats the connections that are older than the capture as the
// configuration says. The result is in the log and in the status: a gateway that cannot do
// this still works for new connections.
func (s *supervisor) startExisting(policy api.Existing) {
	if policy.OrDefault() == api.ExistingLeave {
		return
	}
	s.existing.Lock()
	s.existing.wanted = true
	s.existing.Unlock()
	if policy != api.ExistingReset {
		return
	}
	if _, err := s.reset(); err != nil {
		s.Log.Warn("existing connections were not reset", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "a reset of existing connections: "+api.OneLine(err.Error()))
		})
	}
}

// resetExisting resets the connections that no gateway carries, if those that follow them
// are captured.
func (s *supervisor) resetExisting() error {
	switch st, _ := s.snapshot(); st.State {
	case api.Ready, api.Degraded:
		_, err := s.reset()
		return err
	case api.Draining:
		return errors.New("the gateway is ending and captures nothing")
	}
	return api.WithHint(errors.New("the gateway is still starting"), "try again when its status is ready")
}

func (s *supervisor) reset() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), existingTimeout)
	defer cancel()
	n, err := s.finder().Reset(ctx)
	s.existing.Lock()
	s.existing.wanted = true
	s.existing.reset += n
	s.existing.Unlock()
	s.Log.Info("existing connections reset", "connections", n)
	return n, err
}

func (s *supervisor) finder() *existing.Finder {
	return &existing.Finder{Pod: s.pod, Own: s.own, Gateways: s.programs.Gateways(), Rules: s.programs}
}

// withExisting adds the connections that no gateway carries to a status of a gateway
// that captures.
func (s *supervisor) withExisting(st *api.Status) {
	s.existing.Lock()
	wanted, reset := s.existing.wanted, s.existing.reset
	s.existing.Unlock()
	if !wanted || st.State != api.Ready && st.State != api.Degraded {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), existingTimeout)
	defer cancel()
	found, err := s.finder().Find(ctx)
	if err != nil {
		st.Missing = append(st.Missing, "a view of existing connections: "+api.OneLine(err.Error()))
		return
	}
	found.Reset = reset
	st.Existing = found
}
