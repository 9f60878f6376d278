package version

import (
	"runtime/debug"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
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
		expect.Equal(t, c.name, c.want, choose(c.stamp, c.info))
	}
}
