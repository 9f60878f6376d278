package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/remote"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/status"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/terminal"
)

// statusOptions are the flags of status.
type statusOptions struct {
	targets targets.Flags
	output  string
	timeout time.Duration
}

func newStatusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [TARGET... | -f FILE | -l SELECTOR | --all]",
		Short: "Show how the gateways of pods are",
		Long: `Asks the gateways of pods how they are, and shows a line for each pod. Without a
selection these are the pods of the namespace that have a gateway; selected pods
without one are shown as "not enabled".

What is wrong with a gateway, and what to do about it, is told on the error
stream below the table. The exit code is 0 when the state of every pod could be
found out, also when that is a bad one, and 1 when a gateway that should run did
not answer, or a named pod was not found.

With -o json and -o yaml the output is a GatewayStatusList. Its items have the
pod, the state, what the kubelet says of the gateway's container, the gateway's
own status, and the problems found.`,
		Example: `  # All gateways of the namespace
  kubectl gateway status

  # Some pods, with everything there is to say in a line
  kubectl gateway status pod/web-0 pod/db-0 -o wide

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway status deploy/web sts/db

  # Pods that are not ready, for programs
  kubectl gateway status -A -o json | jq '.items[] | select(.state != "ready")'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.targets.AddFlags(cmd.Flags())
	o.targets.AddAllNamespacesFlag(cmd.Flags())
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "output format: json, yaml or wide")
	cmd.Flags().DurationVar(&o.timeout, "timeout", status.DefaultTimeout, "how long one gateway may take to answer")
	return cmd
}

func (o *statusOptions) run(ctx context.Context, a *app, args []string) error {
	if err := oneOf("output", o.output, []string{"", "json", "yaml", "wide"}); err != nil {
		return err
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout %s is not positive", o.timeout)
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, err := a.lookAt(ctx, o.targets, args)
	if err != nil {
		return err
	}
	collector := status.Collector{Asker: &remote.Client{Config: config, Kube: client}, Timeout: o.timeout, Now: time.Now}
	list, err := collector.Collect(ctx, found.pods)
	if err != nil {
		return err
	}
	if err := o.print(a, found, list); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	if err := a.reportMissing(found.missing); err != nil {
		return err
	}
	if list.Unread() {
		return errReported
	}
	return nil
}

func (o *statusOptions) print(a *app, found *selection, list *status.List) error {
	switch o.output {
	case "json", "yaml":
		text, err := encode(list, o.output)
		if err != nil {
			return err
		}
		_, err = io.WriteString(a.Out, text)
		return err
	}
	if len(list.Items) == 0 {
		_, err := fmt.Fprintf(a.ErrOut, "no gateways found in %s\nhint: 'kubectl gateway enable pod/NAME' adds one\n", found.where())
		return err
	}
	table := status.TableOptions{Namespace: o.targets.AllNamespaces || several(found.pods), Wide: o.output == "wide", Now: time.Now()}
	if err := list.Table(a.Out, terminal.For(a.Out, os.Getenv), table); err != nil {
		return err
	}
	return list.Advice(a.ErrOut, terminal.For(a.ErrOut, os.Getenv))
}
