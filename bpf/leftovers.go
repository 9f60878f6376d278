//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Traces names what a gateway has in the kernel by the numbers that the kernel gave
// it, so that one can look for it once everything should be gone. The kernel uses all
// numbers before it uses one again (idr_alloc_cyclic in kernel/bpf/syscall.c).
type Traces struct {
	// open opens an object by its number, under its name for messages.
	open map[string]func() (io.Closer, error)
	pod  Cgroup
	// beside means that another gateway serves the pod, whose programs are nobody's traces.
	beside bool
}

// Traces returns what p has in the kernel.
func (p *Programs) Traces() (*Traces, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &Traces{open: make(map[string]func() (io.Closer, error)), pod: p.options.Pod, beside: p.beside}
	sets := []any{p.objects.objectsPrograms, p.objects.objectsMaps}
	if p.loaded.inboundErr == nil {
		sets = append(sets, p.loaded.inbound)
	}
	for _, set := range sets {
		if err := t.add(set); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// add adds all programs and maps of a generated struct, so that none can be
// forgotten here.
func (t *Traces) add(set any) error {
	for _, field := range reflect.ValueOf(set).Fields() {
		switch object := field.Interface().(type) {
		case *ebpf.Program:
			id, name, err := describe(object)
			if err != nil {
				return err
			}
			t.open[name] = func() (io.Closer, error) { return ebpf.NewProgramFromID(id) }
		case *ebpf.Map:
			info, err := object.Info()
			if err != nil {
				return fmt.Errorf("asking for a map's number: %w", err)
			}
			id, _ := info.ID()
			t.open[fmt.Sprintf("map %s (%d)", info.Name, id)] = func() (io.Closer, error) { return ebpf.NewMapFromID(id) }
		}
	}
	return nil
}

// describe returns a program's number, and its name for messages.
func describe(p *ebpf.Program) (ebpf.ProgramID, string, error) {
	info, err := p.Info()
	if err != nil {
		return 0, "", fmt.Errorf("asking for a program's number: %w", err)
	}
	id, _ := info.ID()
	return id, fmt.Sprintf("program %s (%d)", info.Name, id), nil
}

// leftInterval is how often the kernel is asked what is left. It frees programs and
// maps when no processor can be using them any more, some milliseconds later.
const leftInterval = 10 * time.Millisecond

// Left returns what is left of t in the kernel, and of any other gateway in the
// pod unless one has taken over: programs, maps and filters, by name. It waits until nothing is left or ctx
// is done. It must be called in the pod's network namespace.
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
	var left []string
	if !t.beside {
		var err error
		if left, err = Leftovers(t.pod); err != nil {
			return nil, err
		}
	}
	for name, open := range t.open {
		object, err := open()
		if err == nil {
			object.Close()
			left = append(left, name)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for %s: %w", name, err)
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
func Leftovers(pod Cgroup) (left []string, err error) {
	attached, err := attachedTo(pod.Path, podKinds())
	defer func() { closeAll(attached) }()
	if err != nil {
		return nil, err
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
		found, err := filters.named(l)
		if err != nil {
			return nil, err
		}
		for _, filter := range found {
			left = append(left, fmt.Sprintf("filter %s of interface %s", filter.Name, l.Attrs().Name))
		}
		// An error says that the kernel has no tcx, or that the interface is gone.
		for _, kind := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			tcx, _ := attachedAt(link.QueryOptions{Target: l.Attrs().Index, Attach: kind})
			attached = append(attached, tcx...)
		}
	}
	for _, a := range attached {
		_, name, err := describe(a.program)
		if err != nil {
			return nil, err
		}
		left = append(left, name)
	}
	slices.Sort(left)
	return slices.Compact(left), nil
}
