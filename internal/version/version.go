// Package version knows which build of kubectl-gateway this program is. The
// plugin and the gateway are stamped in this one place, because a plugin starts
// the gateway image of its own version.
package version

import (
	"crypto/fips140"
	"runtime/debug"
)

// stamp is set by the linker for a release:
//
//	go build -ldflags "-X github.com/kubectl-gateway/kubectl-gateway/internal/version.stamp=v1.2.3"
var stamp string

// Development is the version of a build that nothing identifies.
const Development = "dev"

// FIPS140 returns the version of the Go FIPS 140-3 module that does this process's cryptography, or
// nothing unless it is in FIPS 140-3 mode.
func FIPS140() string {
	if !fips140.Enabled() {
		return ""
	}
	return fips140.Version()
}

// String returns the version of this build: the linker's stamp, or else what
// the Go toolchain recorded about the module, or else Development.
func String() string {
	info, _ := debug.ReadBuildInfo()
	return choose(stamp, info)
}

func choose(stamp string, info *debug.BuildInfo) string {
	switch {
	case stamp != "":
		return stamp
	case info == nil || info.Main.Version == "" || info.Main.Version == "(devel)":
		return Development
	}
	return info.Main.Version
}
