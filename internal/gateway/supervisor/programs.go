//go:build linux

package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// load finds the pod's cgroup and attaches everything but the capture. Programs of a dead
// gateway stay until StartCapture replaces them, so that nothing leaves in plaintext
// meanwhile.
func (s *supervisor) load(ctx context.Context) error {
	var err error
	config := s.settings.config
	if s.pod, s.own, err = bpf.PodCgroup(config.Pod.UID); err != nil {
		return fmt.Errorf("finding the pod's cgroup: %w", err)
	}
	s.openMemory()
	loaded, err := s.loadApart(ctx)
	if err != nil {
		return fmt.Errorf("loading the eBPF programs: %w", err)
	}
	coverage := s.withNodeSide(config.Coverage)
	s.programs, err = bpf.New(bpf.Options{
		Pod: s.pod, Own: s.own, PodIPs: config.PodIPs,
		Coverage:       coverage,
		InbandServices: config.Wire != api.WirePort,
		BlockUDP:       config.BlockUDP,
		Strict:         config.Mode == api.Strict,
		KeepOnExit:     config.OnFailure == api.FailClosed,
	}, loaded)
	if err != nil {
		return fmt.Errorf("loading the eBPF programs: %w", err)
	}
	if err := s.programs.AttachSockets(); err != nil {
		s.closePrograms()
		return fmt.Errorf("attaching the eBPF programs: %w", err)
	}
	s.update(func(st *api.Status) { st.Capture.Cgroup, st.Capture.Coverage = s.pod.Rel, coverage })
	return nil
}

// withNodeSide adds the node's side of the pod's network to the sources of plaintext, with
// the ports that the pod's own node may probe.
func (s *supervisor) withNodeSide(c api.Coverage) api.Coverage {
	node, err := nodeSide(c.Capture)
	if err != nil {
		s.Log.Warn("the node's side of the pod's network is unknown: strict mode may refuse its probes", "error", err)
	}
	c.PlaintextFrom = slices.Clone(c.PlaintextFrom)
	for _, r := range node {
		if len(c.Probes) > 0 {
			c.PlaintextFrom = append(c.PlaintextFrom, api.Source{From: r, Ports: c.Probes})
		}
	}
	c.PlaintextFrom = api.MergeSources(c.PlaintextFrom)
	return c
}

// spread has captured connections use each source port for every destination. Without that one port serves
// one of them.
func (s *supervisor) spread() {
	if err := s.programs.Spread(); err != nil {
		s.Log.Warn("captured connections to all destinations share their source ports", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "more captured connections than source ports: "+api.OneLine(err.Error()))
		})
	}
}

// routeSources has the worker dial applications over IPv6 from many addresses. Without that one port of an application takes
// in as many connections as there are source ports.
func (s *supervisor) routeSources() {
	if !slices.ContainsFunc(s.settings.config.PodIPs, netip.Addr.Is6) {
		return
	}
	if err := s.programs.RouteSources(); err != nil {
		s.Log.Warn("the gateway dials applications over IPv6 from ::1 alone", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "more connections to an application over IPv6 than source ports: "+api.OneLine(err.Error()))
		})
		return
	}
	s.listeners.Sources6 = true
}

// hold has connect(2) of captured connections wait until the worker knows what becomes of them. Without
// that it succeeds at once.
func (s *supervisor) hold() {
	var err error
	if s.listeners.Waiting, err = s.programs.Hold(s.listeners.Capture); err != nil {
		s.Log.Warn("connect(2) succeeds before the other pod is reached", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "a connect(2) that waits for the other pod: "+api.OneLine(err.Error()))
		})
	}
}

// watchUrgent has the worker learn of urgent data from the programs. Without that it asks before each read.
func (s *supervisor) watchUrgent() {
	standard, err := os.ReadFile("/proc/sys/net/ipv4/tcp_stdurg")
	if err == nil && string(bytes.TrimSpace(standard)) != "0" {
		// The programs would be one byte off.
		return
	}
	if err == nil {
		s.listeners.Urgent, err = s.programs.Urgent()
	}
	if err != nil {
		s.Log.Warn("each read from an application takes longer", "error", err)
	}
}

// attach sends connections to a worker that is ready. Inbound ones come first: a strict
// gateway that cannot guard them must not start.
func (s *supervisor) attach() error {
	if err := s.programs.AttachInbound(); err != nil {
		if s.settings.config.Mode == api.Strict {
			return api.WithHint(fmt.Errorf("guarding inbound connections: %w", err),
				"only permissive mode works without: 'kubectl gateway enable --mode=permissive'")
		}
		s.settings.unguarded = err
		s.Log.Warn("inbound connections cannot be steered", "error", err)
		s.update(func(st *api.Status) {
			st.Missing = append(st.Missing, "in-band wire and strict mode for inbound connections: "+api.OneLine(err.Error()))
		})
	}
	if err := s.programs.StartCapture(); err != nil {
		err = fmt.Errorf("starting the capture: %w", err)
		// Programs that fail closed would block the pod forever.
		if detachErr := s.programs.Detach(); detachErr != nil {
			err = errors.Join(err, detachErr)
		}
		return err
	}
	return nil
}

// ErrUnserved is any error that ended a gateway before it served, where nothing of it is left in the
// kernel.
var ErrUnserved = errors.New("the gateway has never served, and left nothing in the kernel")

type unserved struct{ error }

func (e unserved) Unwrap() []error { return []error{e.error, ErrUnserved} }

// unload frees the programs of a gateway that ends with err.
func (s *supervisor) unload(err error) error {
	if err == nil || s.capturing() {
		s.closePrograms()
		return err
	}
	// They have filters of its programs.
	s.listeners.closeTCP()
	// What other gateways have is not this one's to judge.
	s.programs.Beside(true)
	traces, _ := s.programs.Traces()
	if left := s.free(traces); len(left) > 0 {
		s.Log.Error("the gateway has left something in the kernel", "left", left)
		return err
	}
	return unserved{err}
}

// closePrograms detaches and frees the programs, once.
func (s *supervisor) closePrograms() {
	s.closing.Do(func() {
		if err := s.programs.Close(); err != nil {
			s.Log.Error("detaching the eBPF programs failed", "error", err)
		}
	})
}
