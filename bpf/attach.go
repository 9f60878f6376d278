//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// namePrefix begins the name of every program of ours, and of no other's.
const namePrefix = "kgw_"

// attachment is one program attached to one cgroup.
type attachment struct {
	// link is nil for a program that is attached without one, and therefore
	// stays when the process ends.
	link    link.Link
	program *ebpf.Program
	cgroup  string
	kind    ebpf.AttachType
}

// captureKinds are the hooks of StartCapture: what stays with KeepOnExit at the cgroup.
func captureKinds() []ebpf.AttachType {
	return []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
		ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	}
}

// AttachSockets attaches everything but the capture itself. It changes nothing for
// the application yet. All of it ends with the process.
func (p *Programs) AttachSockets() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, own := p.options.Pod.Path, p.options.Own.Path
	return p.attachAll([]attachment{
		{program: p.objects.KgwSockops, cgroup: pod, kind: ebpf.AttachCGroupSockOps},
		{program: p.objects.KgwGetpeer4, cgroup: pod, kind: ebpf.AttachCgroupInet4GetPeername},
		{program: p.objects.KgwGetpeer6, cgroup: pod, kind: ebpf.AttachCgroupInet6GetPeername},
		{program: p.objects.KgwGetsock4, cgroup: pod, kind: ebpf.AttachCgroupInet4GetSockname},
		{program: p.objects.KgwGetsock6, cgroup: pod, kind: ebpf.AttachCgroupInet6GetSockname},
		{program: p.objects.KgwGetsockopt, cgroup: own, kind: ebpf.AttachCGroupGetsockopt},
		{program: p.objects.KgwSetsockopt, cgroup: own, kind: ebpf.AttachCGroupSetsockopt},
	}, false)
}

// StartCapture attaches the programs that redirect connect(2) and those that judge UDP,
// and then detaches those that a gateway which is gone left behind, in this order, so that no
// connection slips through in between. The listeners should be open before.
func (p *Programs) StartCapture() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod := p.options.Pod.Path
	stale, err := attachedPrograms(pod)
	if err != nil {
		return err
	}
	defer closeAll(stale)
	if err := p.attachAll([]attachment{
		{program: p.objects.KgwConnect4, cgroup: pod, kind: ebpf.AttachCGroupInet4Connect},
		{program: p.objects.KgwConnect6, cgroup: pod, kind: ebpf.AttachCGroupInet6Connect},
		{program: p.objects.KgwSendmsg4, cgroup: pod, kind: ebpf.AttachCGroupUDP4Sendmsg},
		{program: p.objects.KgwSendmsg6, cgroup: pod, kind: ebpf.AttachCGroupUDP6Sendmsg},
	}, p.options.KeepOnExit); err != nil {
		return err
	}
	_, err = detachPrograms(pod, stale)
	return err
}

// StopCapture detaches the programs that StartCapture attached. Connections that
// are captured already go on.
func (p *Programs) StopCapture() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.detach(func(a *attachment) bool { return slices.Contains(captureKinds(), a.kind) })...)
}

// Detach detaches everything, what KeepOnExit would keep included.
func (p *Programs) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	errs := p.detach(func(*attachment) bool { return true })
	if p.inbound != nil {
		errs = append(errs, p.inbound.close(false))
		p.inbound = nil
	}
	return errors.Join(errs...)
}

// Attached returns the names of the programs that are attached, sorted.
func (p *Programs) Attached() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Collect(maps.Keys(p.attached))
	if p.inbound != nil {
		names = append(names, inboundProgKgwIngress, inboundProgKgwLookup)
	}
	slices.Sort(names)
	return names
}

// attachAll attaches all of them or none. Those that are attached already stay so.
func (p *Programs) attachAll(list []attachment, stay bool) error {
	var done []string
	for _, a := range list {
		name, err := programName(a.program)
		if err == nil && p.attached[name] != nil {
			continue
		}
		if err == nil {
			err = a.attach(stay)
		}
		if err != nil {
			undo := p.detach(func(a *attachment) bool {
				name, _ := programName(a.program)
				return slices.Contains(done, name)
			})
			return errors.Join(append([]error{fmt.Errorf("attaching program %s to %s: %w", name, a.cgroup, err)}, undo...)...)
		}
		p.attached[name] = &a
		done = append(done, name)
	}
	return nil
}

