//go:build linux

package proxy

import (
	"net/netip"
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
