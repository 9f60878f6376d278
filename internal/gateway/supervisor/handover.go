//go:build linux

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// A gateway hands over in these steps, of which the last two cannot be undone. takeover.go has the
// successor's side.
//
//  1. It waits for the successor, and lets nobody change its settings once that has come.
//  2. It tells it the cgroups of the pod's gateways, whose connections nobody captures, and what is
//     revoked, and sends it the listener for peers: both accept there, so that no connection is lost.
//  3. It waits until the successor captures and serves, too. If the successor ends before that, this
//     gateway removes what is left of it, and goes on.
//  4. It detaches what sends new connections to it. Connections that are open or half open
//     stay until they end or the time for that is over.
//  5. It sends its totals until it ends.

const (
	// takeTimeout bounds a successor's start of a worker and of the capture.
	takeTimeout = 60 * time.Second
	// A successor gets the totals of connections that have not ended between these, doubling.
	minTotals = time.Second
	maxTotals = 30 * time.Second
	// edgesTimeout bounds the wait for the worker's edges.
	edgesTimeout = 2 * time.Second
)

// handedOverReason is what a status says of a gateway that has handed over.
const handedOverReason = "handed over to another gateway"

// handover is a gateway's readiness to hand over.
type handover struct {
	mu sync.Mutex
	// offer is the newest, nil if there was none.
	offer *handoff.Offer
	// withdrawn is closed when new connections are the successor's.
	withdrawn chan struct{}
	// lastTotals are those after the last connection has ended.
	lastTotals *handoff.Totals
	// ownEdges are the edges of the worker when it last answered.
	ownEdges *api.Edges
}

// offer waits for a successor, instead of an earlier one.
func (s *supervisor) offer(drain time.Duration) (*api.Handover, error) {
	if drain < 0 {
		return nil, fmt.Errorf("drain timeout %v is negative", drain)
	}
	if !s.capturing() {
		return nil, api.WithHint(errors.New("the gateway does not serve yet"), "try again when its status is ready")
	}
	s.settings.Lock()
	handing := s.settings.handing
	s.settings.Unlock()
	if handing {
		return nil, errHanding
	}
	offer, err := handoff.NewOffer()
	if err != nil {
		return nil, err
	}
	s.handover.mu.Lock()
	defer s.handover.mu.Unlock()
	if s.handover.offer != nil {
		s.handover.offer.Close()
	}
	s.handover.offer = offer
	s.background.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, handoff.OfferTimeout)
		defer cancel()
		to, err := offer.Accept(ctx)
		if err != nil {
			return
		}
		defer to.Close()
		if err := s.handOver(to, drain); err != nil {
			s.Log.Error("handing over failed: this gateway goes on", "error", err)
		}
	})
	return &offer.Handover, nil
}

// handOver hands over to a gateway that has proved itself.
func (s *supervisor) handOver(to *handoff.Neighbour, drain time.Duration) error {
	if !s.freeze(true) {
		_ = to.Send(&handoff.Message{Refused: errHanding.Error()})
		return errHanding
	}
	defer s.freeze(false)
	err := s.prepare(to)
	if err == nil && !s.end.handOver(drain) {
		err = errEnding
	}
	if err != nil {
		// A successor that lives must not take this gateway for dead.
		_ = to.Send(&handoff.Message{Refused: err.Error()})
		if !closed(s.end.begun) {
			err = errors.Join(err, s.programs.RemoveOthers())
		}
		return err
	}
	select {
	case <-s.withdrawn:
	case <-s.life.Done():
		return nil
	}
	s.Log.Info("handed over: connections may end", "within", drain.Seconds())
	s.sendTotals(to)
	return nil
}

// freeze makes the settings stay as they are, or ends that. It returns false if they do already, or
// the gateway is ending.
func (s *supervisor) freeze(on bool) bool {
	s.settings.Lock()
	defer s.settings.Unlock()
	if on && (s.settings.handing || s.settings.draining) {
		return false
	}
	s.settings.handing = on
	return true
}

