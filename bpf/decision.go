//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Captures reports whether connect(2) of the application to destination goes to the gateway
// or is refused. Otherwise it leaves in plaintext. The answer comes from the maps that the
// programs decide by.
func (p *Programs) Captures(destination netip.AddrPort) (bool, error) {
	excluded, err := p.excludesPort(destination.Port())
	if err != nil || excluded {
		return false, err
	}
	action, err := p.action(destination)
	if err != nil {
		return false, err
	}
	config := p.current()
	if action == actionNode {
		action = actionExclude
		if port := destination.Port(); port >= config.NodePorts[0] && port <= config.NodePorts[1] {
			action = actionService
		}
	}
	switch action {
	case actionPod:
		return true, nil
	case actionService:
		return config.InbandServices != 0 || config.Strict != 0, nil
	}
	return false, nil
}

// Guards reports whether an inbound connection from remote to local should come through
// the gateway: in strict mode any from a source that is not allowed in plaintext, in
// permissive mode those from captured ranges to ports that are not excluded, which the
// gateways of their pods would encrypt.
func (p *Programs) Guards(local, remote netip.AddrPort) (bool, error) {
	config := p.current()
	client, port := words(remote.Addr()), networkOrder(local.Port())
	own, err := lookup[uint32](p.objects.KgwOwn, objectsAddress{Ip: client})
	switch {
	case err != nil:
		return false, fmt.Errorf("looking up source %v: %w", remote.Addr(), err)
	case own != 0, remote.Addr().Unmap().IsLoopback(), config.Sources6 != 0 && Sources6().Contains(remote.Addr()), port == config.PeerPort,
		local.Addr().Unmap().IsLoopback() && (port == config.CapturePort || port == config.InbandPort):
		return false, nil
	}
	allowed, err := lookup[objectsPorts](p.objects.KgwPlaintext, objectsRange{Bits: 128, Ip: client})
	if err != nil {
		return false, fmt.Errorf("looking up source %v: %w", remote.Addr(), err)
	}
	if allowed.allows(local.Port()) {
		return false, nil
	}
	if config.Strict != 0 {
		return true, nil
	}
	excluded, err := p.excludesPort(local.Port())
	if err != nil || excluded {
		return false, err
	}
	action, err := p.action(remote)
	return action == actionPod || action == actionService, err
}

func (p *Programs) current() objectsConfig {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config
}

// action returns what the map of ranges says about to.
func (p *Programs) action(to netip.AddrPort) (uint32, error) {
	action, err := lookup[uint32](p.objects.KgwRanges, destination(to))
	if err != nil {
		return actionExclude, fmt.Errorf("looking up %v: %w", to, err)
	}
	return action, nil
}

func (p *Programs) excludesPort(port uint16) (bool, error) {
	var bits uint64
	if err := p.objects.KgwPorts.Lookup(uint32(port)/64, &bits); err != nil {
		return false, fmt.Errorf("looking up port %d: %w", port, err)
	}
	return bits>>(port%64)&1 != 0, nil
}

// lookup returns the value for key, of the longest prefix that contains it where those are the
// keys, or zero if there is none.
func lookup[V any](m *ebpf.Map, key any) (value V, err error) {
	if err = m.Lookup(key, &value); errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return value, err
}
