//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// A new gateway's filter replaces a dead one's in one step, because it has the same place. That of a
// gateway which takes over gets a place behind the other one's.
const (
	filterPriority = 18444
	filterHandle   = 0x6b6777
)

// filters attaches programs by clsact, in the network namespace in which it was opened.
type filters struct {
	netlink  *netlink.Handle
	priority uint16
	own      []*netlink.BpfFilter
}

func openFilters() (*filters, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return &filters{netlink: h, priority: filterPriority}, nil
}

// stepAside chooses a place behind all filters of ours: the gateway that serves comes first.
func (f *filters) stepAside() error {
	links, err := f.netlink.LinkList()
	if err != nil {
		return fmt.Errorf("listing the interfaces: %w", err)
	}
	for _, l := range links {
		found, err := f.named(l)
		if err != nil {
			return err
		}
		for _, filter := range found {
			f.priority = max(f.priority, filter.Priority+1)
		}
	}
	return nil
}

// attach attaches a program to a hook of an interface. It replaces what an earlier
// gateway has there.
func (f *filters) attach(i net.Interface, h hook) error {
	if err := f.netlink.QdiscAdd(clsact(i.Index)); err != nil && !errors.Is(err, fs.ErrExist) {
		return missingModule(err, "clsact", "CONFIG_NET_SCH_INGRESS", "4.5")
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: i.Index, Parent: h.parent,
			Handle: filterHandle, Priority: f.priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: h.program.FD(), Name: h.name, DirectAction: true,
	}
	if err := f.netlink.FilterReplace(filter); err != nil {
		return errors.Join(missingModule(err, "bpf", "CONFIG_NET_CLS_BPF", "4.1"), f.removeQdisc(i.Index))
	}
	f.own = append(f.own, filter)
	return nil
}

// has reports whether attach added a filter to a hook of an interface.
func (f *filters) has(p place) bool {
	return slices.ContainsFunc(f.own, func(own *netlink.BpfFilter) bool { return own.LinkIndex == p.index && own.Parent == p.parent })
}

// keep forgets the filters of all interfaces but those that which names.
func (f *filters) keep(which func(index int) bool) {
	f.own = slices.DeleteFunc(f.own, func(own *netlink.BpfFilter) bool { return !which(own.LinkIndex) })
}

func missingModule(err error, name, option, since string) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return api.WithHint(fmt.Errorf("the kernel has no %s for traffic control, which came with Linux %s: %w", name, since, err),
			"the node's kernel needs "+option)
	}
	return fmt.Errorf("%s of traffic control: %w", name, err)
}

// detach removes the filters that attach added.
func (f *filters) detach() error {
	var errs []error
	for _, filter := range f.own {
		errs = append(errs, f.remove(filter))
	}
	f.own = nil
	return errors.Join(errs...)
}

// removeStale removes filters of ours that attach did not add, and returns
// how many. So a gateway with tcx finds those of one with clsact.
func (f *filters) removeStale() (n int, err error) {
	links, err := f.netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("listing the interfaces: %w", err)
	}
	for _, l := range links {
		found, err := f.named(l)
		if err != nil {
			return n, err
		}
		for _, filter := range found {
			if f.isOwn(filter) {
				continue
			}
			if err := f.remove(filter); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

func (f *filters) isOwn(filter *netlink.BpfFilter) bool {
	return slices.ContainsFunc(f.own, func(own *netlink.BpfFilter) bool {
		return own.LinkIndex == filter.LinkIndex && own.Parent == filter.Parent && own.Handle == filter.Handle && own.Priority == filter.Priority
	})
}

// isGone reports whether err says that a filter is not there, or its clsact, or its interface.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

// named returns the filters on an interface that have our name.
func (f *filters) named(l netlink.Link) (found []*netlink.BpfFilter, err error) {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := f.netlink.FilterList(l, parent)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing the filters of interface %s: %w", l.Attrs().Name, err)
		}
		for _, each := range list {
			if filter, ok := each.(*netlink.BpfFilter); ok && strings.HasPrefix(filter.Name, namePrefix) {
				found = append(found, filter)
			}
		}
	}
	return found, nil
}

// remove removes a filter, and clsact if that was the last one.
func (f *filters) remove(filter *netlink.BpfFilter) error {
	if err := f.netlink.FilterDel(filter); err != nil && !isGone(err) {
		return fmt.Errorf("removing a filter: %w", err)
	}
	return f.removeQdisc(filter.LinkIndex)
}

func (f *filters) removeQdisc(index int) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if list, err := f.netlink.FilterList(link, parent); err != nil || len(list) > 0 {
			return nil
		}
	}
	if err := f.netlink.QdiscDel(clsact(index)); err != nil && !isGone(err) {
		return fmt.Errorf("removing clsact: %w", err)
	}
	return nil
}

func (f *filters) close() {
	if f.netlink != nil {
		f.netlink.Close()
	}
}

func clsact(index int) *netlink.GenericQdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
}
