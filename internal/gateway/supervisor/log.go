//go:build linux

package supervisor

import (
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
)

// changeLog changes which connections are logged, and how much. The workers find it in the memory
// that they share, so there is nothing to exchange.
func (s *supervisor) changeLog(r control.Request) error {
	s.settings.Lock()
	defer s.settings.Unlock()
	if !s.capturing() {
		return errStarting()
	}
	next := *s.settings.config
	// Empty, which is a default elsewhere, would change by mistake.
	if next.Log = r.Log; r.Log == "" {
		return errors.New("the level is missing")
	}
	if r.LogLimit != 0 {
		next.LogLimit = r.LogLimit
	}
	if err := next.Validate(); err != nil {
		return fmt.Errorf("checking the new settings: %w", err)
	}
	s.settings.config = &next
	s.applyLog()
	s.update(func(st *api.Status) { st.Log = describeLog(&next) })
	s.keep(&next)
	s.Log.Info(api.SettingsMessage, "log", next.Log, "logLimit", next.LimitOrDefault())
	return nil
}

// boundLog is for a supervisor whose workers have got their memory.
func (s *supervisor) boundLog() {
	s.settings.Lock()
	defer s.settings.Unlock()
	s.applyLog()
}

// applyLog is called with the lock of the settings held.
func (s *supervisor) applyLog() {
	log := &s.settings.config.LogConfig
	s.Budget.Set(log, journal.Supervisor)
	s.traffic.Log.Set(log, journal.Worker)
}

func describeLog(c *api.Config) api.LogStatus {
	return api.LogStatus{Level: c.Log.OrDefault(), Limit: c.LimitOrDefault(), Total: c.LogTotal}
}
