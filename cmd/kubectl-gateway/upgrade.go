package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// upgradeOptions are the flags of upgrade.
type upgradeOptions struct {
	podFlags
	authorityFlags
	options inject.Options
}

func newUpgradeCommand(a *app) *cobra.Command {
	var o upgradeOptions
	cmd := &cobra.Command{
		Use:   "upgrade (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "Bring running gateways to the image of this plugin",
		Long: `Puts a gateway with the image of this plugin, or with --image, in the place of each
one that runs. The pods go on running, and no connection fails: the new gateway starts
beside the old one, takes over in one step, and serves all new connections from then
on. Those that are open stay with the old one, which ends when they have ended, or
resets them at the drain timeout. Targets are those of 'enable'.

All settings stay as they are in force, also those that 'mode', 'allow' and 'refresh'
have changed. A gateway with that image and this version is left as it is; --force
replaces it nevertheless, with a new certificate. The image may be an older one as well.

Of each workload one pod is upgraded at a time. When one fails, the other pods of its
workload are left as they are. The gateway of a pod that failed goes on as before, and
the same command continues where the first one stopped. The exit code is 1 then.

Kubernetes cannot remove the container of the old gateway: each upgrade adds one to
the pod, which uses nothing when it has ended.`,
		Example: `  # One pod, or all pods that a Deployment has now
  kubectl gateway upgrade pod/web-0
  kubectl gateway upgrade deploy/web

  # All gateways of the cluster, without a confirmation
  kubectl gateway upgrade --all -A --yes

  # An image of your own registry, and ten minutes for open connections
  kubectl gateway upgrade deploy/web --image=registry.example/kube-gateway:v1.2.3 --drain-timeout=10m

  # What would be done, tried by the server
  kubectl gateway upgrade --all --dry-run=server`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := o.options
			if !cmd.Flags().Changed("image") {
				options.Succession.Version = version
			}
			return o.verb(&inject.Injector{Options: options}).run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.podFlags.addFlags(f)
	addImage(f, &o.options.Image, "image of the gateway")
	addPullPolicy(f, &o.options.PullPolicy, "the cluster's")
	f.BoolVar(&o.options.Succession.Force, "force", false, "replace gateways that have the image and the version already, too")
	addDrainTimeout(f, &o.options.Succession.DrainTimeout, "how long connections of the old gateway may go on before they are reset")
	addTimeout(f, &o.options.Timeout, inject.DefaultTimeout, "how long one pod may take until the new gateway serves")
	addCertTTL(f, &o.options.TTL, days(ca.DefaultLeafTTL))
	o.authorityFlags.add(a, f, "authority-dir")
	addDryRun(f, &o.options.DryRun, "the server tries it")
	return cmd
}

// verb upgrades the gateways of pods by an injector with Options.
func (o *upgradeOptions) verb(injector *inject.Injector) *podVerb[inject.Result, injectItem] {
	v := injecting(&o.podFlags, injector, &o.authorityFlags, "upgrade the gateways of", injector.Replace)
	v.gateways, v.group, v.item = true, installed.WorkloadOf, newUpgradeItem
	v.survey = func(ctx context.Context, j *job, pods []corev1.Pod) (err error) {
		delivery := inject.DeliveryCSR
		for i := range pods {
			if gateway, ok := installed.Current(&pods[i]); ok && installed.ReadsSecret(&pods[i], gateway.Name) {
				delivery = inject.DeliverySecret
			}
		}
		v.uses = inject.Uses(delivery, injector.Authority)
		injector.Survey, err = surveyed(ctx, j, pods)
		return err
	}
	v.tell = func(result inject.Result) outcome { return tellUpgraded(result, &injector.Options) }
	return v
}

// tellUpgraded says what upgrade did with a pod.
func tellUpgraded(result inject.Result, options *inject.Options) outcome {
	told := injected(result, options)
	switch {
	case result.Err != nil:
	case result.Action == inject.Unchanged:
		told.done = fmt.Sprintf("gateway is %s already (%s)", result.Was.Version, result.Container)
		if options.Succession.Version == "" && result.Was.Version != version {
			told.notes = []string{fmt.Sprintf("its image has that name already; --force replaces it, should the image be another one (the plugin is %s)", version)}
		}
	case options.DryRun != installed.DryRunNone:
		told.done = fmt.Sprintf("gateway would be replaced (%s by %s)%s", result.Predecessor, result.Container, dryRunWords(options.DryRun))
	default:
		told.done, told.notes = replacedWords(result, "upgraded", options.Succession.DrainTimeout)
	}
	return told
}

func newUpgradeItem(result inject.Result) injectItem {
	item := injectItemOf(result)
	if result.Was != nil {
		item.OldVersion = terminal.Clean(result.Was.Version)
	}
	if s := result.Status; s != nil && result.Err == nil {
		item.Version = terminal.Clean(s.Version)
	}
	return item
}
