//go:build linux

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Spread has captured connections to different destinations come to different ports of the listeners'
// addresses, as far as a socket that is accepted says. A source port is then good for one connection to
// each destination, and not for one in all. It must be called in the pod's network namespace, before
// [Programs.StartCapture]. It lasts until [Programs.Detach] or [Programs.Close].
func (p *Programs) Spread() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spread != nil {
		return nil
	}
	l, err := attachToNamespace(p.objects.KgwSpread)
	if err != nil {
		return fmt.Errorf("attaching program %s to the network namespace: %w", objectsProgKgwSpread, err)
	}
	p.spread = l
	if err := p.putSpread(true); err != nil {
		return errors.Join(fmt.Errorf("spreading captured connections: %w", err), p.stopSpread())
	}
	return nil
}

func (p *Programs) putSpread(on bool) error {
	p.config.Spread = flag(on)
	return p.putConfig()
}

func (p *Programs) stopSpread() error {
	if p.spread == nil {
		return nil
	}
	err := errors.Join(p.putSpread(false), p.spread.Close())
	p.spread = nil
	return err
}

// attachToNamespace attaches a program that looks for listeners to this network namespace.
func attachToNamespace(program *ebpf.Program) (link.Link, error) {
	ns, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the network namespace: %w", err)
	}
	defer unix.Close(ns)
	l, err := link.AttachNetNs(ns, program)
	if err != nil {
		return nil, err
	}
	return l, nil
}
