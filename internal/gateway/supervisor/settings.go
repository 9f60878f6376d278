//go:build linux

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// applyTimeout bounds how long a worker may take to apply new settings.
const applyTimeout = 5 * time.Second

// settings are what can change while a gateway runs. The holder of the lock knows which
// settings the worker has: changes come one at a time, and a worker starts with the
// newest.
type settings struct {
	sync.Mutex
	// material is the newest, config its configuration. config is never changed
	// in place.
	material *os.File
	config   *api.Config
	// worker is the one that serves, nil between two.
	worker *worker
	// unguarded is why inbound connections cannot be steered, nil if they are.
	unguarded error
	// draining means that no worker is needed any more.
	draining bool
	// handing means that a successor has come: nothing changes until it serves or has ended.
	handing bool
}

// errHanding answers a change that comes while a gateway hands over.
var errHanding = api.WithHint(errors.New("the gateway is handing over to another one"), "try again in a moment")

// errDraining ends a worker that is started too late.
var errDraining = errors.New("the gateway is ending")

func errStarting() error {
	return api.WithHint(errors.New("the gateway is still starting"), "try again when its status is ready")
}

// change carries out a request, and returns how many open connections the worker has reset.
// After an error the settings are what they were.
func (s *supervisor) change(r control.Request) (reset int, err error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	if !s.capturing() {
		return 0, errStarting()
	}
	next := *s.settings.config
	if err := edit(&next, r); err != nil {
		return 0, err
	}
	if next.Mode == api.Strict && s.settings.unguarded != nil {
		return 0, api.WithHint(fmt.Errorf("strict mode is not possible here: inbound connections cannot be guarded: %w", s.settings.unguarded),
			"see 'missing' in the status of the gateway")
	}
	wanted := r.Existing == api.ExistingReset
	if reflect.DeepEqual(&next, s.settings.config) && !wanted {
		return 0, nil
	}
	text, err := json.Marshal(next)
	if err != nil {
		return 0, fmt.Errorf("writing the new settings: %w", err)
	}
	coverage := s.withNodeSide(next.Coverage)
	apply := func(material *os.File) error { return s.apply(next.Mode, material) }
	if r.Op == control.OpCover {
		// The programs alone know it: they tell the worker of each connection what it needs.
		apply = func(*os.File) error { return s.programs.Cover(coverage) }
	}
	before := s.forbiddenReset()
	if err := s.exchange(&next, func(m *handoff.Material) { m.Config, m.Reset = text, wanted }, apply); err != nil {
		return 0, err
	}
	s.update(func(st *api.Status) {
		st.Mode, st.Rules = next.Mode, next.Rules
		st.Capture.Coverage, st.Capture.Fingerprint, st.Capture.Named = coverage, next.Fingerprint(), next.Named
	})
	s.keep(&next)
	s.Log.Info(api.SettingsMessage, "mode", next.Mode, "rules", next.Rules, "coverage", next.Fingerprint())
	return int(s.forbiddenReset() - before), nil
}

// forbiddenReset returns how many open connections were ever reset because new settings forbade
// them.
func (s *supervisor) forbiddenReset() uint64 {
	t := s.traffic.Traffic()
	return t.Outbound.Reset + t.Inbound.Reset
}

// edit changes what r asks for. OnFailure stays as it was at the start: the programs are
// attached accordingly.
func edit(config *api.Config, r control.Request) error {
	switch {
	case !slices.Contains([]api.Existing{"", api.ExistingLeave, api.ExistingReset}, r.Existing):
		return fmt.Errorf("existing %q is neither %q nor %q", r.Existing, api.ExistingLeave, api.ExistingReset)
	case r.Op == control.OpMode:
		config.Mode = r.Mode
	case r.Op == control.OpCover:
		if r.Cover == nil {
			return errors.New("the coverage is missing")
		}
		if r.Cover.Seen != config.Named.Fingerprint() {
			return api.WithHint(errors.New("what is named of the coverage has changed meanwhile"), "try again")
		}
		config.Coverage, config.Named = r.Cover.Coverage, r.Cover.Named
	case len(r.Allow) == 0 && !r.Everyone:
		return api.WithHint(errors.New("no identity rule is given"), "to let everyone in the trust domain connect, use --everyone")
	case len(r.Allow) > 0 && r.Everyone:
		return errors.New("identity rules and everyone exclude each other: use one of them")
	default:
		config.Rules = r.Rules
	}
	if err := config.Validate(); err != nil {
		return fmt.Errorf("checking the new settings: %w", err)
	}
	return nil
}

