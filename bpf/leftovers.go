//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// StopInbound detaches what AttachInbound attached, what KeepOnExit would keep
// included: from then on the application itself gets inbound connections. Those
// that reached the in-band listener already go on, half-open ones too, for as long
// as the listener is open.
func (p *Programs) StopInbound() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inbound == nil {
		return nil
	}
	err := p.inbound.close(false)
	p.inbound = nil
	return err
}

// Traces names what a gateway has in the kernel by the numbers that the kernel gave
// it, so that one can look for it once everything should be gone. Numbers are not
// used again until all are (idr_alloc_cyclic in kernel/bpf/syscall.c).
type Traces struct {
	programs map[ebpf.ProgramID]string
	maps     map[ebpf.MapID]string
	pod      Cgroup
}

// Traces returns what p has in the kernel now. Only what is attached inbound then
// is among it, so call it before [Programs.StopInbound].
func (p *Programs) Traces() (*Traces, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &Traces{programs: make(map[ebpf.ProgramID]string), maps: make(map[ebpf.MapID]string), pod: p.options.Pod}
	sets := []any{p.objects.objectsPrograms, p.objects.objectsMaps}
	if p.inbound != nil {
		sets = append(sets, p.inbound.programs)
	}
	for _, set := range sets {
		if err := t.add(set); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add notes all programs and maps of a generated struct, so that none can be
// forgotten here.
func (t *Traces) add(set any) error {
	for _, field := range reflect.ValueOf(set).Fields() {
		switch object := field.Interface().(type) {
		case *ebpf.Program:
			info, err := object.Info()
			if err != nil {
				return fmt.Errorf("asking for a program's number: %w", err)
			}
			id, ok := info.ID()
			if !ok {
				return errors.New("the kernel gives programs no numbers")
			}
			t.programs[id] = info.Name
		case *ebpf.Map:
			info, err := object.Info()
			if err != nil {
				return fmt.Errorf("asking for a map's number: %w", err)
			}
			id, ok := info.ID()
			if !ok {
				return errors.New("the kernel gives maps no numbers")
			}
			t.maps[id] = info.Name
		}
	}
	return nil
}

// leftInterval is how often the kernel is asked what is left. It frees programs and
// maps when no processor can be using them any more, some milliseconds later.
const leftInterval = 10 * time.Millisecond

// Left returns what is left of t in the kernel, and of any other gateway in the
// pod: programs, maps and filters, by name. It waits until that is nothing or ctx is
// done. It must be called in the pod's network namespace.
func (t *Traces) Left(ctx context.Context) ([]string, error) {
	ticker := time.NewTicker(leftInterval)
	defer ticker.Stop()
	for {
		left, err := t.left()
		if err != nil || len(left) == 0 {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return left, nil
		case <-ticker.C:
		}
	}
}

func (t *Traces) left() ([]string, error) {
	left, err := Leftovers(t.pod)
	if err != nil {
		return nil, err
	}
	for id, name := range t.programs {
		program, err := ebpf.NewProgramFromID(id)
		if err == nil {
			program.Close()
			left = append(left, fmt.Sprintf("program %s (%d)", name, id))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for program %s: %w", name, err)
		}
	}
	for id, name := range t.maps {
		m, err := ebpf.NewMapFromID(id)
		if err == nil {
			m.Close()
			left = append(left, fmt.Sprintf("map %s (%d)", name, id))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for map %s: %w", name, err)
		}
	}
	slices.Sort(left)
	return slices.Compact(left), nil
}

// podKinds are all hooks of a pod's cgroup that a gateway attaches to.
func podKinds() []ebpf.AttachType {
	return append(captureKinds(),
		ebpf.AttachCGroupSockOps,
		ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCgroupInet4GetSockname, ebpf.AttachCgroupInet6GetSockname,
	)
}

// Leftovers returns the programs and filters of gateways that are attached to a
// pod's cgroup and to the interfaces of this network namespace, which must be the
// pod's.
func Leftovers(pod Cgroup) ([]string, error) {
	attached, err := attachedProgramsAt(pod.Path, podKinds())
	if err != nil {
		return nil, err
	}
	defer closeAll(attached)
	var left []string
	for _, a := range attached {
		info, err := a.program.Info()
		if err != nil {
			return nil, fmt.Errorf("asking for a program's name: %w", err)
		}
		id, _ := info.ID()
		left = append(left, fmt.Sprintf("program %s (%d)", info.Name, id))
	}
	filters, err := openFilters()
	if err != nil {
		return nil, err
	}
	defer filters.close()
	links, err := filters.netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("listing the interfaces: %w", err)
	}
	for _, l := range links {
		found, err := leftAt(filters, l)
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	slices.Sort(left)
	return slices.Compact(left), nil
}

// leftAt returns what gateways left at an interface: filters, and programs of tcx.
func leftAt(f *filters, l netlink.Link) (left []string, err error) {
	found, err := f.named(l)
	if err != nil {
		return nil, err
	}
	for _, filter := range found {
		left = append(left, fmt.Sprintf("filter %s of interface %s", filter.Name, l.Attrs().Name))
	}
	list, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		// A kernel without tcx, or the interface is gone.
		return left, nil
	}
	for _, each := range list.Programs {
		program, err := ebpf.NewProgramFromID(each.ID)
		if err != nil {
			continue // it went in the meantime
		}
		if name, err := programName(program); err == nil && strings.HasPrefix(name, namePrefix) {
			left = append(left, fmt.Sprintf("program %s (%d)", name, each.ID))
		}
		program.Close()
	}
	return left, nil
}
