//go:build linux

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// requirement is something that the programs need of the kernel.
type requirement struct {
	what string
	// since is the first Linux release that has it for that type of program.
	since string
	probe func() error
}

// requirements lists what not every kernel with eBPF has. The releases are those of the
// commits that brought it to that type of program. None is later than 5.10, the oldest
// that the gateway supports.
func requirements() []requirement {
	const connect, getsockopt = ebpf.CGroupSockAddr, ebpf.CGroupSockopt
	return []requirement{
		haveMap(ebpf.LRUHash, "4.10"),
		haveMap(ebpf.LPMTrie, "4.11"),
		haveMap(ebpf.SkStorage, "5.2"),
		haveHook(connect, ebpf.AttachCGroupInet4Connect, "4.17"),
		haveHook(connect, ebpf.AttachCGroupInet6Connect, "4.17"),
		haveHook(connect, ebpf.AttachCgroupInet4GetPeername, "5.8"),
		haveHook(connect, ebpf.AttachCgroupInet6GetPeername, "5.8"),
		haveHook(connect, ebpf.AttachCgroupInet4GetSockname, "5.8"),
		haveHook(connect, ebpf.AttachCgroupInet6GetSockname, "5.8"),
		haveHook(getsockopt, ebpf.AttachCGroupGetsockopt, "5.3"),
		haveHook(getsockopt, ebpf.AttachCGroupSetsockopt, "5.3"),
		haveHook(connect, ebpf.AttachCGroupUDP4Sendmsg, "4.18"),
		haveHook(connect, ebpf.AttachCGroupUDP6Sendmsg, "4.18"),
		haveHook(ebpf.SockOps, ebpf.AttachCGroupSockOps, "4.13"),
		haveHelper(connect, asm.FnBind, "4.17"),
		haveHelper(connect, asm.FnSkLookupTcp, "5.0"),
		haveHelper(connect, asm.FnSkRelease, "5.0"),
		haveHelper(connect, asm.FnSkStorageGet, "5.3"),
		haveHelper(connect, asm.FnSkStorageDelete, "5.3"),
		haveHelper(connect, asm.FnGetCurrentCgroupId, "5.7"),
		haveHelper(connect, asm.FnGetCurrentAncestorCgroupId, "5.7"),
		haveHelper(getsockopt, asm.FnSkStorageGet, "5.3"),
		haveHelper(getsockopt, asm.FnKtimeGetNs, "5.3"),
		haveHelper(ebpf.SocketFilter, asm.FnSkbLoadBytesRelative, "4.18"),
		haveHelper(ebpf.SocketFilter, asm.FnKtimeGetNs, "4.1"),
		haveHelper(ebpf.SockOps, asm.FnSockOpsCbFlagsSet, "4.16"),
		haveHelper(ebpf.SockOps, asm.FnSkStorageGet, "5.3"),
		haveHelper(ebpf.SockOps, asm.FnSkStorageDelete, "5.3"),
		haveHelper(ebpf.SockOps, asm.FnSockMapUpdate, "4.14"),
		haveHelper(ebpf.SockOps, asm.FnReserveHdrOpt, "5.10"),
		haveHelper(ebpf.SockOps, asm.FnStoreHdrOpt, "5.10"),
		haveHelper(ebpf.SockOps, asm.FnLoadHdrOpt, "5.10"),
		haveHook(ebpf.SkLookup, ebpf.AttachSkLookup, "5.9"),
		haveHelper(ebpf.SkLookup, asm.FnSkAssign, "5.9"),
		haveHelper(ebpf.SkLookup, asm.FnSkRelease, "5.9"),
	}
}

// missingFeature returns an error that names the first requirement that the
// running kernel does not meet, or nil if it meets all of them.
func missingFeature(all []requirement) error {
	for _, need := range all {
		if errors.Is(need.probe(), ebpf.ErrNotSupported) {
			return api.WithHint(fmt.Errorf("the kernel has no %s, which came with Linux %s", need.what, need.since),
				"the gateway needs Linux 5.10 or later, with CONFIG_CGROUP_BPF and CONFIG_IPV6")
		}
	}
	return nil
}

func haveMap(t ebpf.MapType, since string) requirement {
	return requirement{fmt.Sprintf("map type %v", t), since, func() error { return features.HaveMapType(t) }}
}

func haveHelper(t ebpf.ProgramType, f asm.BuiltinFunc, since string) requirement {
	return requirement{helperName(t, f), since, func() error { return features.HaveProgramHelper(t, f) }}
}

func helperName(t ebpf.ProgramType, f asm.BuiltinFunc) string {
	return fmt.Sprintf("helper %v in programs of type %v", f, t)
}

// haveHook loads the smallest program for a hook. A kernel without the hook says EINVAL:
// nothing else about such a program can be invalid.
func haveHook(t ebpf.ProgramType, a ebpf.AttachType, since string) requirement {
	return requirement{fmt.Sprintf("hook %v", a), since, func() error {
		if err := features.HaveProgramType(t); err != nil {
			return err
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: t, AttachType: a, License: "Dual MIT/GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
		})
		if errors.Is(err, unix.EINVAL) {
			return ebpf.ErrNotSupported
		}
		if err != nil {
			return err
		}
		return p.Close()
	}}
}

// knowsInterface reports whether programs that look for a listener see by which interface a packet
// came, which Linux 5.17 brought. Without it they go by the source address alone.
func knowsInterface() bool {
	const ingressIfindex = 64 // offset in struct bpf_sk_lookup
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Dual MIT/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R0, asm.R1, ingressIfindex, asm.Word), asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	})
	if err != nil {
		return false
	}
	p.Close()
	return true
}
