//go:build linux

package supervisor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/journal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/version"
)

// describe reads the material and fills in the part of the status that comes from it.
func (s *supervisor) describe() error {
	m, err := handoff.ReadMaterial(s.Material)
	if err != nil {
		return err
	}
	config, err := api.ParseConfig(m.Config)
	if err != nil {
		return err
	}
	if config.Sidecar {
		if config, err = recall(config); err != nil {
			s.Log.Warn("the settings are those of the container's description", "error", api.OneLine(err.Error()))
		}
	}
	s.settings.material, s.settings.config = s.Material, config
	s.Budget.Set(&config.LogConfig, journal.Supervisor)
	s.status = api.Status{
		Version: s.Version, FIPS140: version.FIPS140(), State: api.Starting, StartedAt: time.Now(),
		Pod: config.Pod, PodIPs: config.PodIPs, Mode: config.Mode, OnFailure: config.OnFailure,
		Wire: config.Wire, Sidecar: config.Sidecar, Rules: config.Rules, MetricsAddr: config.MetricsAddr, Log: describeLog(config),
		Capture: api.Capture{
			Coverage: config.Coverage, Fingerprint: config.Fingerprint(), Named: config.Named, BlockUDP: config.BlockUDP,
		},
	}
	if !m.Certified() {
		own := identity.ID{TrustDomain: config.TrustDomain, Namespace: config.Pod.Namespace, ServiceAccount: config.Pod.ServiceAccount}
		if err := own.Validate(); err != nil {
			return fmt.Errorf("the pod's identity: %w", err)
		}
		s.status.State, s.status.Identity = api.Uncertified, own.String()
		return nil
	}
	chain, err := parseCertificates("gateway's certificate", string(m.Cert), maxChain)
	if err != nil {
		return err
	}
	roots, err := parseBundle(string(m.CA))
	if err != nil {
		return err
	}
	id, err := identity.FromCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("the gateway's certificate: %w", err)
	}
	s.status.Cert, s.status.Identity = describeCertificate(chain, roots, nil), id.String()
	return nil
}

// state is the status of a gateway, which changes while others read it.
type state struct {
	mu     sync.Mutex
	status api.Status // all but the counters
	// changed is closed and replaced whenever the status changes.
	changed chan struct{}
}

// capturing reports whether a worker has ever been ready.
func (s *state) capturing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return captures(s.status.State)
}

// captures reports whether a gateway in state has programs and counters.
func captures(state api.State) bool {
	return !slices.Contains([]api.State{api.Starting, api.Uncertified, api.Standby, api.Disabled}, state)
}

func (s *state) update(change func(*api.Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
	close(s.changed)
	s.changed = make(chan struct{})
}

// snapshot returns the status as it is and a channel that is closed when the
// state changes.
func (s *state) snapshot() (api.Status, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Capture.Programs, st.Missing = slices.Clone(st.Capture.Programs), slices.Clone(st.Missing)
	return st, s.changed
}

// await waits until the gateway is in none of states, for at most timeout or until ctx is done. A
// start that needs somebody's help is not awaited: it has a reason.
func (s *state) await(ctx context.Context, timeout time.Duration, states ...api.State) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for ctx.Err() == nil {
		st, changed := s.snapshot()
		if !slices.Contains(states, st.State) || st.State == api.Starting && st.Reason != "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// describeNow returns the status with its counters. Before the programs are loaded there are
// none.
func (s *supervisor) describeNow() (*api.Status, error) {
	st, _ := s.snapshot()
	st.Time = time.Now()
	if !captures(st.State) {
		return &st, nil
	}
	var err error
	if st.Capture.CaptureCounts, err = s.programs.Counters(); err != nil {
		return nil, fmt.Errorf("reading the counters: %w", err)
	}
	if st.Capture.OutsideNetworks, err = s.programs.Outside(); err != nil {
		return nil, err
	}
	if st.Capture.Strangers, err = s.programs.Strangers(); err != nil {
		return nil, err
	}
	st.Capture.Refused = s.refused.list()
	s.Budget.Add(&st.Log)
	s.traffic.Log.Add(&st.Log)
	st.Traffic, st.Unencrypted = s.traffic.Traffic(), s.traffic.Unencrypted()
	s.inherited.addTo(&st)
	s.withExisting(&st)
	st.Memory = s.memory.describe()
	s.oom.describe(&st)
	if st.Worker.PID != 0 && !st.Worker.Confinement.Seccomp {
		st.Missing = append(st.Missing, api.MissingConfinement+": the gateway's log says why")
	}
	return &st, nil
}
