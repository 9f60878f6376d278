//go:build linux

// Package tuning is about the options of an application's socket that packets on the wire show, or that
// say how long to wait for packets: the gateway sets them on its own socket, whose packets these are.
package tuning

import (
	"errors"

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

// Apply sets on socket fd what differs from was, which is what has been applied to it before. What the
// kernel refuses stays as it is. Times of keepalive are set only if the application wants keepalive: the
// gateway has its own otherwise.
func (t *Tuning) Apply(fd int, was *Tuning) error {
	if *t == *was {
		return nil
	}
	var errs []error
	wanted, _ := t.Get(KeepAlive)
	for o := range options {
		value, ok := t.Get(o)
		old, had := was.Get(o)
		switch {
		case !ok, o <= KeepCount && wanted == 0, o > KeepCount && had && old == value:
			continue
		}
		errs = append(errs, unix.SetsockoptInt(fd, numbers[o][0], numbers[o][1], int(value)))
	}
	if t.Congestion != "" && t.Congestion != was.Congestion {
		errs = append(errs, unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, t.Congestion))
	}
	return errors.Join(errs...)
}
