//go:build linux

package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// runLoader loads the programs of a gateway for the supervisor, which starts it, and ends. It attaches nothing and holds no key: of
// what it is given it parses one number.
func runLoader(args []string) error {
	if err := confine.HideMemory(); err != nil {
		return err
	}
	runtime.GOMAXPROCS(1)
	// It ends before it has much garbage.
	debug.SetGCPercent(-1)
	supervisor, err := handoff.InheritLoader()
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return fmt.Errorf("loader takes the pod's memory, and not %q", args)
	}
	memory, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return fmt.Errorf("reading the pod's memory: %w", err)
	}
	loaded, err := bpf.Load(memory)
	return bpf.SendLoaded(supervisor, loaded, err)
}