func (p *Programs) detach(which func(*attachment) bool) (errs []error) {
	for name, a := range p.attached {
		if !which(a) {
			continue
		}
		if err := a.detach(); err != nil {
			errs = append(errs, fmt.Errorf("detaching program %s from %s: %w", name, a.cgroup, err))
			continue
		}
		delete(p.attached, name)
	}
	return errs
}

func (a *attachment) attach(stay bool) error {
	if stay {
		return withCgroup(a.cgroup, func(fd int) error {
			return link.RawAttachProgram(link.RawAttachProgramOptions{
				Target: fd, Program: a.program, Attach: a.kind, Flags: unix.BPF_F_ALLOW_MULTI,
			})
		})
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: a.cgroup, Attach: a.kind, Program: a.program})
	a.link = l
	return err
}

func (a *attachment) detach() error {
	if a.link != nil {
		return a.link.Close()
	}
	err := withCgroup(a.cgroup, func(fd int) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: a.program, Attach: a.kind})
	})
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody else detached it, or the cgroup is gone.
		return nil
	}
	return err
}

// DetachStale detaches what a gateway that is gone left attached to a pod's cgroup, and
// returns how many programs that were. Programs of a gateway that runs with
// KeepOnExit are no different from those: call it only where none does.
// [Programs.StartCapture] does the same by itself without leaving a gap. What is left in
// the pod's network namespace is for [DetachStaleInbound].
func DetachStale(pod Cgroup) (int, error) {
	stale, err := attachedPrograms(pod.Path)
	if err != nil {
		return 0, err
	}
	defer closeAll(stale)
	return detachPrograms(pod.Path, stale)
}

// attachedPrograms returns our programs that are attached to the hooks which
// KeepOnExit leaves programs at, with a link or without.
func attachedPrograms(cgroup string) (found []attachment, err error) {
	return attachedProgramsAt(cgroup, captureKinds())
}

// attachedProgramsAt returns our programs that are attached to hooks of a cgroup.
func attachedProgramsAt(cgroup string, kinds []ebpf.AttachType) (found []attachment, err error) {
	err = withCgroup(cgroup, func(fd int) error {
		for _, kind := range kinds {
			list, err := link.QueryPrograms(link.QueryOptions{Target: fd, Attach: kind})
			if err != nil {
				return err
			}
			for _, each := range list.Programs {
				program, err := ebpf.NewProgramFromID(each.ID)
				if errors.Is(err, fs.ErrNotExist) {
					continue // it went in the meantime
				}
				if err != nil {
					return err
				}
				if name, err := programName(program); err != nil || !strings.HasPrefix(name, namePrefix) {
					program.Close()
					continue
				}
				found = append(found, attachment{program: program, cgroup: cgroup, kind: kind})
			}
		}
		return nil
	})
	if err != nil {
		closeAll(found)
		return nil, fmt.Errorf("looking for programs of an earlier gateway at %s: %w", cgroup, err)
	}
	return found, nil
}

// detachPrograms detaches those of list that have no link: the kernel finds no
// such attachment (ENOENT) for one that has.
func detachPrograms(cgroup string, list []attachment) (n int, err error) {
	err = withCgroup(cgroup, func(fd int) error {
		for _, a := range list {
			err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: a.program, Attach: a.kind})
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		return n, fmt.Errorf("detaching programs of an earlier gateway from %s: %w", cgroup, err)
	}
	return n, nil
}

func closeAll(list []attachment) {
	for _, a := range list {
		a.program.Close()
	}
}

func withCgroup(path string, do func(fd int) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening cgroup %s: %w", path, err)
	}
	defer dir.Close()
	return do(int(dir.Fd()))
}

func programName(p *ebpf.Program) (string, error) {
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("asking for a program's name: %w", err)
	}
	return info.Name, nil
}
