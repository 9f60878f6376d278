package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// enableOptions are the flags of enable.
type enableOptions struct {
	settings
	targets targets.Flags
	confirm confirmation
	output  string
}

func newEnableCommand(a *app) *cobra.Command {
	return newEnableCommandFor(a, &enableOptions{})
}

// newEnableCommandFor returns the command that stores its flags in o.
func newEnableCommandFor(a *app, o *enableOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "Add gateways to running pods",
		Long: `Adds a gateway to each pod and waits until it is ready; the pods go on running. From
then on new connections between pods with gateways are encrypted, to pod addresses
and to Services alike.

A target is pod/NAME, the name of a pod alone, or a workload, which stands for its
present pods: deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, cronjob/NAME, and
svc/NAME for the pods behind a Service. Files can name pods and workloads as well.
Later pods of a workload get no gateway: see 'watch'.

enable skips pods with a working gateway, and replaces a gateway that died or was
disabled. A failed pod does not stop the others, and makes the exit code 1.

Connections that are open already stay in plaintext, and are counted and listed.
--existing=reset closes them, also in pods that have a gateway already, so that the
applications make new ones, which are encrypted.`,
		Example: `  # Two pods
  kubectl gateway enable pod/web-0 pod/db-0

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway enable deploy/web sts/db

  # The pods and workloads in a directory of manifests
  kubectl gateway enable -f manifests/ -R

  # All pods of the cluster, without a confirmation
  kubectl gateway enable --all -A --yes

  # All pods with a label, refusing what cannot be encrypted
  kubectl gateway enable -l app=web --mode=strict

  # Only pods of namespace prod may connect
  kubectl gateway enable pod/db-0 --mode=strict --allow='ns/prod/sa/*'

  # Metrics at a port of the pod, for Prometheus
  kubectl gateway enable deploy/web --metrics-addr=:18445

  # No key reaches the API server, and no right to Secrets is needed
  kubectl gateway enable pod/web-0 --delivery=csr

  # Print what enable would create, tried by the server, without keys
  kubectl gateway enable pod/web-0 --dry-run=server -o yaml`,
		ValidArgsFunction: a.completeTargets(toEnable),
		RunE: func(cmd *cobra.Command, args []string) error {
			options, given := o.complete()
			if options.KeepSecret && options.Delivery == inject.DeliveryCSR {
				return errors.New("--keep-secret and --delivery=csr are both given, and csr makes no Secret")
			}
			return o.run(cmd.Context(), a, options, given, args)
		},
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	o.settings.addFlags(f, inject.DeliverySecret)
	f.BoolVar(&o.options.KeepSecret, "keep-secret", false, "keep the Secret with the pod's key after the gateway has read it")
	addDryRun(f, &o.options.DryRun, "the server tries it")
	addResults(f, &o.output)
	return cmd
}

// run connects to the cluster and enables the pods that args and flags select.
func (o *enableOptions) run(ctx context.Context, a *app, options inject.Options, given survey.Ranges, args []string) error {
	if options.DryRun == installed.DryRunNone {
		if err := o.confirm.check(a, &o.targets); err != nil {
			return err
		}
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, missing := a.find(ctx, &o.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	signer, err := authority.Load(ctx, authority.Location{Client: client, Dir: o.authorityDir})
	if err != nil {
		return fmt.Errorf("loading the authority: %w", err)
	}
	injector := &inject.Injector{
		Client:    client,
		Authority: signer,
		Gateways:  remote.NewClient(config, client),
		Options:   options,
	}
	return o.enable(ctx, a, client, injector, given, found, missing)
}

// enable is run with everything at hand. missing joins the errors of named pods
// that are not there.
func (o *enableOptions) enable(ctx context.Context, a *app, client kubernetes.Interface, injector *inject.Injector,
	given survey.Ranges, found *targets.Selection, missing error,
) error {
	report := newEnableReport(a, o.output, injector.Options.DryRun)
	report.namespaces = several(found.Pods)
	pods := sift(found, report.skipLeaving)
	if injector.Options.DryRun == installed.DryRunNone {
		if err := o.confirm.ask(ctx, a, &o.targets, "enable", pods); err != nil {
			return err
		}
	}
	report.missing(missing)
	var results []inject.Result
	if len(pods) > 0 {
		if err := inject.CheckServer(ctx, client.Discovery(), injector.Options.Delivery); err != nil {
			return err
		}
		cluster, err := survey.Run(ctx, client, pods, given)
		if err != nil {
			return err
		}
		report.warn("", cluster.Warnings)
		injector.Survey = cluster
		results = injector.EnableAll(ctx, pods, o.parallel, report.add)
	}
	report.ofWorkloads(found.Workloads)
	err := report.finish(results)
	if ctx.Err() != nil {
		// What was left is said; main says that the command was interrupted.
		return ctx.Err()
	}
	return err
}
