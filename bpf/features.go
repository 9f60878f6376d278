//go:build linux

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// missingFeature returns an error that names the first thing that the programs
// need and the running kernel lacks, or nil if it lacks nothing. The versions are
// those of the commits that brought it to that type of program.
func missingFeature() error {
	for _, need := range []struct {
		what  string
		since string
		probe func() error
	}{
		{"map type LPM_TRIE", "4.11", haveMap(ebpf.LPMTrie)},
		{"map type LRU_HASH", "4.10", haveMap(ebpf.LRUHash)},
		{"map type SK_STORAGE", "5.2", haveMap(ebpf.SkStorage)},
		{"hook cgroup/connect4", "4.17", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect)},
		{"hook cgroup/connect6", "4.17", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect)},
		{"hook cgroup/getpeername4", "5.8", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername)},
		{"hook cgroup/getpeername6", "5.8", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetPeername)},
		{"hook cgroup/getsockname4", "5.8", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetSockname)},
		{"hook cgroup/getsockname6", "5.8", haveHook(ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetSockname)},
		{"hook cgroup/getsockopt", "5.3", haveHook(ebpf.CGroupSockopt, ebpf.AttachCGroupGetsockopt)},
		{"hook cgroup/setsockopt", "5.3", haveHook(ebpf.CGroupSockopt, ebpf.AttachCGroupSetsockopt)},
		{"hook sockops", "4.13", haveHook(ebpf.SockOps, ebpf.AttachCGroupSockOps)},
		{"helper bpf_sk_lookup_tcp in cgroup/connect", "5.0", haveHelper(ebpf.CGroupSockAddr, asm.FnSkLookupTcp)},
		{"helper bpf_sk_storage_get in cgroup/connect", "5.3", haveHelper(ebpf.CGroupSockAddr, asm.FnSkStorageGet)},
		{"helper bpf_get_current_cgroup_id in cgroup/connect", "5.7", haveHelper(ebpf.CGroupSockAddr, asm.FnGetCurrentCgroupId)},
		{"helper bpf_get_current_ancestor_cgroup_id in cgroup/connect", "5.7", haveHelper(ebpf.CGroupSockAddr, asm.FnGetCurrentAncestorCgroupId)},
		{"helper bpf_bind in cgroup/connect", "4.17", haveHelper(ebpf.CGroupSockAddr, asm.FnBind)},
		{"helper bpf_sk_storage_get in sockops", "5.3", haveHelper(ebpf.SockOps, asm.FnSkStorageGet)},
		{"helper bpf_sk_storage_get in cgroup/getsockopt", "5.3", haveHelper(ebpf.CGroupSockopt, asm.FnSkStorageGet)},
	} {
		if errors.Is(need.probe(), ebpf.ErrNotSupported) {
			return api.WithHint(fmt.Errorf("the kernel has no %s, which came with Linux %s", need.what, need.since),
				"the gateway needs Linux 5.10 or later, with CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL and CONFIG_IPV6")
		}
	}
	return nil
}

func haveMap(t ebpf.MapType) func() error {
	return func() error { return features.HaveMapType(t) }
}

func haveHelper(t ebpf.ProgramType, f asm.BuiltinFunc) func() error {
	return func() error { return features.HaveProgramHelper(t, f) }
}

// haveHook loads the smallest program for a hook: a kernel that does not know the
// hook says EINVAL, and nothing else about such a program can be invalid.
func haveHook(t ebpf.ProgramType, a ebpf.AttachType) func() error {
	return func() error {
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
	}
}
