//go:build linux

package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// States of a socket in /proc/net/tcp (linux: net/tcp_states.h).
const (
	tcpSynSent  = "02"
	tcpTimeWait = "06"
)

// tcpSockets counts the IPv4 sockets in a state that fit.
func tcpSockets(t testing.TB, state string, fits func(local, remote netip.AddrPort) bool) (count int) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(field string) netip.AddrPort {
		var ip uint32
		var port uint16
		if _, err := fmt.Sscanf(field, "%08X:%04X", &ip, &port); err != nil {
			t.Fatalf("socket address %q: %v", field, err)
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], ip)
		return netip.AddrPortFrom(netip.AddrFrom4(b), port)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[3] == state && fits(parse(fields[1]), parse(fields[2])) {
			count++
		}
	}
	return count
}
