package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
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
	// failIfExpiring is a duration, or empty.
	failIfExpiring string
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
not answer, or a named pod was not found. With --fail-if-expiring it is 1 also when
a certificate ends within that time, or has ended; a line on the error stream names
the pods.

With -o json and -o yaml the output is a GatewayStatusList. Its items have the
pod, the state, what the kubelet says of the gateway's container, the gateway's
own status, and the problems found.`,
		Example: `  # All gateways of the namespace
  kubectl gateway status

  # Some pods, with everything there is to say in a line
  kubectl gateway status pod/web-0 pod/db-0 -o wide

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway status deploy/web sts/db

  # From a scheduled job: fail in time for somebody to renew certificates
  kubectl gateway status -A -o json --fail-if-expiring=7d >/dev/null

  # Pods that are not ready, for programs
  kubectl gateway status -A -o json | jq '.items[] | select(.state != "ready")'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.targets.AddFlags(cmd.Flags())
	o.targets.AddAllNamespacesFlag(cmd.Flags())
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "output format: json, yaml or wide")
	cmd.Flags().DurationVar(&o.timeout, "timeout", status.DefaultTimeout, "how long one gateway may take to answer")
	cmd.Flags().StringVar(&o.failIfExpiring, "fail-if-expiring", "", "exit with 1 if a certificate ends within this time, such as 48h or 30d")
	return cmd
}

func (o *statusOptions) run(ctx context.Context, a *app, args []string) error {
	if err := oneOf("output", o.output, []string{"", "json", "yaml", "wide"}); err != nil {
		return err
	}
	if o.timeout <= 0 {
		return fmt.Errorf("--timeout %s is not positive", o.timeout)
	}
	var soon time.Duration
	if o.failIfExpiring != "" {
		var err error
		if soon, err = ca.ParseTTL(o.failIfExpiring); err != nil {
			return fmt.Errorf("--fail-if-expiring: %w", err)
		}
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
	err = a.reportMissing(found.missing)
	if list.Unread() || soon > 0 && a.reportExpiring(list, soon, time.Now()) {
		err = errReported
	}
	return err
}

// reportExpiring names the pods whose certificates end within so long, and reports
// whether there are any.
func (a *app) reportExpiring(list *status.List, within time.Duration, now time.Time) bool {
	var pods []string
	for _, i := range list.Expiring(within, now) {
		left := i.Status.Cert.NotAfter.Sub(now)
		when := "in " + duration.HumanDuration(left)
		if left <= 0 {
			when = duration.HumanDuration(-left) + " ago"
		}
		pods = append(pods, fmt.Sprintf("pod/%s -n %s (%s)", i.Pod, i.Namespace, when))
	}
	if len(pods) == 0 {
		return false
	}
	fmt.Fprintf(a.ErrOut, "error: certificates end within %s: %s\nhint: 'kubectl gateway rotate' renews them\n",
		duration.HumanDuration(within), line(strings.Join(pods, ", ")))
	return true
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
