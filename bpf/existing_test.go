//go:build linux

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Captures and Guards say of existing connections what the programs do with new ones.
func TestCapturesAndGuards(t *testing.T) {
	needRoot(t)
	p := load(t, bpf.Options{
		Pod: bpf.Cgroup{Path: "/x", Rel: "/x", ID: 1}, Own: bpf.Cgroup{Path: "/x/y", Rel: "/x/y", ID: 2},
		PodIPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")},
		Coverage: api.Coverage{
			Capture: prefixes("10.0.0.0/8", "fd00::/8", "100::/16"), Services: prefixes("10.96.0.0/12"), Exclude: prefixes("10.1.0.0/16"),
			ExcludePorts: []uint16{443}, PlaintextFrom: sources("10.0.0.1/32"),
			Nodes: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, NodePorts: [2]uint16{30000, 30009},
		},
	})
	type answers struct{ permissive, strict bool }
	never, always, inStrictMode := answers{}, answers{true, true}, answers{false, true}
	captures := map[string]answers{
		"10.2.0.1:80": always, "[fd01::1]:80": always, "10.1.0.1:80": never, "11.0.0.1:80": never, "10.2.0.1:443": never,
		"10.0.0.7:80": never, "[fd00::7]:80": never, "127.0.0.1:18000": never, "[::1]:80": never, "10.96.0.1:80": inStrictMode,
		"[100:0:0:1::7]:80": never, "192.0.2.1:30000": inStrictMode, "192.0.2.1:30009": inStrictMode, "192.0.2.1:30010": never, "192.0.2.1:80": never,
	}
	type ends struct{ local, remote string }
	guards := map[ends]answers{
		{"10.0.0.7:80", "10.2.0.1:4000"}: always, {"[fd00::7]:80", "[fd01::1]:4000"}: always,
		{"10.0.0.7:80", "10.0.0.1:4000"}: never, {"10.0.0.7:80", "127.0.0.1:4000"}: never, {"10.0.0.7:80", "10.0.0.7:4000"}: never,
		{"127.0.0.1:80", "127.0.0.1:4000"}: never, {"10.0.0.8:80", "10.2.0.1:4000"}: always, {"[fe80::7]:80", "[fe80::9]:4000"}: inStrictMode,
		{"10.0.0.7:80", "10.1.0.1:4000"}: inStrictMode, {"10.0.0.7:80", "11.0.0.1:443"}: inStrictMode,
		{"10.0.0.7:443", "10.2.0.1:4000"}: inStrictMode, {"10.0.0.7:80", "192.0.2.1:30000"}: inStrictMode,
		{"10.0.0.7:18443", "10.2.0.1:4000"}: never, {"10.0.0.8:18443", "10.2.0.1:4000"}: never,
		{"10.0.0.7:18000", "10.2.0.1:4000"}: always, {"10.0.0.7:18444", "10.2.0.1:4000"}: always,
		{"127.0.0.1:18000", "10.0.0.8:4000"}: never, {"[::1]:18444", "[fd00::7]:4000"}: never,
	}
	for _, strict := range []bool{false, true} {
		must(t, p.SetStrict(strict))
		check := func(what any, got bool, err error, want answers) {
			t.Helper()
			if expected := strict && want.strict || !strict && want.permissive; got != expected || err != nil {
				t.Errorf("%v, strict %t: %t, %v", what, strict, got, err)
			}
		}
		for to, want := range captures {
			got, err := p.Captures(netip.MustParseAddrPort(to))
			check(to, got, err, want)
		}
		for c, want := range guards {
			got, err := p.Guards(netip.MustParseAddrPort(c.local), netip.MustParseAddrPort(c.remote))
			check(c, got, err, want)
		}
	}
}
