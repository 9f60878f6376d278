package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/disable"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// disableOptions are the flags of disable.
type disableOptions struct {
	targets  targets.Flags
	confirm  confirmation
	options  disable.Options
	parallel int
	output   string
}

func newDisableCommand(a *app) *cobra.Command {
	return newDisableCommandFor(a, &disableOptions{})
}

// newDisableCommandFor returns the command that stores its flags in o.
func newDisableCommandFor(a *app, o *disableOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disable (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "End the gateways of pods",
		Long: `Ends the gateways of pods; the pods go on running. New connections are direct from
then on, in plaintext. Connections through a gateway have until the drain timeout to
end; those that are open then are reset. Targets are those of 'enable'.

When a pod is reported as disabled, its gateway has proved that no program, map or
filter of it is left in the kernel, and the Secrets made for it are deleted. The
ended container stays listed in the pod until the pod is replaced, because
Kubernetes cannot remove it; it uses no resources. 'enable' adds a gateway again.

A gateway that died may have left its capture in place (on-failure closed). Then
disable adds a container that removes the capture and ends. It stays listed as well.

A repeated disable continues where the earlier one stopped, and skips pods without a
gateway. A failed pod does not stop the others, and makes the exit code 1.`,
		Example: `  # One pod, or all of a Deployment
  kubectl gateway disable pod/web-0
  kubectl gateway disable deploy/web

  # Give connections five minutes to end
  kubectl gateway disable -l app=web --drain-timeout=5m

  # What would be done
  kubectl gateway disable --all --dry-run=client`,
		ValidArgsFunction: a.completeTargets(toDisable),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, o.options, args) },
	}
	f := cmd.Flags()
	o.targets.AddFlags(f)
	o.targets.AddAllNamespacesFlag(f)
	o.confirm.addFlag(f)
	addDrainTimeout(f, &o.options.DrainTimeout, "how long connections may go on before they are reset")
	addTimeout(f, &o.options.Timeout, disable.DefaultTimeout, "how long one pod may take, besides the draining")
	addParallel(f, &o.parallel)
	f.StringVar(&o.options.Image, "image", "", "image of the container that cleans up after a dead gateway (default: that gateway's)")
	addPullPolicy(f, &o.options.PullPolicy, "that gateway's")
	addDryRun(f, &o.options.DryRun, "the server tries to add the container that cleans up")
	addResults(f, &o.output)
	return cmd
}

