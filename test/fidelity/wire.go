//go:build linux

package fidelity

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// wireSocket is a socket whose packets leave the pod, as sock_diag(7) shows it: the application's own
// or a gateway's.
type wireSocket struct {
	TOS, TrafficClass int
	Priority          int
	Congestion        string
	// KeepAlive is when the next probe of an idle connection is due, zero if none is.
	KeepAlive time.Duration
}

// From linux/inet_diag.h: sizes in bytes, and the attributes that are asked for.
const (
	sizeofID      = 48
	sizeofMessage = 4 + sizeofID + 20

	attrCongestion   = 4
	attrTOS          = 5
	attrTrafficClass = 6
	attrClassID      = 17 // sk_priority, with the traffic class

	timerKeepAlive = 2
)

// TCP states of a connection whose socket can still send or wait for data.
const openStates = 1<<1 | 1<<4 | 1<<5 | 1<<8

// wire lists the sockets whose other end is c.Addr's address, or the one of IPv6 in c.Data.
func wire(c *call) result {
	six, _ := netip.AddrFromSlice(c.Data)
	var found []wireSocket
	// A socket of IPv6 may have a connection of IPv4.
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		some, err := socketsTo(family, c.Addr.Addr(), six)
		if err != nil {
			return failure(unix.EIO)
		}
		found = append(found, some...)
	}
	return result{Wire: found}
}

func socketsTo(family byte, four, six netip.Addr) (found []wireSocket, err error) {
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request := binary.NativeEndian.AppendUint32([]byte{family, unix.IPPROTO_TCP,
		1<<(attrCongestion-1) | 1<<(attrTOS-1) | 1<<(attrTrafficClass-1), 0}, openStates)
	r.AddRawData(append(request, make([]byte, sizeofID)...))
	messages, err := r.Execute(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m) < sizeofMessage || !leadsTo(m, four) && !leadsTo(m, six) {
			continue
		}
		var w wireSocket
		if m[2] == timerKeepAlive {
			w.KeepAlive = time.Duration(binary.NativeEndian.Uint32(m[4+sizeofID:])) * time.Millisecond
		}
		attributes, err := nl.ParseRouteAttr(m[sizeofMessage:])
		if err != nil {
			return nil, err
		}
		for _, a := range attributes {
			w.read(a)
		}
		found = append(found, w)
	}
	return found, nil
}

func leadsTo(message []byte, ip netip.Addr) bool {
	remote := message[4+20 : 4+36]
	if message[0] == unix.AF_INET {
		remote = remote[:4]
	}
	to, _ := netip.AddrFromSlice(remote)
	return to.Unmap() == ip.Unmap()
}

func (w *wireSocket) read(a syscall.NetlinkRouteAttr) {
	switch {
	case a.Attr.Type == attrTOS && len(a.Value) > 0:
		w.TOS = int(a.Value[0])
	case a.Attr.Type == attrTrafficClass && len(a.Value) > 0:
		w.TrafficClass = int(a.Value[0])
	case a.Attr.Type == attrClassID && len(a.Value) >= 4:
		w.Priority = int(binary.NativeEndian.Uint32(a.Value))
	case a.Attr.Type == attrCongestion:
		w.Congestion = unix.ByteSliceToString(a.Value)
	}
}
