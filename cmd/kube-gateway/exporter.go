//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/confine"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/exporter"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/handoff"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/supervisor"
)

// runExporter serves metrics until the supervisor, which starts it, closes its end of the socket.
func runExporter(ctx context.Context, args []string) error {
	if len(args) > 0 {
		return api.WithHint(fmt.Errorf("exporter does not take %q", strings.Join(args, " ")), "see 'kube-gateway help'")
	}
	if err := confine.HideMemory(); err != nil {
		return err
	}
	// It has little to do and should be small.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(supervisor.GCPercent)
	ln, asker, err := handoff.InheritExporter()
	if err != nil {
		return err
	}
	// Unlike a worker it does not go on without: no traffic depends on it.
	if _, err := confine.Apply(confine.Exporter); err != nil {
		return err
	}
	debug.FreeOSMemory()
	return exporter.Serve(ctx, ln, asker)
}
