//go:build linux

package confine

import (
	"maps"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (include/uapi/linux/seccomp.h). Both architectures are little-endian,
// so that an argument's lower half comes first.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// newestCall is the highest number that this build knows. The kernel gives new calls higher ones.
const newestCall = unix.SYS_RSEQ_SLICE_YIELD

// answer is what a filter returns.
type answer uint32

const (
	allowed = answer(unix.SECCOMP_RET_ALLOW)
	refused = answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	unknown = answer(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
)

func (a answer) code() bpf.Instruction { return bpf.RetConstant{Val: uint32(a)} }

// filter returns the program that allows what rules do. A call without conditions depends on nothing but its
// number: since Linux 5.11 the kernel finds out once that it is allowed, and does not run the program for
// it again.
func filter(rules []rule) []bpf.Instruction {
	program := []bpf.Instruction{
		// The numbers of other architectures, as of 32-bit programs, mean other calls.
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch, SkipTrue: 1},
		refused.code(),
		bpf.LoadAbsolute{Off: offsetCall, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: newestCall, SkipTrue: 1},
		unknown.code(),
		// clone3 has its flags in memory, where a filter cannot read them. Programs go on with clone.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_CLONE3, SkipTrue: 1},
		unknown.code(),
	}
	byCall := map[uintptr][]rule{}
	for _, r := range rules {
		byCall[r.call] = append(byCall[r.call], r)
	}
	return append(program, search(slices.Sorted(maps.Keys(byCall)), byCall)...)
}

// search returns a program that finds one of calls by bisection, and answers it.
func search(calls []uintptr, rules map[uintptr][]rule) (program []bpf.Instruction) {
	if len(calls) > 1 {
		half := len(calls) / 2
		low, high := search(calls[:half], rules), search(calls[half:], rules)
		// Only a jump without a condition may be far.
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(calls[half]), SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(low))})
		return slices.Concat(program, low, high)
	}
	program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(calls[0]), SkipTrue: 1}, refused.code())
	for _, r := range rules[calls[0]] {
		program = append(program, r.allow()...)
	}
	return append(program, refused.code())
}

// allow returns a program that allows the rule's call if all conditions hold, and otherwise goes on behind
// itself.
func (r rule) allow() []bpf.Instruction {
	program := []bpf.Instruction{allowed.code()}
	for _, c := range slices.Backward(r.when) {
		check := []bpf.Instruction{bpf.LoadAbsolute{Off: uint32(offsetArgs + 8*c.arg), Size: 4}}
		if c.mask != all {
			check = append(check, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: c.mask})
		}
		// A value that is found skips the others and the next instruction.
		for i, v := range c.values {
			check = append(check, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(c.values) - i)})
		}
		if c.not {
			check = append(check, bpf.Jump{Skip: 1})
		}
		program = slices.Concat(check, []bpf.Instruction{bpf.Jump{Skip: uint32(len(program))}}, program)
	}
	return program
}
