package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// refreshOptions are the flags of refresh.
type refreshOptions struct {
	podFlags
	timeout   time.Duration
	dryRun    installed.DryRun
	named     api.Coverage
	nodePorts [2]uint16
}

// Words that replace a list by none.
const (
	// auto has the cluster tell again.
	auto = "auto"
	none = "none"
)

func newRefreshCommand(a *app) *cobra.Command {
	var o refreshOptions
	cmd := &cobra.Command{
		Use:   "refresh (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "Bring what running gateways capture up to date",
		Long: `Reads the address ranges of the cluster as it is and has running gateways capture
them: those of nodes that have joined, of new Service ranges, and all other addresses
that lead to pods. Open connections stay as they are. 'watch' does this by itself,
'status' and 'check' tell which gateways lack something.

What was named at 'enable', such as --capture-cidr, stays named; the flags below name
it anew, each replacing what was named of its kind. 'auto' or 'none' forgets it.

A failed pod does not stop the others, and makes the exit code 1. Its gateway goes
on as before.`,
		Example: `  # All gateways of the cluster, after a node has joined
  kubectl gateway refresh --all -A --yes

  # Only look
  kubectl gateway refresh deploy/web --dry-run=client

  # Do not capture a range any more
  kubectl gateway refresh pod/web-0 --exclude-cidr=10.9.0.0/16

  # Take the ranges from the cluster that were named at enable
  kubectl gateway refresh pod/web-0 --capture-cidr=auto --service-cidr=auto`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.verb(cmd.Flags()).run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.podFlags.addFlags(f)
	o.addNamed(f)
	addTimeout(f, &o.timeout, change.DefaultTimeout, "how long one pod may take")
	flags.Choice(f, &o.dryRun, "dry-run", "", installed.DryRunNone, "dry run instead of changes", []flags.Word[installed.DryRun]{
		{Value: installed.DryRunNone, Text: "none"},
		{Value: installed.DryRunClient, Meaning: "only look"},
	})
	return cmd
}

// addNamed registers the flags of enable that name a coverage.
func (o *refreshOptions) addNamed(f *pflag.FlagSet) {
	ranges := func(p *[]netip.Prefix, name, word, usage string) {
		flags.Repeated(f, p, name, "strings", word, usage, flags.Commas, parseRange)
	}
	ranges(&o.named.Capture, "capture-cidr", auto, "address range of pods to encrypt, or auto to find them in the cluster; may be repeated")
	ranges(&o.named.Services, "service-cidr", auto, "address range of Services, or auto to find them in the cluster; may be repeated")
	ranges(&o.named.Exclude, "exclude-cidr", none, "address range that is not captured, or none; may be repeated")
	flags.Repeated(f, &o.named.ExcludePorts, "exclude-port", "ports", none, "destination port that is not captured, or none; may be repeated", flags.Commas, parsePort)
	flags.Repeated(f, &o.named.PlaintextFrom, "allow-plaintext-from", "strings", none, "address range whose plaintext connections strict mode accepts, with :8080 behind it for one port, or none; may be repeated", api.SplitSources, api.ParseSource)
	addOutside(f, &o.named.Outside, "")
	flags.Parsed(f, &o.nodePorts, "node-ports", "string", "", "ports of nodes that belong to Services, empty for none", parsePorts)
}

// name changes what was named by the flags that are given.
func (o *refreshOptions) name(f *pflag.FlagSet) func(*api.Coverage) {
	options := inject.Options{Named: o.named}
	options.Named.NodePorts = o.nodePorts
	return func(c *api.Coverage) {
		config := api.Config{Named: *c}
		give(&config, f.Changed, options)
		*c = config.Named
	}
}

// verb refreshes the gateways of pods, with what the flags name.
func (o *refreshOptions) verb(f *pflag.FlagSet) *podVerb[change.Result, refreshItem] {
	cover := &change.Cover{Name: o.name(f), DryRun: o.dryRun != installed.DryRunNone}
	v := &podVerb[change.Result, refreshItem]{
		podFlags: &o.podFlags, gateways: true,
		begin: func(ctx context.Context, j *job) (worker[change.Result], error) {
			changer := change.Changer{Gateways: j.gateways, Timeout: o.timeout}
			reader := declared.NewReader(ctx, j.client)
			to := &api.Config{Named: o.named}
			return func(ctx context.Context, pod *corev1.Pod) change.Result {
				return overridden(changer.Refresh(ctx, pod, cover), reader, f.Changed, to)
			}, nil
		},
		survey: func(ctx context.Context, j *job, pods []corev1.Pod) (err error) {
			if cover.Survey, err = survey.Run(ctx, j.client, pods, o.named); err == nil {
				j.warn("", cover.Survey.Warnings)
			}
			return err
		},
		tell: func(result change.Result) outcome {
			told := outcome{pod: result.Pod, done: "gateway unchanged", warnings: result.Warnings, err: result.Err}
			changed := result.Covered != nil && result.Covered.Changed
			if changed {
				told.done = "gateway refreshed (" + result.Covered.String() + ")"
			}
			if !cover.DryRun {
				told.mode = modeIn(result.Status)
				if changed || result.Err != nil {
					told.event = announce.Changed
				}
			}
			told.done += dryRunWords(o.dryRun)
			return told
		},
		item: newRefreshItem,
	}
	if !cover.DryRun {
		v.question = "refresh"
	}
	return v
}

// refreshItem is the machine-readable result of one pod.
type refreshItem struct {
	podItem
	Container string `json:"container,omitempty"`
	// Refreshed is false if the gateway had everything already.
	Refreshed bool          `json:"refreshed"`
	Added     []survey.Part `json:"added,omitempty"`
	Removed   []survey.Part `json:"removed,omitempty"`
	// Fingerprint tells what the gateway captures from other coverages.
	Fingerprint string `json:"fingerprint,omitempty"`
	itemEnd
}

func newRefreshItem(result change.Result) refreshItem {
	item := refreshItem{podItem: podItemOf(result.Pod), Container: result.Container, itemEnd: itemEndOf(result.Warnings, result.Err)}
	if c := result.Covered; c != nil {
		item.Refreshed, item.Added, item.Removed = c.Changed, c.Added, c.Removed
	}
	if result.Status != nil {
		item.Fingerprint = result.Status.Capture.Fingerprint
	}
	return item
}

// carry has changer bring coverage along, if the cluster can be surveyed.
func carry(ctx context.Context, j *job, pods []corev1.Pod, changer *change.Changer) error {
	found, err := surveyed(ctx, j, pods)
	if found != nil {
		changer.Carry = &change.Cover{Survey: found}
	}
	return err
}

// surveyed returns the survey by which coverage is brought along. It is nil if the cluster cannot be
// surveyed, which is said.
func surveyed(ctx context.Context, j *job, pods []corev1.Pod) (*survey.Survey, error) {
	found, err := survey.Run(ctx, j.client, pods, api.Coverage{})
	if err != nil && ctx.Err() == nil {
		j.warn("", []string{"what gateways capture is not brought up to date: " + err.Error()})
		return nil, nil
	}
	return found, ctx.Err()
}

// carried says that coverage was brought along, "" if it was not.
func carried(covered *change.Covered) []string {
	if covered == nil || !covered.Changed {
		return nil
	}
	return []string{"what it captures was refreshed (" + covered.String() + ")"}
}
