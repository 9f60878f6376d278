//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inbound is what AttachInbound attaches.
type inbound struct {
	programs inboundPrograms
	// lookup and links end with the process; filters stay.
	lookup  link.Link
	links   map[place]link.Link
	filters *filters
	tcx     bool
	// retired means that the hooks of interfaces are given up.
	retired bool
}

// hook is where a program goes on every interface.
type hook struct {
	name    string
	program *ebpf.Program
	tcx     ebpf.AttachType
	parent  uint32 // of clsact
}

// place is a hook of one interface.
type place struct {
	index  int
	parent uint32
}

func (in *inbound) hooks() []hook {
	return []hook{
		{inboundProgKgwIngress, in.programs.KgwIngress, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
		{inboundProgKgwEgress, in.programs.KgwEgress, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	}
}

// AttachInbound attaches the programs that send inbound connections to the gateway's in-band
// listener: those that show that their other end has a gateway, and in strict mode
// those in plaintext that [Options.PlaintextFrom] does not allow and that were not refused at
// their SYN ([Programs.FollowRefused]), which the gateway resets. All others reach the application untouched. Connections to captured ranges that the pod
// forwards for others are counted, and dropped in strict mode.
//
// It must be called in the pod's network namespace, after [Programs.AttachSockets], and attaches
// to all interfaces but loopback; [Programs.FollowNetwork] attaches to those that come later.
// The listeners on 127.0.0.1 and [::1], port [api.InbandPort], must be plain TCP sockets
// with [MarkListener], and should be open before this call: without them strict mode refuses. It
// then removes what a gateway that is gone left behind, without a gap.
//
// It uses tcx where the kernel has it, and clsact otherwise and with KeepOnExit. If the
// kernel lacks something, the error names it: nothing inbound is attached, and everything
// else goes on.
func (p *Programs) AttachInbound() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.inbound != nil {
		return nil
	}
	if err := p.loaded.inboundErr; err != nil {
		return fmt.Errorf("loading the inbound programs: %w", err)
	}
	in := &inbound{
		programs: p.loaded.inbound, links: make(map[place]link.Link), filters: &filters{},
		tcx: !p.withoutTCX && !p.options.KeepOnExit,
	}
	if err := p.attachInbound(in); err != nil {
		return errors.Join(fmt.Errorf("attaching the inbound programs: %w", err), in.close(false))
	}
	p.inbound = in
	return nil
}

// StopInbound detaches what AttachInbound attached, what KeepOnExit would keep
// included: from then on the application itself gets inbound connections. Those
// that have reached the in-band listener go on, half-open ones too, for as long
// as the listener is open.
func (p *Programs) StopInbound() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopInbound(false)
}

func (p *Programs) stopInbound(stay bool) error {
	if p.inbound == nil {
		return nil
	}
	err := p.inbound.close(stay)
	p.inbound = nil
	return err
}

// attachInbound leaves what it has attached to close when it fails. kgw_lookup comes first: it
// alone enforces strict mode.
func (p *Programs) attachInbound(in *inbound) error {
	interfaces, addresses, err := network()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(p.options.PodIPs, func(ip netip.Addr) bool { return slices.Contains(addresses, ip.Unmap()) }) {
		return fmt.Errorf("no interface has an address of the pod (%v)", p.options.PodIPs)
	}
	if err := p.putOwn(addresses); err != nil {
		return err
	}
	if err := in.attachLookup(); err != nil {
		return fmt.Errorf("program %s to the network namespace: %w", inboundProgKgwLookup, err)
	}
	if in.filters, err = openFilters(); err != nil {
		return err
	}
	if p.beside {
		if err := in.filters.stepAside(); err != nil {
			return err
		}
	}
	if err := in.attachTo(interfaces); err != nil || p.beside {
		return err
	}
	_, err = in.filters.removeStale()
	return err
}

