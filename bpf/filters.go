//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// A filter of ours is told from others by its name, and a new gateway's replaces an
// old one's, in one step, for having the same place.
const (
	filterName     = "kgw_ingress"
	filterPriority = 18444
	filterHandle   = 0x6b6777
)

// filters attaches programs by clsact, in the network namespace that it was opened in.
type filters struct {
	netlink *netlink.Handle
	own     []*netlink.BpfFilter
}

func openFilters() (*filters, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	return &filters{netlink: h}, nil
}

// attach attaches program to the ingress of an interface, in place of what an
// earlier gateway has there.
func (f *filters) attach(i net.Interface, program *ebpf.Program) error {
	err := f.netlink.QdiscAdd(clsact(i.Index))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return missingModule(err, "clsact", "CONFIG_NET_SCH_INGRESS", "4.5")
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: i.Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program.FD(), Name: filterName, DirectAction: true,
	}
	if err := f.netlink.FilterReplace(filter); err != nil {
		return errors.Join(missingModule(err, "bpf", "CONFIG_NET_CLS_BPF", "4.1"), f.removeQdisc(i.Index))
	}
	f.own = append(f.own, filter)
	return nil
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
// how many. A gateway that uses tcx finds those of one that used clsact.
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
	for _, own := range f.own {
		if own.LinkIndex == filter.LinkIndex && own.Handle == filter.Handle && own.Priority == filter.Priority {
			return true
		}
	}
	return false
}

// named returns the filters on an interface that bear our name.
func (f *filters) named(l netlink.Link) (found []*netlink.BpfFilter, err error) {
	list, err := f.netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		// There is no clsact, or the interface is gone.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
			return nil, nil
		}
		return nil, fmt.Errorf("listing the filters of interface %s: %w", l.Attrs().Name, err)
	}
	for _, each := range list {
		if filter, ok := each.(*netlink.BpfFilter); ok && strings.HasPrefix(filter.Name, filterName) {
			found = append(found, filter)
		}
	}
	return found, nil
}

// remove removes a filter, and clsact if that was the last one.
func (f *filters) remove(filter *netlink.BpfFilter) error {
	if err := f.netlink.FilterDel(filter); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
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
	err := f.netlink.QdiscDel(clsact(index))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
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
