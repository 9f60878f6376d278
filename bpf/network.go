//go:build linux

package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// FollowNetwork attaches the inbound programs to interfaces that appear after
// [Programs.AttachInbound], has listeners that are bound to an interface find the gateway, and keeps
// the programs' list of the pod's own addresses true, until ctx is done. After each change it calls followed, with an
// error or nil, and goes on. It must be called in the pod's network namespace. The error it returns says that the kernel reports no changes.
func (p *Programs) FollowNetwork(ctx context.Context, followed func(error)) error {
	changes, err := openChanges()
	if err != nil {
		return fmt.Errorf("following the pod's network: %w", err)
	}
	defer changes.Close()
	stop := context.AfterFunc(ctx, func() { _ = changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	message := make([]byte, 1) // what has changed does not matter
	for ctx.Err() == nil {
		followed(p.updateNetwork())
		// ENOBUFS means that there were too many changes for the socket.
		if _, err := changes.Read(message); err != nil && ctx.Err() == nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("following the pod's network: %w", err)
		}
	}
	return nil
}

// openChanges opens a socket that gets a message for every change of an interface or an address.
func openChanges() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	groups := &unix.SockaddrNetlink{
		Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR,
	}
	if err := unix.Bind(fd, groups); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

func (p *Programs) updateNetwork() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	interfaces, addresses, err := network()
	if err != nil {
		return err
	}
	err = errors.Join(p.putOwn(addresses), p.routeAll(interfaces))
	if p.inbound != nil {
		err = errors.Join(err, p.inbound.attachTo(interfaces))
	}
	return err
}

// putOwn makes addresses and those of the pod the content of kgw_own.
func (p *Programs) putOwn(addresses []netip.Addr) error {
	want := make(map[objectsAddress]bool)
	for _, ip := range slices.Concat(p.options.PodIPs, addresses) {
		want[objectsAddress{Ip: words(ip)}] = true
	}
	var errs []error
	for key := range want {
		if err := p.objects.KgwOwn.Put(key, uint32(1)); err != nil {
			errs = append(errs, fmt.Errorf("adding an address of the pod: %w", err))
		}
	}
	var gone []objectsAddress
	var key objectsAddress
	var value uint32
	entries := p.objects.KgwOwn.Iterate()
	for entries.Next(&key, &value) {
		if !want[key] {
			gone = append(gone, key)
		}
	}
	errs = append(errs, entries.Err())
	for _, key := range gone {
		if err := p.objects.KgwOwn.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("removing an address that the pod had: %w", err))
		}
	}
	return errors.Join(errs...)
}

// network returns the interfaces of this network namespace without loopback, and the addresses of
// all.
func network() (interfaces []net.Interface, addresses []netip.Addr, err error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, nil, fmt.Errorf("listing the interfaces: %w", err)
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("listing the addresses: %w", err)
	}
	for _, a := range list {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addresses = append(addresses, prefix.Addr().Unmap())
		}
	}
	isLoopback := func(i net.Interface) bool { return i.Flags&net.FlagLoopback != 0 }
	return slices.DeleteFunc(all, isLoopback), addresses, nil
}
