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
	name    string
	program *ebpf.Program
	cgroup  string
	kind    ebpf.AttachType
	// link is nil for a program that is attached without one, and therefore
	// stays when the process ends.
	link link.Link
}

// captureKinds are the hooks of StartCapture: KeepOnExit keeps what is attached there.
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
	pod, own, o := p.options.Pod.Path, p.options.Own.Path, &p.objects
	return p.attachAll(false, []attachment{
		{objectsProgKgwSockops, o.KgwSockops, pod, ebpf.AttachCGroupSockOps, nil},
		{objectsProgKgwGetpeer4, o.KgwGetpeer4, pod, ebpf.AttachCgroupInet4GetPeername, nil},
		{objectsProgKgwGetpeer6, o.KgwGetpeer6, pod, ebpf.AttachCgroupInet6GetPeername, nil},
		{objectsProgKgwGetsock4, o.KgwGetsock4, pod, ebpf.AttachCgroupInet4GetSockname, nil},
		{objectsProgKgwGetsock6, o.KgwGetsock6, pod, ebpf.AttachCgroupInet6GetSockname, nil},
		// Where they are attached decides who has the gateway's options: before Linux 6.1 no program here can ask which
		// cgroups the caller's is below. So kgw_setsockopt and kgw_tune are two.
		{objectsProgKgwGetsockopt, o.KgwGetsockopt, own, ebpf.AttachCGroupGetsockopt, nil},
		{objectsProgKgwSetsockopt, o.KgwSetsockopt, own, ebpf.AttachCGroupSetsockopt, nil},
		{objectsProgKgwTune, o.KgwTune, pod, ebpf.AttachCGroupSetsockopt, nil},
	})
}

// StartCapture attaches the programs that redirect connect(2) and those that judge UDP,
// and then detaches those of a gateway that is gone: in this order no connection slips
// through. The listeners should be open before. After [Programs.Beside] it detaches nothing.
func (p *Programs) StartCapture() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pod, o := p.options.Pod.Path, &p.objects
	stale, err := attachedTo(pod, captureKinds())
	if err != nil {
		return err
	}
	defer closeAll(stale)
	if err := p.attachAll(p.options.KeepOnExit, []attachment{
		{objectsProgKgwConnect4, o.KgwConnect4, pod, ebpf.AttachCGroupInet4Connect, nil},
		{objectsProgKgwConnect6, o.KgwConnect6, pod, ebpf.AttachCGroupInet6Connect, nil},
		{objectsProgKgwSendmsg4, o.KgwSendmsg4, pod, ebpf.AttachCGroupUDP4Sendmsg, nil},
		{objectsProgKgwSendmsg6, o.KgwSendmsg6, pod, ebpf.AttachCGroupUDP6Sendmsg, nil},
	}); err != nil || p.beside {
		return err
	}
	_, err = detachStale(pod, stale)
	return err
}

// StopCapture detaches the programs that StartCapture attached. Connections that
// are captured already go on.
func (p *Programs) StopCapture() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return detach(p.attached, func(a attachment) bool { return slices.Contains(captureKinds(), a.kind) })
}

// Detach detaches everything, what KeepOnExit would keep included.
func (p *Programs) Detach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(detach(p.attached, func(attachment) bool { return true }), p.stopInbound(false), p.stopSpread())
}

// Attached returns the names of the programs that are attached, sorted.
func (p *Programs) Attached() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Collect(maps.Keys(p.attached))
	if p.inbound != nil {
		names = append(names, inboundProgKgwIngress, inboundProgKgwEgress, inboundProgKgwLookup)
	}
	if p.spread != nil {
		names = append(names, objectsProgKgwSpread)
	}
	slices.Sort(names)
	return names
}

// attachAll attaches all of list or none. It skips those that are attached already.
func (p *Programs) attachAll(stay bool, list []attachment) error {
	done := make(map[string]attachment)
	for _, a := range list {
		if _, ok := p.attached[a.name]; ok {
			continue
		}
		if err := a.attach(stay); err != nil {
			return errors.Join(fmt.Errorf("attaching program %s to %s: %w", a.name, a.cgroup, err),
				detach(done, func(attachment) bool { return true }))
		}
		done[a.name] = a
	}
	maps.Copy(p.attached, done)
	return nil
}

// detach detaches those of list that which chooses, and deletes them from it.
func detach(list map[string]attachment, which func(attachment) bool) error {
	var errs []error
	for name, a := range list {
		if !which(a) {
			continue
		}
		if err := a.detach(); err != nil {
			errs = append(errs, fmt.Errorf("detaching program %s from %s: %w", name, a.cgroup, err))
			continue
		}
		delete(list, name)
	}
	return errors.Join(errs...)
}

func (a *attachment) attach(stay bool) (err error) {
	if !stay {
		a.link, err = link.AttachCgroup(link.CgroupOptions{Path: a.cgroup, Attach: a.kind, Program: a.program})
		return err
	}
	return withCgroup(a.cgroup, func(fd int) error {
		return link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: fd, Program: a.program, Attach: a.kind, Flags: unix.BPF_F_ALLOW_MULTI,
		})
	})
}

func (a *attachment) detach() error {
	if a.link != nil {
		return a.link.Close()
	}
	err := withCgroup(a.cgroup, func(fd int) error {
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: a.program, Attach: a.kind})
	})
	if errors.Is(err, fs.ErrNotExist) {
		// It has been detached by somebody else, or the cgroup is gone.
		return nil
	}
	return err
}

// DetachStale detaches from a pod's cgroup what a gateway that is gone left there, and
// returns how many programs that were. Programs of a gateway that runs with
// KeepOnExit are no different from those: call it only where none does.
// [Programs.StartCapture] does the same without leaving a gap. [DetachStaleInbound] is for
// the pod's network namespace.
func DetachStale(pod Cgroup) (int, error) {
	stale, err := attachedTo(pod.Path, captureKinds())
	if err != nil {
		return 0, err
	}
	defer closeAll(stale)
	return detachStale(pod.Path, stale)
}

// attachedTo returns the programs of gateways at hooks of a cgroup, with a link or without.
func attachedTo(cgroup string, kinds []ebpf.AttachType) (found []attachment, err error) {
	err = withCgroup(cgroup, func(fd int) error {
		for _, kind := range kinds {
			at, err := attachedAt(link.QueryOptions{Target: fd, Attach: kind})
			found = append(found, at...)
			if err != nil {
				return err
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

// attachedAt returns the programs of gateways at a hook, and with an error those that it has
// found before.
func attachedAt(hook link.QueryOptions) (found []attachment, err error) {
	list, err := link.QueryPrograms(hook)
	if err != nil {
		return nil, err
	}
	for _, each := range list.Programs {
		program, err := ebpf.NewProgramFromID(each.ID)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went in the meantime
		}
		if err != nil {
			return found, err
		}
		info, err := program.Info()
		if err != nil || !strings.HasPrefix(info.Name, namePrefix) {
			program.Close()
			continue
		}
		found = append(found, attachment{name: info.Name, program: program, kind: hook.Attach})
	}
	return found, nil
}

// detachStale detaches those of list that have no link: the kernel finds no
// such attachment (ENOENT) for one that has.
func detachStale(cgroup string, list []attachment) (n int, err error) {
	err = withCgroup(cgroup, func(fd int) error {
		for _, a := range list {
			err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: a.program, Attach: a.kind})
			if err == nil {
				n++
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
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
