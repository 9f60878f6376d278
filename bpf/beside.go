//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Two gateways may be in one pod: one takes over from the other. Each has its own programs and maps,
// and serves what its own programs have captured or steered, so that their versions do not matter.
// Both are attached for a moment. Of two programs at a hook of connect(2) the first one captures, and
// the other sees a connection to loopback. A SYN with the option is steered by the first one alone.

// SetListeners tells the programs where the gateway listens. The default is [api.CapturePort] and
// [api.InbandPort].
func (p *Programs) SetListeners(l api.Listeners) error {
	return p.edit("setting the ports of the listeners", func(c *objectsConfig) {
		c.CapturePort, c.InbandPort = networkOrder(l.Capture), networkOrder(l.Inband)
	})
}

// edit changes the configuration of the programs, or leaves it as it was.
func (p *Programs) edit(what string, change func(*objectsConfig)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.config
	change(&p.config)
	if err := p.putConfig(); err != nil {
		p.config = before
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Beside says whether another gateway of the pod has programs attached and lives. What it has attached
// stays until [Programs.RemoveOthers], and is nobody's [Traces].
func (p *Programs) Beside(another bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beside = another
}

// AddGateways makes connections of processes in other gateways' cgroups (see [Cgroup]) those of a
// gateway, which are never captured. inband is the port of the first one's in-band listener. If there
// are too many, those added first are forgotten.
func (p *Programs) AddGateways(inband uint16, cgroups ...uint64) error {
	return p.edit("adding another gateway", func(c *objectsConfig) {
		all := slices.Concat(cgroups, c.Gateways[1:])
		kept := []uint64{c.Gateways[0]}
		for _, id := range all {
			if id != 0 && !slices.Contains(kept, id) {
				kept = append(kept, id)
			}
		}
		c.Gateways = [maxGateways]uint64{}
		copy(c.Gateways[:], kept)
		c.OtherInband = networkOrder(inband)
	})
}

// Gateways returns the cgroups of the gateways in the pod that the programs know, the own one first.
func (p *Programs) Gateways() []uint64 {
	config := p.current()
	return slices.DeleteFunc(config.Gateways[:], func(id uint64) bool { return id == 0 })
}

// RemoveOthers detaches what other gateways have attached without a link to the hooks of
// [Programs.StartCapture] and [Programs.AttachInbound]: the rest of one that is gone, or that has been
// replaced.
func (p *Programs) RemoveOthers() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	own, err := p.ids()
	if err != nil {
		return err
	}
	found, err := attachedTo(p.options.Pod.Path, captureKinds())
	if err != nil {
		return err
	}
	defer closeAll(found)
	others := slices.Clone(found)
	others = slices.DeleteFunc(others, func(a attachment) bool {
		id, _, err := describe(a.program)
		return err != nil || slices.Contains(own, id)
	})
	_, err = detachStale(p.options.Pod.Path, others)
	var filters error
	if p.inbound != nil {
		_, filters = p.inbound.filters.removeStale()
	} else {
		_, filters = DetachStaleInbound()
	}
	return errors.Join(err, filters)
}

// ids returns the numbers of the programs that StartCapture attaches.
func (p *Programs) ids() ([]ebpf.ProgramID, error) {
	var ids []ebpf.ProgramID
	o := &p.objects
	for _, program := range []*ebpf.Program{o.KgwConnect4, o.KgwConnect6, o.KgwSendmsg4, o.KgwSendmsg6} {
		id, _, err := describe(program)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Retire detaches what sends new connections to the gateway, because another one has taken over.
// What connections need that are open or half open stays: a SYN cookie that was sent is still
// answered to the right listener. Strict mode is the other gateway's.
func (p *Programs) Retire() error {
	err := p.StopCapture()
	p.mu.Lock()
	if p.inbound != nil {
		err = errors.Join(err, p.inbound.retire())
	}
	p.mu.Unlock()
	return errors.Join(err, p.edit("ending strict mode", func(c *objectsConfig) { c.Strict, c.Closed = 0, 0 }))
}
