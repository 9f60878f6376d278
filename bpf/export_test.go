//go:build linux

package bpf

import (
	"errors"
	"io"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// What the tests of package bpf_test see of the inside.

var FindPodCgroup = findPodCgroup

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

func endpoint(a netip.AddrPort) objectsEndpoint {
	return objectsEndpoint{Ip: words(a.Addr()), Port: networkOrder(a.Port())}
}

// Ingress lets the ingress program judge a packet that begins with its Ethernet header.
func (p *Programs) Ingress(packet []byte) (verdict int32, err error) {
	ret, err := p.inbound.programs.KgwIngress.Run(&ebpf.RunOptions{Data: packet})
	return int32(ret), err
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

// Sockets counts the sockets that the programs remember something of.
func (p *Programs) Sockets() (int, error) {
	// struct bpf_iter__bpf_sk_storage_map: meta, map, sk, value. Writes one
	// byte for every value.
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_sk_storage_map", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 24, asm.DWord),
			asm.JEq.Imm(asm.R6, 0, "out"),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord),
			asm.LoadMem(asm.R1, asm.R1, 0, asm.DWord),
			asm.Mov.Imm(asm.R2, 0),
			asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.Mov.Imm(asm.R3, 1),
			asm.FnSeqWrite.Call(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return 0, err
	}
	defer prog.Close()
	iter, err := link.AttachIter(link.IterOptions{Program: prog, Map: p.objects.KgwSockets})
	if err != nil {
		return 0, err
	}
	defer iter.Close()
	r, err := iter.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	bytes, err := io.ReadAll(r)
	return len(bytes), err
}

// Lookup returns what the map says about a destination.
func (p *Programs) Lookup(ip netip.Addr) (action uint32, err error) {
	err = p.objects.KgwRanges.Lookup(objectsRange{Bits: 128, Ip: words(ip)}, &action)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return actionExclude, nil
	}
	return action, err
}
