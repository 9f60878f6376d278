//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/gatewaylab"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/netlab"
)

// measureStart starts one gateway, and measures all of its processes until settle after it is ready: by then it
// has returned what starting took.
func measureStart(ctx context.Context, program, like string, settle time.Duration) (found []value, err error) {
	lab, err := netlab.Open(1, warn)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	authority, err := gatewaylab.NewAuthority()
	if err != nil {
		return nil, err
	}
	g, err := gatewaylab.Start(ctx, gatewaylab.Spec{
		Node: lab.Node(0), Program: program, Authority: authority, Dir: dir, Configure: configuration(like),
	})
	if err != nil {
		return nil, err
	}
	defer g.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(settle):
	}
	stat, err := readFields(filepath.Join(g.Cgroup, "cpu.stat"))
	if err != nil {
		return nil, fmt.Errorf("reading the CPU time of a gateway: %w", err)
	}
	return []value{
		{tableStart, "in user mode", "ms", float64(stat["user_usec"]) / 1e3},
		{tableStart, "in the kernel", "ms", float64(stat["system_usec"]) / 1e3},
		{tableStart, "both", "ms", float64(stat["usage_usec"]) / 1e3},
	}, nil
}
