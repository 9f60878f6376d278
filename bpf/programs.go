//go:build linux

package bpf

import (
	"errors"
	"net/netip"
)

// Options says what to capture and for whom.
type Options struct {
	// Pod is where the programs attach, Own the gateway's own cgroup below it:
	// its processes are never captured.
	Pod, Own Cgroup
	// PodIPs are the addresses of the pod. They are never captured, and
	// captured connections keep the one of their family as local address.
	PodIPs []netip.Addr
	// Capture holds the ranges of pod addresses, Services those of Service
	// VIPs, Exclude what is never captured. The longest prefix that contains a
	// destination decides; Exclude wins over Capture, and Capture over
	// Services, where they name the very same range.
	Capture, Services, Exclude []netip.Prefix
	// ExcludePorts holds destination ports that are never captured.
	ExcludePorts []uint16
	// Strict refuses what cannot be captured; see [Programs.SetStrict].
	Strict bool
	// KeepOnExit keeps the capture in place after the process ends, so that
	// connect(2) fails with EPERM instead of leaving in plaintext.
	KeepOnExit bool
}

// Counters counts calls of connect(2) since Load.
type Counters struct {
	// Captured were sent to the gateway.
	Captured uint64
	// ServicePassed went to a Service VIP in plaintext, ServiceRefused were
	// refused for going there.
	ServicePassed, ServiceRefused uint64
	// NoListener found no gateway listening.
	NoListener uint64
}

// Programs are the loaded programs and maps of one gateway.
type Programs struct{}

var errUnfinished = errors.New("bpf: not there yet")

// Load loads the programs and fills their maps. It attaches nothing.
func Load(o Options) (*Programs, error) { return nil, errUnfinished }

// AttachSockets attaches everything but the capture itself.
func (p *Programs) AttachSockets() error { return errUnfinished }

// StartCapture attaches the programs that redirect connect(2).
func (p *Programs) StartCapture() error { return errUnfinished }

// StopCapture detaches them.
func (p *Programs) StopCapture() error { return errUnfinished }

// Attached returns the names of the programs that are attached.
func (p *Programs) Attached() []string { return nil }

// Counters reads the counters.
func (p *Programs) Counters() (Counters, error) { return Counters{}, errUnfinished }

// SetStrict switches between strict and permissive, at once for every new connection.
func (p *Programs) SetStrict(strict bool) error { return errUnfinished }

// Detach detaches everything, the kept capture included.
func (p *Programs) Detach() error { return errUnfinished }

// Close frees everything, and detaches everything unless the capture is to be kept.
func (p *Programs) Close() error { return errUnfinished }

// DetachStale detaches what a gateway that is gone left attached to a pod.
func DetachStale(pod Cgroup) (int, error) { return 0, errUnfinished }
