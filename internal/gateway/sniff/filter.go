//go:build linux

package sniff

import (
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// MaxPorts bounds how many ports one filter can have.
const MaxPorts = 32

// portFilter returns a program of classic BPF that accepts packets of TCP and UDP from or to
// one of ports. A port of api.ListenerPairs for captured connections stands for those that are spread, too.
// The packets begin with the header of IP. Packets that do not show their
// ports, such as later fragments and those with IPv6's extension headers, are accepted, too:
// nothing that was asked for may be missing.
func portFilter(ports []uint16) ([]bpf.Instruction, error) {
	if len(ports) == 0 || len(ports) > MaxPorts {
		return nil, fmt.Errorf("a filter of %d ports", len(ports))
	}
	accept, reject := bpf.RetConstant{Val: 1 << 30}, bpf.RetConstant{}
	// acceptIf continues behind itself if the value differs.
	acceptIf := func(value uint32) []bpf.Instruction {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: 1}, accept}
	}
	spread := slices.ContainsFunc(api.ListenerPairs(), func(pair api.Listeners) bool { return slices.Contains(ports, pair.Capture) })
	anyPort := func(load bpf.Instruction) []bpf.Instruction {
		program := []bpf.Instruction{load}
		for _, port := range ports {
			program = append(program, acceptIf(uint32(port))...)
		}
		if spread {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: api.FirstSpreadPort, SkipTrue: 1}, accept)
		}
		return program
	}

	v4 := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		reject,
		bpf.LoadAbsolute{Off: 6, Size: 2}, // flags and fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: 0x1fff, SkipTrue: 1},
		accept,
		bpf.LoadMemShift{Off: 0},
	}
	v4 = append(v4, anyPort(bpf.LoadIndirect{Off: 0, Size: 2})...)
	v4 = append(v4, anyPort(bpf.LoadIndirect{Off: 2, Size: 2})...)
	v4 = append(v4, reject)

	v6 := []bpf.Instruction{bpf.LoadAbsolute{Off: 6, Size: 1}} // next header
	for _, extension := range []uint32{unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_FRAGMENT, unix.IPPROTO_DSTOPTS, unix.IPPROTO_AH} {
		v6 = append(v6, acceptIf(extension)...)
	}
	v6 = append(v6,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipTrue: 1},
		reject,
	)
	v6 = append(v6, anyPort(bpf.LoadAbsolute{Off: 40, Size: 2})...)
	v6 = append(v6, anyPort(bpf.LoadAbsolute{Off: 42, Size: 2})...)
	v6 = append(v6, reject)

	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipFalse: 0, SkipTrue: 1},
		reject,
		// Jumps of more than 255 instructions have an instruction of their own.
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 4, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(v4))},
	}
	return append(append(program, v4...), v6...), nil
}

// attach has the kernel run a program for each packet of a socket.
func attach(fd int, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("making the filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("setting the filter: %w", err)
	}
	return nil
}
