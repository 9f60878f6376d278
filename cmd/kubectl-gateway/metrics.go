package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
)

// metricsOptions are the flags of metrics.
type metricsOptions struct {
	output  string
	timeout time.Duration
}

func newMetricsCommand(a *app) *cobra.Command {
	var o metricsOptions
	cmd := &cobra.Command{
		Use:   "metrics POD",
		Short: "Print the Prometheus metrics of a gateway",
		Long: `Prints the metrics of a pod's gateway in Prometheus' text format or as JSON. They come
by exec, as the status does: the gateway opens no port. A scheduled job can push them
to a Pushgateway, with the labels namespace and pod that
examples/grafana-dashboard.json expects.

The exit code is 0 if the gateway answered, and 1 otherwise.`,
		Example: `  # All metrics of one gateway
  kubectl gateway metrics pod/web-0

  # Connections that were not encrypted
  kubectl gateway metrics web-0 | grep -E 'result="(plaintext|refused)"'

  # To a Pushgateway
  kubectl gateway metrics web-0 | curl --data-binary @- http://pushgateway:9091/metrics/job/kube-gateway/namespace/default/pod/web-0

  # When the certificate ends, for programs
  kubectl gateway metrics web-0 -o json | jq '.families[] | select(.name | contains("not_after"))'`,
		ValidArgsFunction: a.completeTargets(enabled),
		Args:              cobra.ExactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	addOutput(cmd.Flags(), &o.output, "text", "text", "json")
	addTimeout(cmd.Flags(), &o.timeout, status.DefaultTimeout, "how long the gateway may take to answer")
	return cmd
}

func (o *metricsOptions) run(ctx context.Context, a *app, args []string) error {
	gateway, err := a.oneGateway(ctx, args)
	if err != nil {
		return err
	}
	metrics, err := remote.InTime(ctx, o.timeout, "", func(ctx context.Context) (*api.Metrics, error) { return gateway.Metrics(ctx) })
	if err != nil {
		return fmt.Errorf("reading the metrics of pod %s/%s: %w", gateway.Ref().Namespace, gateway.Ref().Pod, err)
	}
	if o.output != "text" {
		return a.printAs("metrics", metrics, o.output)
	}
	return a.print("metrics", output.Exposition(metrics))
}
