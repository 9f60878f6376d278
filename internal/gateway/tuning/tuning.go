//go:build linux

// Package tuning is about the options of an application's socket that packets on the wire show, or that
// say how long to wait for packets: the gateway sets them on its own socket, whose packets these are.
package tuning

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Option is one of the options.
type Option uint8

// The options whose value is a number.
const (
	KeepAlive Option = iota
	KeepIdle
	KeepInterval
	KeepCount
	UserTimeout
	TOS
	TrafficClass
	Priority
	options // how many there are
)

// numbers are level and name of each.
var numbers = [options][2]int{
	KeepAlive:    {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
	KeepIdle:     {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
	KeepInterval: {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL},
	KeepCount:    {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
	UserTimeout:  {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT},
	TOS:          {unix.IPPROTO_IP, unix.IP_TOS},
	TrafficClass: {unix.IPPROTO_IPV6, unix.IPV6_TCLASS},
	Priority:     {unix.SOL_SOCKET, unix.SO_PRIORITY},
}

// Tuning is what an application has set. The zero value is nothing.
type Tuning struct {
	set    uint16
	values [options]int32
	// Congestion is the congestion control algorithm, empty if it was not set.
	Congestion string
}

// Set notes an option.
func (t *Tuning) Set(o Option, value int32) {
	t.set |= 1 << o
	t.values[o] = value
}

// Get returns the value of an option, and whether it was set.
func (t *Tuning) Get(o Option) (value int32, ok bool) {
	return t.values[o], t.set&(1<<o) != 0
}

// KeepIfSilent makes t ask for keepalive with the kernel's times if the application does not ask for any.
func (t *Tuning) KeepIfSilent() {
	if on, _ := t.Get(KeepAlive); on == 0 {
		t.set &^= 1<<KeepIdle | 1<<KeepInterval | 1<<KeepCount
		t.Set(KeepAlive, 1)
	}
}

// Times are those of keepalive: idle and interval in seconds, and the number of probes.
type Times [KeepCount + 1 - KeepIdle]int32

// KernelTimes returns what a new socket has, which the sysctls of the network namespace say.
func KernelTimes() (t Times, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return t, fmt.Errorf("asking for the times of keepalive: %w", err)
	}
	defer unix.Close(fd)
	for i := range t {
		option := numbers[int(KeepIdle)+i]
		value, err := unix.GetsockoptInt(fd, option[0], option[1])
		if err != nil {
			return t, fmt.Errorf("asking for the times of keepalive: %w", err)
		}
		t[i] = int32(value)
	}
	return t, nil
}

// Apply sets on socket fd what differs from was, which is what has been applied to it before, and takes
// back what is set no more, but for the algorithm and the times of keepalive. What the kernel refuses stays as it is. Keepalive without times gets the kernel's: Go gives accepted sockets
// its own.
func (t *Tuning) Apply(fd int, was *Tuning, times Times) error {
	if *t == *was {
		return nil
	}
	all := *t
	if on, _ := all.Get(KeepAlive); on == 0 {
		all.set &^= 1<<KeepAlive | 1<<KeepIdle | 1<<KeepInterval | 1<<KeepCount
	} else {
		for i, value := range times {
			if o := KeepIdle + Option(i); all.set&(1<<o) == 0 {
				all.Set(o, value)
			}
		}
	}
	var errs []error
	for o := range options {
		value, ok := all.Get(o)
		old, had := was.Get(o)
		switch {
		case !ok && (!had || o >= KeepIdle && o <= KeepCount):
			continue
		case !ok:
			value = 0 // the default of all others
		case had && old == value && o > KeepCount:
			continue
		}
		errs = append(errs, unix.SetsockoptInt(fd, numbers[o][0], numbers[o][1], int(value)))
	}
	if t.Congestion != "" && t.Congestion != was.Congestion {
		errs = append(errs, unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, t.Congestion))
	}
	return errors.Join(errs...)
}

// MaxHops is the highest TTL (IPv4) and hop limit (IPv6) of a packet. What the gateway sends to applications has it:
// those with TTL security (RFC 5082) drop packets that have less.
const MaxHops = 255

// HopOption returns level and name of the option that sets the TTL or hop limit of packets to ip.
func HopOption(ip netip.Addr) (level, name int) {
	if ip.Is4() {
		return unix.IPPROTO_IP, unix.IP_TTL
	}
	return unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
}
