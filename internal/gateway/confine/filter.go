//go:build linux

package confine

import (
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
	rules = slices.Clone(rules)
	slices.SortFunc(rules, func(a, b rule) int { return int(a.call) - int(b.call) })
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
	return append(program, search(rules)...)
}

// search returns a program that finds the rule for a call by bisection.
func search(rules []rule) []bpf.Instruction {
	if len(rules) == 1 {
		body := rules[0].body()
		program := []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(rules[0].call), SkipTrue: uint8(len(body))}}
		return append(append(program, body...), refused.code())
	}
	half := len(rules) / 2
	low, high := search(rules[:half]), search(rules[half:])
	// Only a jump without a condition may be far.
	program := []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(rules[half].call), SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(low))},
	}
	return slices.Concat(program, low, high)
}

// body returns the program that answers the rule's call.
func (r rule) body() (program []bpf.Instruction) {
	for _, c := range r.when {
		program = append(program, bpf.LoadAbsolute{Off: uint32(offsetArgs + 8*c.arg), Size: 4})
		if c.mask != all {
			program = append(program, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: c.mask})
		}
		// A value that is found skips the others and the next instruction.
		for i, v := range c.values {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(len(c.values) - i)})
		}
		if c.not {
			program = append(program, bpf.Jump{Skip: 1})
		}
		program = append(program, refused.code())
	}
	return append(program, allowed.code())
}
