//go:build linux

package proxy

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestAddressesOfTheKernel(t *testing.T) {
	for _, text := range []string{"10.0.0.1:80", "[fd00::1]:65535", "[fe80::1%7]:443"} {
		var name unix.RawSockaddrAny
		want := netip.MustParseAddrPort(text)
		setAddress((*unix.RawSockaddrInet6)(unsafe.Pointer(&name)), want)
		if got := addressOf(&name); got != want {
			t.Errorf("%v became %v", want, got)
		}
	}
}

// TestConnectOutcome: an error that is only in the queue of errors yet is not a connection.
func TestConnectOutcome(t *testing.T) {
	for _, c := range []struct {
		name   string
		events int16
		failed syscall.Errno
		done   bool
	}{
		{"an ICMP error in the queue alone", unix.POLLERR, 0, false},
		{"the same a moment later", unix.POLLERR | unix.POLLHUP | unix.POLLOUT, syscall.EHOSTUNREACH, false},
		{"refused", unix.POLLERR | unix.POLLHUP, syscall.ECONNREFUSED, false},
		{"an error in the queue of a connection", unix.POLLERR | unix.POLLOUT, 0, true},
		{"a connection that has ended since", unix.POLLOUT | unix.POLLHUP, 0, true},
	} {
		done, err := connectOutcome(c.events, c.failed)
		if done != c.done || c.failed == 0 && err != nil || c.failed != 0 && !errors.Is(err, c.failed) {
			t.Errorf("%s: %t, %v", c.name, done, err)
		}
	}
}
