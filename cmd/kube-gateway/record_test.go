//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// recording looks at every packet at a pod's eth0: what the first bytes of each direction of a
// connection are, and how often a SYN-ACK has the gateways' option.
type recording struct {
	mu    sync.Mutex
	begun map[flow]uint32 // the first sequence number of the data
	times map[flow]int    // of SYNs and SYN-ACKs
	seen  map[flow]bool
	bad   []string
	fd    int
	ended chan struct{}
}

// flow is one direction of a TCP connection.
type flow struct{ from, to netip.AddrPort }

func (f flow) String() string { return fmt.Sprintf("%v to %v", f.from, f.to) }

// record starts to look. It must be called before the connections in question begin.
func (l *lab) record(n *netlab.Node) *recording {
	l.t.Helper()
	r := &recording{begun: make(map[flow]uint32), times: make(map[flow]int), seen: make(map[flow]bool), ended: make(chan struct{})}
	must.Do(l.t, n.Do(func() (err error) {
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		// Of what does not fit the kernel tells.
		if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	}))
	stop := make(chan struct{})
	l.t.Cleanup(func() {
		close(stop)
		<-r.ended
		unix.Close(r.fd)
	})
	go func() {
		defer close(r.ended)
		packet := make([]byte, 256)
		for {
			n, from, err := unix.Recvfrom(r.fd, packet, 0)
			if at, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && at.Hatype == unix.ARPHRD_ETHER {
				r.look(packet[:n])
			} else if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
				r.report("reading packets: " + err.Error())
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return r
}

// begins returns how many SYNs and SYN-ACKs have come from an address.
func (r *recording) begins(from netip.AddrPort) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for f, times := range r.times {
		if f.from == from {
			n += times
		}
	}
	return n
}

func (r *recording) report(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < 10 {
		r.bad = append(r.bad, what)
	}
}

// look judges a packet with its Ethernet header.
func (r *recording) look(p []byte) {
	var f flow
	var tcp []byte
	size := 0 // of TCP with its data, in the packet and not only in p
	switch {
	case len(p) >= 34 && p[12] == 8 && p[13] == 0 && p[23] == unix.IPPROTO_TCP:
		begin := 14 + int(p[14]&15)*4
		tcp, size = p[min(begin, len(p)):], int(binary.BigEndian.Uint16(p[16:]))-int(p[14]&15)*4
		f = flow{netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[26:30])), 0), netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[30:34])), 0)}
	case len(p) >= 54 && p[12] == 0x86 && p[13] == 0xdd && p[20] == unix.IPPROTO_TCP:
		tcp, size = p[54:], int(binary.BigEndian.Uint16(p[18:]))
		f = flow{netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[22:38])), 0), netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[38:54])), 0)}
	}
	if len(tcp) < 20 {
		return
	}
	f.from = netip.AddrPortFrom(f.from.Addr(), binary.BigEndian.Uint16(tcp))
	f.to = netip.AddrPortFrom(f.to.Addr(), binary.BigEndian.Uint16(tcp[2:]))
	const syn, ack = 2, 16
	sequence, header := binary.BigEndian.Uint32(tcp[4:]), int(tcp[12]>>4)*4
	r.mu.Lock()
	if tcp[13]&syn != 0 {
		r.begun[f] = sequence + 1
		r.times[f]++
	}
	first, known := r.begun[f]
	r.mu.Unlock()
	if tcp[13]&syn != 0 {
		if n := ourOptions(tcp[20:min(header, len(tcp))]); n > 1 {
			r.report(fmt.Sprintf("%v: %d options in a packet with flags %#x", f, n, tcp[13]))
		}
		return
	}
	if size <= header || !known || sequence != first || len(tcp) < header+2 {
		return
	}
	// A handshake record of TLS (RFC 8446, section 5.1).
	if data := tcp[header:]; data[0] != 22 || data[1] != 3 {
		r.report(fmt.Sprintf("%v begins with %q", f, data))
	}
	r.mu.Lock()
	r.seen[f] = true
	r.mu.Unlock()
}

// ourOptions counts the options of bpf/option.h.
func ourOptions(options []byte) (n int) {
	for len(options) > 0 && options[0] != 0 {
		if options[0] == 1 {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return n
		}
		if options[0] == 253 && options[1] == 7 && string(options[2:6]) == "kgwy" {
			n++
		}
		options = options[options[1]:]
	}
	return n
}

// encrypted fails the test unless all connections so far began with TLS, and none escaped.
func (r *recording) encrypted(t *testing.T) {
	t.Helper()
	stats := must.Get(unix.GetsockoptTpacketStats(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS))(t)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) > 0 {
		t.Errorf("on the wire: %q", r.bad)
	}
	if stats.Drops > 0 || len(r.seen) < 20 {
		t.Errorf("%d packets were not looked at, %d directions were", stats.Drops, len(r.seen))
	}
	t.Logf("%d directions of connections began with TLS", len(r.seen))
}
