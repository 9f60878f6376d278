//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/exporter"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
)

// runExporter serves metrics until the supervisor, which starts it, closes its end of the socket.
func runExporter(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return api.WithHint(fmt.Errorf("exporter does not take %q", strings.Join(args, " ")), "see 'kube-gateway help'")
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("protecting the exporter's memory: %w", err)
	}
	// It has little to do and should be small.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(supervisorGC)
	ln, asker, err := handoff.InheritExporter()
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	return exporter.Serve(ctx, ln, asker)
}