// run connects to the cluster and disables the pods that args and flags select.
func (o *disableOptions) run(ctx context.Context, a *app, options disable.Options, args []string) error {
	if options.DryRun == installed.DryRunNone {
		if err := o.confirm.check(a, &o.targets); err != nil {
			return err
		}
	}
	found, missing := a.find(ctx, &o.targets, args)
	if len(found.Pods) == 0 {
		return missing
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	report := &disableReport{report: newReport(a, o.output), dryRun: options.DryRun}
	report.namespaces = several(found.Pods)
	pods := sift(found, report.skipLeaving)
	if options.DryRun == installed.DryRunNone {
		if err := o.confirm.ask(ctx, a, &o.targets, "disable", pods); err != nil {
			return err
		}
	}
	report.missing(missing)
	disabler := &disable.Disabler{
		Client: client, Gateways: remote.NewClient(config, client), Options: options, Progress: report.progress,
	}
	results := disabler.DisableAll(ctx, pods, o.parallel, report.add)
	err = report.finish(results)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// disableReport tells the user what disable does.
type disableReport struct {
	report
	dryRun installed.DryRun
	// mu keeps lines of pods that are worked on apart from those of results.
	mu sync.Mutex
	// stays says that an ended container stays listed in a pod.
	stays bool
}

func (r *disableReport) progress(pod *corev1.Pod, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.errOut, "%s: %s\n", r.name(pod), line(text))
}

// add reports the result of one pod.
func (r *disableReport) add(result disable.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	if result.Err != nil {
		r.failPod(result.Pod, result.Err)
		return
	}
	r.done(result.Pod, r.what(result))
	r.warn(r.name(result.Pod)+": ", disableWarnings(result))
	r.stays = r.stays || result.Action == disable.Disabled && r.dryRun == installed.DryRunNone
}

// what says what was done about a pod.
func (r *disableReport) what(result disable.Result) string {
	switch {
	case result.Container == "":
		return "has no gateway" + secretsWords(result)
	case result.Action == disable.Unchanged:
		return "gateway already disabled (" + result.Container + ")" + secretsWords(result)
	case r.dryRun != installed.DryRunNone && result.Cleaner != "":
		return fmt.Sprintf("gateway has died: %s would be added to clean up%s", result.Cleaner, dryRunWords(r.dryRun))
	case r.dryRun != installed.DryRunNone:
		return fmt.Sprintf("gateway would be disabled (%s)%s", result.Container, dryRunWords(r.dryRun))
	}
	details := []string{result.Container, fmt.Sprintf("%.1fs", result.Elapsed.Seconds())}
	if result.Report != nil {
		details = append(details, fmt.Sprintf("connections drained: %d, aborted: %d", result.Report.Drained, result.Report.Aborted))
	}
	left := "no program, map, filter or Secret of it is left"
	if result.SecretsUnknown {
		left = "no program, map or filter of it is left"
	}
	switch {
	case result.Died:
		left = "its gateway had ended by itself, " + left
	case result.Report == nil && result.Cleaner != "":
		left = "its gateway had died and was cleaned up after, " + left
	}
	return fmt.Sprintf("gateway disabled (%s): %s", strings.Join(details, ", "), left)
}

func secretsWords(result disable.Result) string {
	if result.Secrets == 0 {
		return ""
	}
	return fmt.Sprintf("; Secrets that were left and are deleted now: %d", result.Secrets)
}

func disableWarnings(result disable.Result) []string {
	if !result.SecretsUnknown {
		return nil
	}
	return []string{"you may not look for Secrets, so one may be left; it goes with the pod"}
}

// disableItem is the machine-readable result of one pod.
type disableItem struct {
	Namespace string         `json:"namespace"`
	Pod       string         `json:"pod"`
	Action    disable.Action `json:"action"`
	Container string         `json:"container,omitempty"`
	// Cleaner is the container that cleaned up after a gateway which had died.
	Cleaner string `json:"cleaner,omitempty"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Drained and Aborted count connections. They are missing if the gateway could
	// not tell.
	Drained *uint64 `json:"drained,omitempty"`
	Aborted *uint64 `json:"aborted,omitempty"`
	// Left names what is left, which is an error.
	Left []string `json:"left,omitempty"`
	// Secrets counts those that were deleted.
	Secrets  int      `json:"secrets,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Error    string   `json:"error,omitempty"`
	Hint     string   `json:"hint,omitempty"`
}

func newDisableItem(result disable.Result) disableItem {
	item := disableItem{
		Namespace: result.Pod.Namespace, Pod: result.Pod.Name, Action: result.Action, Container: result.Container,
		Cleaner: result.Cleaner, Seconds: result.Elapsed.Round(time.Millisecond).Seconds(), Secrets: result.Secrets, Warnings: disableWarnings(result),
	}
	if report := result.Report; report != nil {
		item.Drained, item.Aborted = &report.Drained, &report.Aborted
		for _, left := range report.Left {
			item.Left = append(item.Left, terminal.Clean(left))
		}
	}
	if result.Err != nil {
		item.Error, item.Hint = told(result.Err)
	}
	return item
}

// finish prints what is printed as a whole, in the order of results, and returns
// errReported if a pod has failed.
func (r *disableReport) finish(results []disable.Result) error {
	if r.stays {
		fmt.Fprintln(r.errOut, "ended containers stay listed in their pods until the pods are replaced; they use nothing")
	}
	return finish(&r.report, results, newDisableItem)
}
