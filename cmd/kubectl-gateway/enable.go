package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
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
			options := o.complete()
			if options.KeepSecret && options.Delivery == inject.DeliveryCSR {
				return errors.New("--keep-secret and --delivery=csr are both given, and csr makes no Secret")
			}
			return o.verb(options).run(cmd.Context(), a, args)
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

// verb adds gateways to pods.
func (o *enableOptions) verb(options inject.Options) *podVerb[inject.Result, enableItem] {
	v := &podVerb[inject.Result, enableItem]{
		targets: &o.targets, output: o.output, parallel: o.parallel, question: "enable",
		begin: func(ctx context.Context, config *rest.Config, client kubernetes.Interface) (work[inject.Result], error) {
			signer, err := authority.Load(ctx, authority.Location{Client: client, Dir: o.authorityDir})
			if err != nil {
				return nil, fmt.Errorf("loading the authority: %w", err)
			}
			return o.work(&inject.Injector{Client: client, Authority: signer, Gateways: remote.NewClient(config, client), Options: options}), nil
		},
		uses: inject.Uses(options.Delivery),
		refuse: func(pod *corev1.Pod, err error) inject.Result {
			return inject.Result{Pod: pod, Action: inject.Failed, Err: err}
		},
		tell:    func(result inject.Result) outcome { return tellEnabled(result, options.DryRun) },
		item:    newEnableItem,
		closing: func(found *targets.Selection, _ []inject.Result) []string { return ofWorkloads(found.Workloads) },
	}
	if options.DryRun == installed.DryRunNone {
		v.confirm = &o.confirm
	} else {
		v.document = func(results []inject.Result) (string, error) { return dryRunObjects(results, o.output) }
	}
	return v
}

// work enables pods, after a look at the cluster that they are in.
func (o *enableOptions) work(injector *inject.Injector) work[inject.Result] {
	return func(ctx context.Context, r *report, pods []corev1.Pod) (_ func(*corev1.Pod) inject.Result, err error) {
		if err := inject.CheckServer(ctx, injector.Client.Discovery(), injector.Options.Delivery); err != nil {
			return nil, err
		}
		if injector.Survey, err = survey.Run(ctx, injector.Client, pods, injector.Options.Named); err != nil {
			return nil, err
		}
		r.warn("", injector.Survey.Warnings)
		if injector.Options.Mode == api.Strict {
			r.warn("", injector.Survey.StrictUnknown())
		}
		return func(pod *corev1.Pod) inject.Result { return injector.Enable(ctx, pod) }, nil
	}
}
