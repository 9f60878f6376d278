//go:build linux

package existing

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message returns a struct inet_diag_msg with one attribute, as the kernel sends it.
func message(family, state uint8, local, remote netip.AddrPort, inode uint32, kind uint16, value []byte) []byte {
	b := []byte{family, state, 0, 0}
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, ip := range []netip.Addr{local.Addr(), remote.Addr()} {
		at := len(b)
		if family == unix.AF_INET {
			b = append(b, ip.AsSlice()...)
		} else {
			sixteen := ip.As16()
			b = append(b, sixteen[:]...)
		}
		b = append(b, make([]byte, 16-(len(b)-at))...)
	}
	b = append(b, make([]byte, 4+8+16)...) // interface, cookie, expires, rqueue, wqueue, uid
	b = binary.NativeEndian.AppendUint32(b, inode)
	b = binary.NativeEndian.AppendUint16(b, uint16(sizeofAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return append(b, value...)
}

func TestParse(t *testing.T) {
	cgroup := binary.NativeEndian.AppendUint64(nil, 1<<40|7)
	for name, c := range map[string]struct {
		family        uint8
		local, remote string
	}{
		"IPv4":   {unix.AF_INET, "10.0.0.1:80", "10.0.0.2:40000"},
		"IPv6":   {unix.AF_INET6, "[fd00::1]:80", "[fd00::2]:40000"},
		"mapped": {unix.AF_INET6, "10.0.0.1:80", "10.0.0.2:40000"},
	} {
		local, remote := netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote)
		m := message(c.family, tcpEstablished, local, remote, 99, 21, cgroup)
		s, err := parse(m)
		if err != nil || s.local != local || s.remote != remote || s.inode != 99 || s.cgroup != 1<<40|7 ||
			s.family != c.family || s.state != tcpEstablished || string(s.id[:]) != string(m[4:52]) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if s, err = parse(message(c.family, tcpListen, local, remote, 0, 8, cgroup)); err != nil || s.cgroup != 0 {
			t.Errorf("%s, another attribute: %+v, %v", name, s, err)
		}
		for n := range sizeofMessage {
			if _, err := parse(m[:n]); err == nil {
				t.Errorf("%s: %d bytes are taken", name, n)
			}
		}
	}
	m := message(unix.AF_UNIX, 1, netip.MustParseAddrPort("1.1.1.1:1"), netip.MustParseAddrPort("1.1.1.1:1"), 0, 0, nil)
	if _, err := parse(m); err == nil {
		t.Error("a socket of no known family is taken")
	}
}

func FuzzParse(f *testing.F) {
	a := netip.MustParseAddrPort("10.0.0.1:80")
	f.Add(message(unix.AF_INET, 1, a, a, 1, 21, make([]byte, 8)))
	f.Add(message(unix.AF_INET6, 10, a, a, 1, 21, make([]byte, 5)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parse(b)
		if (s == nil) == (err == nil) {
			t.Fatalf("%+v, %v", s, err)
		}
		if s != nil && (!s.local.IsValid() || !s.remote.IsValid() || s.local.Addr().Is4In6()) {
			t.Errorf("%+v", s)
		}
	})
}
