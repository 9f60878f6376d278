//go:build linux

package main

import (
	"context"
	"encoding/json"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
)

// ctlMetrics prints the gateway's metrics. They are made here, of a status, and so
// cost the processes that stay nothing while nobody asks.
func ctlMetrics(ctx context.Context, c *call, args []string) error {
	if err := c.parseAll(args); err != nil {
		return err
	}
	var status api.Status
	if err := c.ask(ctx, control.Request{Op: control.OpStatus}, &status); err != nil {
		return err
	}
	if *c.output == "text" {
		return metrics.Write(c.stdout, &status)
	}
	all, err := metrics.Read(&status)
	if err != nil {
		return err
	}
	return json.NewEncoder(c.stdout).Encode(all)
}
