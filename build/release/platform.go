package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// allPlatforms are those that the plugin supports.
const allPlatforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"

type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// base begins the names of the files for p.
func (p platform) base() string { return "kubectl-gateway_" + p.os + "_" + p.arch }

// archive is what users of p expect: zip on Windows.
func (p platform) archive() string {
	if p.os == "windows" {
		return p.base() + ".zip"
	}
	return p.base() + ".tar.gz"
}

func (p platform) program() string {
	if p.os == "windows" {
		return "kubectl-gateway.exe"
	}
	return "kubectl-gateway"
}

// compile builds the plugin. Nothing of the machine, the directory or the
// version control ends up in it.
func (o options) compile(ctx context.Context, output string, p platform) error {
	_, err := o.link(ctx, "./cmd/kubectl-gateway", output, p, "")
	return err
}

// link builds a program, with further flags for the linker and for "go build", and returns
// what the linker printed.
func (o options) link(ctx context.Context, program, output string, p platform, linker string, flags ...string) ([]byte, error) {
	flags = append(flags, "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+module+"/internal/version.stamp="+o.version+" "+linker, "-o", output, program)
	cmd := exec.CommandContext(ctx, "go", append([]string{"build"}, flags...)...)
	cmd.Dir = o.root
	toolchain, err := o.toolchain()
	if err != nil {
		return nil, err
	}
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN="+toolchain, "CGO_ENABLED=0", "GOFLAGS=", "GOOS="+p.os, "GOARCH="+p.arch)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// toolchain is the Go that the source asks for, so that a tag always gives the same bytes.
func (o options) toolchain() (string, error) {
	text, err := os.ReadFile(filepath.Join(o.root, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if version, ok := strings.CutPrefix(line, "go "); ok {
			return "go" + strings.TrimSpace(version), nil
		}
	}
	return "", errors.New("go.mod does not say which Go it needs")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
