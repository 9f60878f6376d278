//go:build linux

package main

import (
	"context"
	"encoding/json"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/control"
	"github.com/kubectl-gateway/kubectl-gateway/internal/gateway/metrics"
)

// ctlMetrics prints the gateway's metrics. It makes them from a status, so they cost the gateway's
// own processes nothing.
func ctlMetrics(ctx context.Context, c *call, r control.Request) error {
	var status api.Status
	if err := c.ask(ctx, r, &status); err != nil {
		return err
	}
	if *c.output == "text" {
		return metrics.Write(c.stdout, &status)
	}
	return json.NewEncoder(c.stdout).Encode(metrics.Read(&status))
}
