//go:build linux

package bpf

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Every helper in the objects must be one that a message can name, or be in every
// kernel with eBPF, so that none from after 5.10 comes in unnoticed.
func TestRequirementsAreComplete(t *testing.T) {
	for _, object := range []struct {
		load  func() (*ebpf.CollectionSpec, error)
		needs []requirement
	}{{loadObjects, requirements()}, {loadInbound, inboundRequirements()}} {
		spec, err := object.load()
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for _, need := range object.needs {
			listed = append(listed, need.what)
			var major, minor int
			if _, err := fmt.Sscanf(need.since, "%d.%d", &major, &minor); err != nil || major*100+minor > 510 {
				t.Errorf("%s came with Linux %s, after 5.10", need.what, need.since)
			}
		}
		for name, p := range spec.Programs {
			checkProgram(t, name, p, listed)
		}
	}
}

func checkProgram(t *testing.T, name string, p *ebpf.ProgramSpec, listed []string) {
	always := []asm.BuiltinFunc{asm.FnMapLookupElem, asm.FnMapUpdateElem, asm.FnMapDeleteElem}
	if len(name) > 15 || !strings.HasPrefix(name, namePrefix) {
		t.Errorf("%s: the kernel keeps 15 bytes of a name, and ours begin with %s", name, namePrefix)
	}
	if p.License != "Dual MIT/GPL" {
		t.Errorf("%s: license %q", name, p.License)
	}
	for _, i := range p.Instructions {
		if !i.IsBuiltinCall() {
			continue
		}
		f := asm.BuiltinFunc(i.Constant)
		if !slices.Contains(always, f) && !slices.Contains(listed, helperName(p.Type, f)) {
			t.Errorf("%s: %s is not listed", name, helperName(p.Type, f))
		}
	}
}

func TestMissingFeature(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("root is needed to ask the kernel what it has")
		}
		t.Skip("root is needed to ask the kernel what it has")
	}
	// As [Load] does. Before Linux 5.11 each probe takes some of what may be locked.
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	for _, needs := range [][]requirement{requirements(), inboundRequirements()} {
		if err := missingFeature(needs); err != nil {
			t.Errorf("this kernel, which runs the programs: %v", err)
		}
	}
	for _, c := range []struct {
		need requirement
		want string
	}{
		// Helper 16383 and hook 4000 are in no kernel.
		{haveHelper(ebpf.CGroupSockAddr, asm.BuiltinFunc(16383), "5.7"), "which came with Linux 5.7"},
		{haveHelper(ebpf.CGroupSockopt, asm.FnSkLookupTcp, "9.9"), "helper FnSkLookupTcp in programs of type CGroupSockopt"},
		{haveHook(ebpf.CGroupSockAddr, ebpf.AttachType(4000), "5.8"), "hook "},
	} {
		err := missingFeature([]requirement{haveMap(ebpf.Array, "3.19"), c.need})
		if err == nil || !strings.Contains(err.Error(), c.want) || api.Hint(err) == "" {
			t.Errorf("error %v, want one with %q and a hint", err, c.want)
		}
	}
}
