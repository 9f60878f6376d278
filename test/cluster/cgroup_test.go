//go:build linux

package main

import (
	"strings"
	"testing"
)

func TestFindCgroup2(t *testing.T) {
	const (
		v1     = "31 26 0:27 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory\n"
		hybrid = "40 26 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		pure   = "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
		part   = "50 24 0:30 /docker/abc /mnt rw - cgroup2 cgroup2 rw\n"
		decoy  = "60 24 0:31 / /cgroup2 rw - tmpfs cgroup2 rw\n"
	)
	for name, test := range map[string]struct{ mountinfo, want string }{
		"hybrid":              {v1 + hybrid, "/sys/fs/cgroup/unified"},
		"pure":                {pure, "/sys/fs/cgroup"},
		"not the root":        {part + pure, "/sys/fs/cgroup"},
		"another file system": {decoy + hybrid, "/sys/fs/cgroup/unified"},
		"none":                {v1 + part, ""},
		"damaged":             {"- \n - cgroup2 \n", ""},
	} {
		got, err := findCgroup2(strings.NewReader(test.mountinfo))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, test.want)
		}
	}
}

func TestInCgroup(t *testing.T) {
	const id = "kubectl-gateway-cluster-0123abcd"
	for text, want := range map[string]bool{
		"0::/" + id + "\n":                           true,
		"4:memory:/\n0::/" + id + "/node-1/system\n": true,
		"0::/\n":                                   false,
		"0::/" + id + "0/node-1\n":                 false,
		"0::/user.slice/" + id + "\n":              false,
		"4:memory:/" + id + "\n0::/\n":             false,
		"0::/" + id + "/node-1/system (deleted)\n": false,
		"": false,
	} {
		if got := inCgroup(text, id); got != want {
			t.Errorf("inCgroup(%q) = %v", text, got)
		}
	}
}
