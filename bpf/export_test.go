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
