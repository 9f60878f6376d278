//go:build linux

package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// A gateway takes over in these steps; handover.go has the predecessor's side.
//
//  1. In standby it has its programs and its own listeners, and waits to be told. It is attached to
//     sockets of the pod, but captures nothing.
//  2. It meets its predecessor, and gets the listener for peers and what is revoked.
//  3. It starts a worker, and attaches everything beside the predecessor's programs, which come first.
//     Until then this gateway has no connection, and an error ends it.
//  4. It tells the predecessor, which withdraws. From here on this is the pod's gateway, whatever
//     becomes of the predecessor, and accepts connections of peers.
//
// A predecessor that has ended leaves the port for peers: then this gateway starts like any other.

const (
	// standbyTimeout is how long a gateway waits to be told to take over.
	standbyTimeout = 10 * time.Minute
	// standbyInterval is how often it looks whether its predecessor lives.
	standbyInterval = time.Second
	// withdrawTimeout bounds the wait for a predecessor's answer. Both gateways serve meanwhile.
	withdrawTimeout = 30 * time.Second
)

// predecessor is the gateway that this one takes over from.
type predecessor struct {
	*handoff.Neighbour
	// peer is its listener for peers, metrics that for metrics if both have one address for it.
	peer, metrics *os.File
	// err is why it cannot be taken over from.
	err error
}

// takeOver has a gateway in standby take over, and waits until it serves.
func (s *supervisor) takeOver(ctx context.Context, h *api.Handover) error {
	if h == nil || h.Socket == "" || len(h.Token) == 0 {
		return errors.New("what the other gateway said is missing")
	}
	if st, _ := s.snapshot(); st.State != api.Standby {
		return fmt.Errorf("the gateway is %s: only one in standby takes over", st.State)
	}
	p := s.meet(h)
	select {
	case s.takeovers <- p:
	case <-s.end.over:
		p.close()
	case <-s.life.Done():
		p.close()
	}
	s.awaitServing(ctx)
	if closed(s.end.over) {
		return cmp.Or(s.end.err, p.err, errors.New("the gateway has ended"))
	}
	return ctx.Err()
}

// awaitServing waits until the gateway serves, or has ended, or ctx is done.
func (s *supervisor) awaitServing(ctx context.Context) {
	select {
	case <-s.serving:
	case <-s.end.over:
	case <-ctx.Done():
		// The end of the gateway cancels all requests, after over is closed.
	}
}

// meet meets the gateway that hands over.
func (s *supervisor) meet(h *api.Handover) *predecessor {
	n, err := handoff.Meet(s.life, h)
	if err != nil {
		return &predecessor{err: err}
	}
	p := &predecessor{Neighbour: n}
	if p.err = s.greet(p); p.err != nil {
		p.close()
	}
	return p
}

// greet introduces the two gateways to each other.
func (s *supervisor) greet(p *predecessor) error {
	st, _ := s.snapshot()
	if err := p.Send(&handoff.Message{Hello: &handoff.Hello{
		Cgroup: s.own.ID, Inband: st.Listeners.Inband, MetricsAddr: st.MetricsAddr,
	}}); err != nil {
		return err
	}
	m, files, err := p.Receive(time.Now().Add(withdrawTimeout))
	if err != nil {
		return fmt.Errorf("waiting for the other gateway: %w", err)
	}
	if m.Welcome == nil || len(files) == 0 || m.Welcome.Metrics != (len(files) == 2) {
		handoff.CloseAll(files)
		return fmt.Errorf("the other gateway does not hand over: %s", cmp.Or(m.Refused, "it answers something else"))
	}
	if p.peer = files[0]; len(files) == 2 {
		p.metrics = files[1]
	}
	if err := s.inheritRevocations(m.Welcome.Revoked); err != nil {
		return err
	}
	return s.programs.AddGateways(m.Welcome.Inband, m.Welcome.Cgroups...)
}

func (p *predecessor) close() {
	if p.Neighbour != nil {
		p.Neighbour.Close()
	}
	p.metrics.Close()
}

