//go:build linux

package existing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// States of a TCP socket (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpSynSent     = 2
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpTimeWait    = 6
	tcpCloseWait   = 8
	tcpListen      = 10
)

// Sizes of struct inet_diag_sockid, inet_diag_msg and nlattr (linux/inet_diag.h,
// linux/netlink.h), in bytes.
const (
	sizeofID      = 48
	sizeofMessage = 4 + sizeofID + 20
	sizeofAttr    = 4
)

// errGone means that a socket does not exist any more.
var errGone = errors.New("the socket is gone")

// socket is a TCP socket as the kernel describes it.
type socket struct {
	family, state uint8
	// id is the kernel's own name for the socket, with a cookie that is never reused.
	id [sizeofID]byte
	// local and remote are unmapped if a socket of IPv6 has them v4-mapped.
	local, remote netip.AddrPort
	// inode is 0 if no process has the socket, or not yet.
	inode uint32
	// cgroup is 0 if the kernel does not report it, or the socket has lost it.
	cgroup uint64
}

// abandoned reports whether the application has closed s, which only lingers. A socket that is
// not accepted yet has no inode either, but has not sent its FIN.
func (s *socket) abandoned() bool {
	return s.inode == 0 && (s.state == tcpFinWait1 || s.state == tcpFinWait2)
}

// parse reads a struct inet_diag_msg and the attributes behind it.
func parse(message []byte) (*socket, error) {
	if len(message) < sizeofMessage {
		return nil, fmt.Errorf("the description of a socket has %d bytes, not %d", len(message), sizeofMessage)
	}
	s := &socket{family: message[0], state: message[1], id: [sizeofID]byte(message[4:])}
	source, destination := s.id[4:20], s.id[20:36]
	if s.family == unix.AF_INET {
		source, destination = source[:4], destination[:4]
	} else if s.family != unix.AF_INET6 {
		return nil, fmt.Errorf("a socket has the unknown family %d", s.family)
	}
	from, _ := netip.AddrFromSlice(source)
	to, _ := netip.AddrFromSlice(destination)
	s.local = netip.AddrPortFrom(from.Unmap(), binary.BigEndian.Uint16(s.id[0:]))
	s.remote = netip.AddrPortFrom(to.Unmap(), binary.BigEndian.Uint16(s.id[2:]))
	s.inode = binary.NativeEndian.Uint32(message[sizeofMessage-4:])
	for rest := message[sizeofMessage:]; len(rest) >= sizeofAttr; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < sizeofAttr || size > len(rest) {
			return nil, fmt.Errorf("an attribute of a socket has %d of %d bytes", size, len(rest))
		}
		kind, value := binary.NativeEndian.Uint16(rest[2:]), rest[sizeofAttr:size]
		if kind == netlink.INET_DIAG_CGROUP_ID && len(value) == 8 {
			s.cgroup = binary.NativeEndian.Uint64(value)
		}
		// Attributes begin at multiples of four.
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return s, nil
}

// request returns a struct inet_diag_req_v2.
func request(family uint8, states uint32, id [sizeofID]byte) []byte {
	b := binary.NativeEndian.AppendUint32([]byte{family, unix.IPPROTO_TCP, 0, 0}, states)
	return append(b, id[:]...)
}

// getTCP asks for TCP sockets of both families (TCPDIAG_GETSOCK). SOCK_DIAG_BY_FAMILY knows one family a request, and
// the kernel goes through the sockets of the whole node for each request: a megabyte of hash table where there is none.
const getTCP = 18

// requestAll returns a struct inet_diag_req for sockets with any ends.
func requestAll(states uint32) []byte {
	const family, ext, dbs = unix.AF_UNSPEC, 0, 0
	b := append([]byte{family, 0, 0, ext}, make([]byte, sizeofID)...)
	b = binary.NativeEndian.AppendUint32(b, states)
	return binary.NativeEndian.AppendUint32(b, dbs)
}

// sockDiag is the kernel itself. Requests go to the network namespace of the calling thread; a
// missing answer is an error after a minute.
type sockDiag struct{}

func (sockDiag) dump(states uint32, f func(*socket) bool) error {
	r := nl.NewNetlinkRequest(getTCP, unix.NLM_F_DUMP)
	r.AddRawData(requestAll(states))
	var failed error
	err := r.ExecuteIter(unix.NETLINK_SOCK_DIAG, getTCP, func(message []byte) bool {
		var s *socket
		s, failed = parse(message)
		return failed == nil && f(s)
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return api.WithHint(ErrNoDiag, "the node's kernel, or its module tcp_diag, lacks it")
	case err != nil && !errors.Is(err, netlink.ErrDumpInterrupted):
		return fmt.Errorf("listing sockets: %w", err)
	}
	return failed
}

func (sockDiag) destroy(s *socket) error {
	r := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	r.AddRawData(request(s.family, 1<<s.state, s.id))
	_, err := r.Execute(unix.NETLINK_SOCK_DIAG, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESTALE):
		return errGone
	case errors.Is(err, unix.EOPNOTSUPP):
		return api.WithHint(ErrNoDestroy, "restart what keeps the connections open, so that it connects again")
	case err != nil:
		return fmt.Errorf("resetting %v to %v: %w", s.local, s.remote, err)
	}
	return nil
}
