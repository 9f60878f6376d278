//go:build linux

package bpf

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cilium/ebpf"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
)

func TestSize(t *testing.T) {
	reserved := uint32(lruShare * must.Get(ebpf.PossibleCPU())(t))
	type sizes struct{ Handover, Shown, Works uint32 }
	for _, c := range []struct {
		memory int64
		want   sizes
	}{
		{0, sizes{65536, 16384, 4096}},
		{16 << 20, sizes{2048, max(512, reserved), max(128, reserved)}},
		{768 << 20, sizes{16384, max(4096, reserved), max(1024, reserved)}},
		{64 << 30, sizes{65536, 16384, 4096}},
	} {
		spec := must.Get(loadObjects())(t)
		must.Do(t, size(spec, c.memory))
		got := sizes{spec.Maps["kgw_handover"].MaxEntries, spec.Maps["kgw_shown"].MaxEntries, spec.Maps["kgw_works"].MaxEntries}
		want := sizes{c.want.Handover, min(c.want.Shown, 16384), min(c.want.Works, 4096)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d bytes (-want +got):\n%s", c.memory, diff)
		}
	}
}
