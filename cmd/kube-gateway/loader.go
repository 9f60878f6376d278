//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/kubectl-gateway/kubectl-gateway/bpf"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// loadTimeout bounds what takes a tenth of a second, and much longer on a busy node or in a pod that has little memory left. The
// loader keeps it by itself: a timer that is stopped still wakes its process, and the supervisor has pages to give back until then.
const loadTimeout = time.Minute

// runLoader loads the programs of a gateway for the supervisor, which starts it, and ends. It attaches nothing and holds no key: of
// what it is given it parses one number.
func runLoader(args []string) error {
	if err := confine.HideMemory(); err != nil {
		return err
	}
	runtime.GOMAXPROCS(1)
	time.AfterFunc(loadTimeout, func() {
		fmt.Fprintf(os.Stderr, "error: the eBPF programs were not loaded within %v\n", loadTimeout)
		os.Exit(1)
	})
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
