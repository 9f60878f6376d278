//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What the tests of package bpf_test see of the inside.

const SpreadPorts = spreadPorts

var FindPodCgroup = findPodCgroup

// LoadWith loads programs for a pod without a limit.
func LoadWith(o Options) (*Programs, error) {
	l, err := Load(0)
	if err != nil {
		return nil, err
	}
	return New(o, l)
}

// TuningIsNamed says whether getpeername(2) is enough for TuningOf.
func TuningIsNamed(fd int) (bool, error) {
	_, named, err := namedTuning(fd)
	return named, err
}

// HasTuning says whether the programs remember how the application at the other end has tuned its socket.
func HasTuning(fd int) (bool, error) {
	t, err := foundTuning(fd)
	return t.Set != 0, err
}

// Handovers counts the entries of the handover map.
func (p *Programs) Handovers() (n int, err error) {
	var key objectsTuple
	var value objectsHandover
	entries := p.objects.KgwHandover.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	return n, entries.Err()
}

// FillHandovers adds up to n entries that belong to no connection to the handover map, and returns
// how many it took.
func (p *Programs) FillHandovers(n int) (int, error) {
	for i := range n {
		ip := netip.AddrFrom4([4]byte{192, 0, byte(i >> 24), byte(i >> 16)})
		key := objectsTuple{Client: endpoint(netip.AddrPortFrom(ip, uint16(i)))}
		if err := p.objects.KgwHandover.Put(key, objectsHandover{}); errors.Is(err, unix.E2BIG) {
			return i, nil
		} else if err != nil {
			return i, err
		}
	}
	return n, nil
}

// WithoutTCX makes AttachInbound use clsact, as on a kernel before 6.6.
func (p *Programs) WithoutTCX() { p.withoutTCX = true }

// Strict says what SetStrict has set last.
func (p *Programs) Strict() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.Strict != 0
}

// Shown counts the connections whose SYN had the option and whose handshake has not ended.
func (p *Programs) Shown() (n int, err error) {
	var key objectsTuple
	var value uint32
	entries := p.objects.KgwShown.Iterate()
	for entries.Next(&key, &value) {
		n++
	}
	return n, entries.Err()
}

// TakeShown says whether a SYN of the connection had the option, and forgets it.
func (p *Programs) TakeShown(client, server netip.AddrPort) (bool, error) {
	err := p.objects.KgwShown.Delete(objectsTuple{Client: endpoint(client), Server: endpoint(server)})
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Ingress lets the ingress program judge a packet that begins with its Ethernet header.
func (p *Programs) Ingress(packet []byte) (verdict int32, err error) {
	ret, err := p.inbound.programs.KgwIngress.Run(&ebpf.RunOptions{Data: packet})
	return int32(ret), err
}

// Answer is Ingress with what becomes of the packet.
func (p *Programs) Answer(packet []byte) (answer []byte, verdict int32, err error) {
	answer = make([]byte, len(packet)+256)
	o := ebpf.RunOptions{Data: packet, DataOut: answer}
	ret, err := p.inbound.programs.KgwIngress.Run(&o)
	return o.DataOut, int32(ret), err
}

// Steers says whether a packet that is looked up a listener for gets the gateway's.
func (p *Programs) Steers(client, server netip.AddrPort) (bool, error) {
	// struct bpf_sk_lookup
	type lookup struct {
		Cookie           uint64
		Family, Protocol uint32
		RemoteIP4        uint32
		RemoteIP6        [4]uint32
		RemotePort       uint16 // network order
		_                uint16
		LocalIP4         uint32
		LocalIP6         [4]uint32
		LocalPort        uint32
		IngressIfindex   uint32
		_                uint32
	}
	in := lookup{Protocol: 6, RemotePort: networkOrder(client.Port()), LocalPort: uint32(server.Port())}
	if server.Addr().Is4() {
		in.Family, in.RemoteIP4, in.LocalIP4 = 2, words(client.Addr())[3], words(server.Addr())[3]
	} else {
		in.Family, in.RemoteIP6, in.LocalIP6 = 10, words(client.Addr()), words(server.Addr())
	}
	var out lookup
	_, err := p.inbound.programs.KgwLookup.Run(&ebpf.RunOptions{Context: in, ContextOut: &out})
	return out.Cookie != 0, err
}

// Attributes of sock_diag (linux/inet_diag.h, linux/sock_diag.h).
const (
	reqStorages  = 2  // INET_DIAG_REQ_SK_BPF_STORAGES
	reqMapFD     = 1  // SK_DIAG_BPF_STORAGE_REQ_MAP_FD
	diagStorages = 20 // INET_DIAG_SK_BPF_STORAGES
)

// sizeofDiag is the size of struct inet_diag_msg, in bytes.
const sizeofDiag = 72

// everySocket is a struct inet_diag_req_v2 for the TCP sockets of a family, but for listeners and
// those in TIME_WAIT, which have no storage.
func everySocket(family byte) []byte {
	const timeWait, listen = 6, 10 // include/net/tcp_states.h
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, ^uint32(1<<timeWait|1<<listen))
	return append(b, make([]byte, 48)...)
}

// Sockets counts the connections of this network namespace that have an entry in
// kgw_sockets. sock_diag reports their storages (Linux 5.7), which takes CAP_BPF.
func (p *Programs) Sockets() (n int, err error) {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		storages := nl.NewRtAttr(reqStorages|unix.NLA_F_NESTED, nil)
		storages.AddRtAttr(reqMapFD, nl.Uint32Attr(uint32(p.objects.KgwSockets.FD())))
		r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		r.AddRawData(append(everySocket(family), storages.Serialize()...))
		sockets, err := r.Execute(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY)
		if err != nil {
			return 0, fmt.Errorf("listing sockets: %w", err)
		}
		for _, socket := range sockets {
			attrs, err := nl.ParseRouteAttrAsMap(socket[sizeofDiag:])
			if err != nil {
				return 0, err
			}
			if _, ok := attrs[diagStorages|unix.NLA_F_NESTED]; ok {
				n++
			}
		}
	}
	return n, nil
}

// Lookup returns what the map says about a destination.
func (p *Programs) Lookup(to netip.AddrPort) (action uint32, err error) {
	return p.action(to)
}

// PutUrgent tries to change what only programs may.
func (p *Programs) PutUrgent() error { return p.objects.KgwUrgent.Put(uint32(0), uint32(1)) }