// standBy waits until the gateway is told to take over, or its predecessor has ended: then there is
// none. It returns false if the gateway is to end before that.
func (s *supervisor) standBy(ctx context.Context) (bool, error) {
	s.update(func(st *api.Status) { st.State = api.Standby })
	s.Log.Info("standing by", "for", s.settings.config.Replaces)
	timeout := time.NewTimer(standbyTimeout)
	defer timeout.Stop()
	ticker := time.NewTicker(standbyInterval)
	defer ticker.Stop()
	var p *predecessor
	for p == nil {
		select {
		case p = <-s.takeovers:
		case <-ticker.C:
			if s.listeners.openPeer(ctx) != nil {
				continue
			}
			p = &predecessor{}
		case <-ctx.Done():
			return false, nil
		case <-s.Terminate:
			return false, nil
		case <-s.end.begun:
			return false, nil
		case <-timeout.C:
			return false, api.WithHint(fmt.Errorf("nobody said within %v that it should take over", standbyTimeout),
				"the plugin that started the gateway has ended: run it again")
		}
	}
	switch {
	case p.err == nil && p.peer != nil:
		s.listeners.Peer, s.listeners.Shared = p.peer, handoff.SharedPeer
		s.predecessor = p
		s.programs.Beside(true)
	case p.err != nil && s.listeners.openPeer(ctx) != nil:
		return false, p.err
	default:
		s.Log.Warn("the gateway to take over from has ended")
	}
	s.update(func(st *api.Status) { st.State = api.Starting })
	return true, nil
}

// takeOverBy attaches the programs, and has the predecessor withdraw if there is one.
func (s *supervisor) takeOverBy(w *worker, attach func() error) error {
	p := s.predecessor
	err := attach()
	if p == nil {
		return err
	}
	if err == nil {
		err = s.replace(p)
	}
	if err != nil {
		// What fails closed would stay.
		err = errors.Join(err, s.programs.Detach())
		_ = p.Send(&handoff.Message{Refused: err.Error()})
		return err
	}
	s.listeners.Shared = handoff.SharedNone
	return w.signal(handoff.TakenOver)
}

// replace makes this gateway the pod's. An error says that the predecessor is.
func (s *supervisor) replace(p *predecessor) error {
	started := time.Now()
	err := p.Send(&handoff.Message{Attached: true})
	// Even if that failed: the predecessor may have said why before it closed its end.
	m, files, readErr := p.Receive(time.Now().Add(withdrawTimeout))
	handoff.CloseAll(files)
	switch {
	case readErr == nil && m.Refused != "":
		return fmt.Errorf("the other gateway does not hand over: %s", m.Refused)
	case readErr == nil && m.Totals != nil:
		s.inherited.set(m.Totals)
		s.Log.Info("taken over", "seconds", time.Since(started).Seconds())
		s.background.Go(func() { s.followTotals(p) })
	default:
		// It does not matter which: this gateway has everything, and never goes back.
		s.Log.Warn("the other gateway has not said that it withdrew", "error", cmp.Or(err, readErr, errors.New("it said something else")))
		s.programs.Beside(false)
	}
	if err := s.programs.RemoveOthers(); err != nil {
		s.Log.Error("programs of the other gateway stay", "error", err)
	}
	return nil
}

// followTotals stores the totals of a predecessor whose connections have not ended, until it has
// ended.
func (s *supervisor) followTotals(p *predecessor) {
	defer context.AfterFunc(s.life, p.close)()
	for {
		m, files, err := p.Receive(time.Time{})
		handoff.CloseAll(files)
		if err != nil || m.Totals == nil {
			break
		}
		s.inherited.set(m.Totals)
	}
	s.inherited.end()
	if s.life.Err() == nil {
		s.programs.Beside(false)
	}
}

// inherited are the totals of the gateways before, and of earlier workers what is not in memory that they share.
type inherited struct {
	mu     sync.Mutex
	totals *handoff.Totals
	// workers are the edges of earlier workers of this gateway.
	workers *api.Edges
}

func (i *inherited) set(t *handoff.Totals) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.totals = t
}

// end says that no connection of the gateways before is open any more.
func (i *inherited) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.totals == nil {
		return
	}
	t := *i.totals
	t.Traffic.Outbound.Active, t.Traffic.Inbound.Active = 0, 0
	if t.Edges != nil {
		edges := api.MergeEdges(t.Edges, nil)
		for k := range edges.Edges {
			edges.Edges[k].Open = 0
		}
		t.Edges = edges
	}
	i.totals = &t
}

// edges returns the edges, nil if there are none.
func (i *inherited) edges() *api.Edges {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.totals == nil {
		return i.workers
	}
	return api.MergeEdges(i.totals.Edges, i.workers)
}

// addTo adds the totals to a status.
func (i *inherited) addTo(st *api.Status) {
	i.mu.Lock()
	defer i.mu.Unlock()
	t := i.totals
	if t == nil {
		return
	}
	st.Traffic = st.Traffic.Plus(t.Traffic)
	st.Capture.CaptureCounts = st.Capture.CaptureCounts.Plus(t.Counts)
	st.Unencrypted = api.MergeUnencrypted(st.Unencrypted, t.Unencrypted)
	st.Capture.OutsideNetworks = api.MergeOutside(st.Capture.OutsideNetworks, t.Outside)
	st.Capture.Strangers = api.MergeStrangers(st.Capture.Strangers, t.Strangers)
	st.Capture.Refused = api.MergeStrangers(st.Capture.Refused, t.Refused)
}