// prepare does what can be undone.
func (s *supervisor) prepare(to *handoff.Neighbour) error {
	m, files, err := to.Receive(time.Now().Add(takeTimeout))
	handoff.CloseAll(files)
	if err != nil {
		return err
	}
	if m.Hello == nil {
		return errors.New("the successor does not introduce itself")
	}
	if err := s.checkContainer(m.Hello.Cgroup); err != nil {
		return err
	}
	revoked, err := s.revoked()
	if err != nil {
		return err
	}
	st, _ := s.snapshot()
	welcome := handoff.Welcome{Cgroups: s.programs.Gateways(), Inband: st.Listeners.Inband, Revoked: revoked}
	if err := s.programs.AddGateways(m.Hello.Inband, m.Hello.Cgroup); err != nil {
		return err
	}
	give := []*os.File{s.listeners.Peer}
	if s.metrics != nil && m.Hello.MetricsAddr == st.MetricsAddr {
		welcome.Metrics = true
		give = append(give, s.metrics)
	}
	if err := to.Send(&handoff.Message{Welcome: &welcome}, give...); err != nil {
		return err
	}
	m, files, err = to.Receive(time.Now().Add(takeTimeout))
	handoff.CloseAll(files)
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the successor has ended")
	case err != nil:
		return err
	case m.Refused != "":
		return fmt.Errorf("the successor gives up: %s", m.Refused)
	case !m.Attached:
		return errors.New("the successor does not say that it serves")
	}
	return nil
}

// revoked returns the lists of what is revoked that are in force.
func (s *supervisor) revoked() (json.RawMessage, error) {
	s.settings.Lock()
	defer s.settings.Unlock()
	m, err := handoff.ReadMaterial(s.settings.material)
	if err != nil {
		return nil, err
	}
	return m.Revoked, nil
}

// checkContainer returns an error unless id is the cgroup of another container of the pod.
func (s *supervisor) checkContainer(id uint64) error {
	entries, err := os.ReadDir(s.pod.Path)
	if err != nil {
		return fmt.Errorf("listing the pod's containers: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		c, err := bpf.OpenCgroup(filepath.Join(s.pod.Path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if c.ID == id && id != s.own.ID {
			return nil
		}
	}
	return errors.New("the successor is in no other container of the pod")
}

// retire is withdraw for a gateway that another one replaces. It is called with the lock of the
// settings held.
func (s *supervisor) retire() (*bpf.Traces, error) {
	s.update(func(st *api.Status) { st.State, st.Reason = api.Draining, handedOverReason })
	s.programs.Beside(true)
	traces, err := s.programs.Traces()
	err = errors.Join(err, s.programs.Retire())
	s.update(func(st *api.Status) { st.Capture.Programs = s.programs.Attached() })
	s.listeners.closeTCP()
	// The successor serves metrics from here on.
	go s.stopExporter()
	return traces, err
}

// sendTotals sends the totals until the gateway ends, or the successor has.
func (s *supervisor) sendTotals(to *handoff.Neighbour) {
	t, ok := s.totals(true)
	for wait := minTotals; ; wait = min(2*wait, maxTotals) {
		if ok && to.Send(&handoff.Message{Totals: t}) != nil {
			return
		}
		select {
		case <-time.After(wait):
			t, ok = s.totals(true)
		case <-s.end.over:
			if s.lastTotals != nil {
				_ = to.Send(&handoff.Message{Totals: s.lastTotals})
			}
			return
		}
	}
}

// totals returns what this gateway and those before it have counted, or false if that cannot be
// read. asks says that there is a worker to ask for its edges: without, they are what they were.
func (s *supervisor) totals(asks bool) (*handoff.Totals, bool) {
	st, err := s.describeNow()
	if err != nil {
		return nil, false
	}
	c := &st.Capture
	t := &handoff.Totals{
		Traffic: st.Traffic, Unencrypted: st.Unencrypted, Counts: c.CaptureCounts,
		Outside: c.OutsideNetworks, Strangers: c.Strangers, Refused: c.Refused,
	}
	var edges *api.Edges
	if asks {
		ctx, cancel := context.WithTimeout(s.life, edgesTimeout)
		defer cancel()
		edges, _ = handoff.ReadEdges(ctx, s.listeners.edgesPath)
	}
	s.handover.mu.Lock()
	defer s.handover.mu.Unlock()
	if edges != nil {
		s.ownEdges = edges
	}
	t.Edges = api.MergeEdges(s.inherited.edges(), s.ownEdges)
	return t, true
}