// exchange brings changed material and its configuration into force by apply, for
// connections from then on. After an error everything is as before. Without a worker the
// next one starts with it. It is called with the lock held.
func (s *supervisor) exchange(config *api.Config, change func(*handoff.Material), apply func(*os.File) error) error {
	switch {
	case s.settings.draining:
		return errEnding
	case s.settings.handing:
		return errHanding
	}
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return err
	}
	m.Reset = false
	change(m)
	material, err := m.Seal()
	if err != nil {
		return err
	}
	if err := apply(material); err != nil {
		material.Close()
		s.Log.Error("settings could not be changed", "error", err)
		return err
	}
	s.settings.material.Close()
	s.settings.material, s.settings.config = material, config
	return nil
}

// anew has the worker begin connections to peers with handshakes: it applies what it has.
func (s *supervisor) anew() error {
	s.settings.Lock()
	defer s.settings.Unlock()
	if !s.capturing() {
		return errStarting()
	}
	return s.exchange(s.settings.config, func(*handoff.Material) {}, s.updateWorker)
}

// applyMaterial brings material into force in the mode that there is.
func (s *supervisor) applyMaterial(material *os.File) error {
	return s.apply(s.settings.config.Mode, material)
}

// apply brings mode and material into force, or leaves everything as it was.
func (s *supervisor) apply(mode api.Mode, material *os.File) error {
	return transition{
		from: s.settings.config.Mode, to: mode,
		update:  func() error { return s.updateWorker(material) },
		revert:  func() error { return s.revertWorker(s.settings.material) },
		enforce: func(mode api.Mode) error { return s.programs.SetStrict(mode == api.Strict) },
	}.run()
}

// transition is a change of settings in the two halves of a gateway: update and revert
// are about the worker, enforce is about the eBPF programs.
type transition struct {
	from, to       api.Mode
	update, revert func() error
	enforce        func(api.Mode) error
}

// run keeps to an order in which the programs are never stricter than the worker behind
// them: the worker must refuse what they send there to be refused. So the worker goes first
// to strict, and the programs go first to permissive.
func (t transition) run() error {
	var err, undone error
	switch {
	case t.from == t.to:
		return t.update()
	case t.to == api.Strict:
		if err = t.update(); err != nil {
			return err
		}
		if err = t.enforce(t.to); err != nil {
			undone = t.revert()
		}
	default:
		if err = t.enforce(t.to); err != nil {
			return err
		}
		if err = t.update(); err != nil {
			undone = t.enforce(t.from)
		}
	}
	if undone != nil {
		return fmt.Errorf("%w (and reverting it failed: %w)", err, undone)
	}
	return err
}

// updateWorker has the worker apply material. Without a worker there is nothing to do: the
// next one starts with the newest. A worker that does not answer as it should is killed, so
// that it certainly does not have the new settings.
func (s *supervisor) updateWorker(material *os.File) error {
	w := s.settings.worker
	if w == nil {
		return nil
	}
	err := w.channel.Apply(material, applyTimeout)
	switch {
	case err == nil, errors.As(err, new(*handoff.RefusedError)):
		return err
	case errors.Is(err, handoff.ErrNoWorker):
		s.settings.worker = nil
		return nil
	}
	s.settings.worker = nil
	return api.WithHint(errors.Join(err, w.kill()), "the settings are unchanged: try again")
}

// revertWorker reverts what updateWorker did, with a new worker if necessary.
func (s *supervisor) revertWorker(material *os.File) error {
	w := s.settings.worker
	err := s.updateWorker(material)
	if errors.As(err, new(*handoff.RefusedError)) {
		s.settings.worker = nil
		err = errors.Join(err, w.kill())
	}
	return err
}
