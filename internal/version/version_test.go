package version

import (
	"runtime/debug"
	"testing"
)

func TestChoose(t *testing.T) {
	module := func(v string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: v}}
	}
	for _, c := range []struct {
		name  string
		stamp string
		info  *debug.BuildInfo
		want  string
	}{
		{"the stamp wins", "v1.2.3", module("v9.9.9"), "v1.2.3"},
		{"go install", "", module("v1.0.0"), "v1.0.0"},
		{"go build without version control", "", module("(devel)"), Development},
		{"go test", "", module(""), Development},
		{"no build information", "", nil, Development},
	} {
		if got := choose(c.stamp, c.info); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
