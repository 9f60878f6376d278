package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// upgradeOptions are the flags of upgrade.
type upgradeOptions struct {
	podFlags
	options      inject.Options
	authorityDir string
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
	addImage(f, &o.options.Image)
	addPullPolicy(f, &o.options.PullPolicy, "the cluster's")
	f.BoolVar(&o.options.Succession.Force, "force", false, "replace gateways that have the image and the version already, too")
	addDrainTimeout(f, &o.options.Succession.DrainTimeout, "how long connections of the old gateway may go on before they are reset")
	addTimeout(f, &o.options.Timeout, inject.DefaultTimeout, "how long one pod may take until the new gateway serves")
	addCertTTL(f, &o.options.TTL)
	addAuthorityDir(f, &o.authorityDir, "authority-dir")
	addDryRun(f, &o.options.DryRun, "the server tries it")
	return cmd
}

// verb upgrades the gateways of pods by an injector with Options.
func (o *upgradeOptions) verb(injector *inject.Injector) *podVerb[inject.Result, upgradeItem] {
	options := &injector.Options
	v := &podVerb[inject.Result, upgradeItem]{
		podFlags: &o.podFlags, gateways: true,
		begin: func(ctx context.Context, j *job) (_ worker[inject.Result], err error) {
			injector.Client, injector.Gateways = j.client, j.gateways
			if injector.Authority, err = authority.Load(ctx, authority.Location{Client: j.client, Dir: o.authorityDir}); err != nil {
				return nil, fmt.Errorf("loading the authority: %w", err)
			}
			return injector.Replace, nil
		},
		uses: []rights.Use{rights.Enable},
		refuse: func(pod *corev1.Pod, err error) inject.Result {
			return inject.Result{Pod: pod, Action: inject.Failed, Err: err}
		},
		tell:   func(result inject.Result) outcome { return tellUpgraded(result, options) },
		item:   newUpgradeItem,
		group:  workloadOf,
		failed: func(result inject.Result) error { return result.Err },
	}
	v.survey = func(ctx context.Context, j *job, pods []corev1.Pod) (err error) {
		for i := range pods {
			if gateway, ok := installed.Current(&pods[i]); ok && installed.ReadsSecret(&pods[i], gateway.Name) {
				v.uses = inject.Uses(inject.DeliverySecret)
			}
		}
		injector.Survey, err = surveyed(ctx, j, pods)
		return err
	}
	if options.DryRun == installed.DryRunNone {
		v.question = "upgrade the gateways of"
	} else if o.output == "yaml" || o.output == "json" {
		v.document = func(results []inject.Result) (string, error) { return dryRunObjects(results, o.output) }
	}
	return v
}

// workloadOf returns what of pod is told from the pods of other workloads: its controller.
func workloadOf(pod *corev1.Pod) string {
	if owner := metav1.GetControllerOf(pod); owner != nil {
		return string(owner.UID)
	}
	return string(pod.UID)
}

// tellUpgraded says what upgrade did with a pod.
func tellUpgraded(result inject.Result, options *inject.Options) outcome {
	told := outcome{pod: result.Pod, warnings: result.Warnings, err: result.Err}
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

// replacedWords says which gateway took the place of another one, and what becomes of that.
func replacedWords(result inject.Result, word string, drain time.Duration) (done string, notes []string) {
	versions := ""
	if was, is := result.Was.Version, result.Status.Version; was != is {
		versions = fmt.Sprintf(" from %s to %s", was, is)
	}
	done = fmt.Sprintf("gateway %s%s (%s by %s, %.1fs)", word, versions, result.Predecessor, result.Container, result.Elapsed.Seconds())
	if n := result.Was.Traffic.Inbound.Active + result.Was.Traffic.Outbound.Active; n > 0 {
		notes = []string{fmt.Sprintf("connections that stay with %s for at most %s: about %d", result.Predecessor, drain, n)}
	}
	return done, notes
}

// upgradeItem is the machine-readable result of one pod.
type upgradeItem struct {
	podItem
	Action    inject.Action `json:"action"`
	Container string        `json:"container,omitempty"`
	// Predecessor is the container whose place the gateway took.
	Predecessor string `json:"predecessor,omitempty"`
	OldVersion  string `json:"oldVersion,omitempty"`
	Version     string `json:"version,omitempty"`
	// Seconds is how long it took.
	Seconds  float64    `json:"seconds"`
	Mode     api.Mode   `json:"mode,omitempty"`
	NotAfter *time.Time `json:"certificateNotAfter,omitempty"`
	itemEnd
}

func newUpgradeItem(result inject.Result) upgradeItem {
	item := upgradeItem{podItem: podItemOf(result.Pod), Action: result.Action, Container: result.Container, Predecessor: result.Predecessor,
		Seconds: result.Elapsed.Seconds(), itemEnd: itemEndOf(result.Warnings, result.Err)}
	if result.Was != nil {
		item.OldVersion = terminal.Clean(result.Was.Version)
	}
	if s := result.Status; s != nil && result.Err == nil {
		item.Version, item.Mode, item.NotAfter = terminal.Clean(s.Version), s.Mode, &s.Cert.NotAfter
	}
	return item
}