// attachTo attaches to those of interfaces that have no program yet, and forgets those that are
// not there.
func (in *inbound) attachTo(interfaces []net.Interface) error {
	if in.retired {
		return nil
	}
	var errs []error
	for _, i := range interfaces {
		for _, h := range in.hooks() {
			if err := in.attachHook(i, h); err != nil && !errors.Is(err, unix.ENODEV) { // it went in the meantime
				errs = append(errs, fmt.Errorf("program %s to interface %s: %w", h.name, i.Name, err))
			}
		}
	}
	isThere := func(index int) bool {
		return slices.ContainsFunc(interfaces, func(i net.Interface) bool { return i.Index == index })
	}
	for at, l := range in.links {
		if !isThere(at.index) {
			_ = l.Close() // the kernel has detached it
			delete(in.links, at)
		}
	}
	in.filters.keep(isThere)
	return errors.Join(errs...)
}

// attachHook attaches to a hook that has no program yet.
func (in *inbound) attachHook(i net.Interface, h hook) error {
	at := place{i.Index, h.parent}
	if in.links[at] != nil || in.filters.has(at) {
		return nil
	}
	if in.tcx {
		l, err := link.AttachTCX(link.TCXOptions{Interface: i.Index, Program: h.program, Attach: h.tcx})
		if err == nil {
			in.links[at] = l
		}
		if !errors.Is(err, ebpf.ErrNotSupported) { // the kernel has no tcx
			return err
		}
	}
	return in.filters.attach(i, h)
}

func (in *inbound) attachLookup() error {
	l, err := attachToNamespace(in.programs.KgwLookup)
	if err != nil {
		return err
	}
	in.lookup = l
	return nil
}

// close detaches everything, but not the filters if stay is set.
func (in *inbound) close(stay bool) error {
	var errs []error
	if !stay {
		errs = append(errs, in.filters.detach())
	}
	errs = append(errs, in.unlink())
	if in.lookup != nil {
		errs = append(errs, in.lookup.Close())
	}
	in.filters.close()
	return errors.Join(errs...)
}

// unlink detaches from the interfaces what is attached by links.
func (in *inbound) unlink() error {
	var errs []error
	for _, l := range in.links {
		if err := l.Close(); err != nil {
			errs = append(errs, fmt.Errorf("detaching an inbound program: %w", err))
		}
	}
	clear(in.links)
	return errors.Join(errs...)
}

// retire gives up the interfaces.
func (in *inbound) retire() error {
	in.retired = true
	return errors.Join(in.filters.detach(), in.unlink())
}

// DetachStaleInbound removes from this network namespace, which must be the pod's, what
// a gateway that is gone left there, and returns how many filters that were. Like
// [DetachStale] it must be called only where no gateway runs. [Programs.AttachInbound]
// does the same without leaving a gap.
func DetachStaleInbound() (int, error) {
	f, err := openFilters()
	if err != nil {
		return 0, err
	}
	defer f.close()
	return f.removeStale()
}

// inboundRequirements lists what the inbound programs need beyond requirements.
func inboundRequirements() []requirement {
	const tc, lookup = ebpf.SchedCLS, ebpf.SkLookup
	return []requirement{
		haveMap(ebpf.SockMap, "4.14"),
		haveHelper(tc, asm.FnSkbLoadBytesRelative, "4.18"),
		haveHelper(tc, asm.FnSkbPullData, "4.9"),
		haveMap(ebpf.RingBuf, "5.8"),
		haveHelper(tc, asm.FnRingbufOutput, "5.8"),
		haveHelper(tc, asm.FnRedirect, "4.4"),
		haveHelper(tc, asm.FnCloneRedirect, "4.2"),
		haveHelper(tc, asm.FnKtimeGetNs, "4.1"),
		haveHelper(tc, asm.FnSkbLoadBytes, "4.5"),
		haveHelper(tc, asm.FnSkbStoreBytes, "4.1"),
		haveHelper(tc, asm.FnL4CsumReplace, "4.1"),
		haveHelper(tc, asm.FnSkFullsock, "5.1"),
		haveHelper(tc, asm.FnFibLookup, "4.18"),
		haveHelper(tc, asm.FnSkcLookupTcp, "5.2"),
		haveHelper(tc, asm.FnSkRelease, "5.0"),
		haveHelper(tc, asm.FnSkAssign, "5.7"),
		haveHook(lookup, ebpf.AttachSkLookup, "5.9"),
		haveHelper(lookup, asm.FnSkAssign, "5.9"),
		haveHelper(lookup, asm.FnSkRelease, "5.9"),
	}
}
