package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/disable"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// disableOptions are the flags of disable.
type disableOptions struct {
	podFlags
	options disable.Options
}

// newDisableCommand returns the command that stores its flags in o.
func newDisableCommand(a *app, o *disableOptions) *cobra.Command {
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
disable adds a container that removes the capture and ends. It stays listed as well,
and runs this plugin's image or --image, whatever image the gateway had.

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
		RunE:              func(cmd *cobra.Command, args []string) error { return o.verb().run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	o.podFlags.addFlags(f)
	addDrainTimeout(f, &o.options.DrainTimeout, "how long connections may go on before they are reset")
	addTimeout(f, &o.options.Timeout, disable.DefaultTimeout, "how long one pod may take, besides the draining")
	addImage(f, &o.options.Image, "image of the container that cleans up after a dead gateway")
	addPullPolicy(f, &o.options.PullPolicy, "the cluster's")
	addDryRun(f, &o.options.DryRun, "the server tries to add the container that cleans up")
	return cmd
}

// verb ends the gateways of pods.
func (o *disableOptions) verb() *podVerb[disable.Result, disableItem] {
	v := &podVerb[disable.Result, disableItem]{
		podFlags: &o.podFlags,
		begin: func(_ context.Context, j *job) (worker[disable.Result], error) {
			disabler := &disable.Disabler{Client: j.client, Gateways: j.gateways, Options: o.options, Progress: j.progress}
			return disabler.Disable, nil
		},
		uses: []rights.Use{rights.Disable},
		refuse: func(pod *corev1.Pod, err error) disable.Result {
			return disable.Result{Pod: pod, Action: disable.Failed, Err: err}
		},
		tell: func(result disable.Result) outcome {
			told := outcome{pod: result.Pod, done: o.what(result), warnings: disableWarnings(result), err: result.Err}
			if o.options.DryRun == installed.DryRunNone {
				told.mode = new(api.Mode(""))
				if result.Action != disable.Unchanged {
					told.event = announce.Disabled
				}
			}
			return told
		},
		item: newDisableItem,
	}
	if o.options.DryRun == installed.DryRunNone {
		v.question = "disable"
		v.closing = func(_ *targets.Selection, results []disable.Result) []string {
			if !slices.ContainsFunc(results, func(result disable.Result) bool { return result.Action == disable.Disabled && !result.Sidecar }) {
				return nil
			}
			return []string{"ended containers stay listed in their pods until the pods are replaced; they use nothing"}
		}
	}
	return v
}

// what says what was done about a pod.
func (o *disableOptions) what(result disable.Result) string {
	switch {
	case result.Container == "":
		return "has no gateway" + secretsWords(result)
	case result.Action == disable.Unchanged:
		return "gateway already disabled (" + result.Container + ")" + secretsWords(result)
	case o.options.DryRun != installed.DryRunNone && result.Cleaner != "":
		return fmt.Sprintf("gateway has died: %s would be added to clean up%s", result.Cleaner, dryRunWords(o.options.DryRun))
	case o.options.DryRun != installed.DryRunNone:
		return fmt.Sprintf("gateway would be disabled (%s)%s", result.Container, dryRunWords(o.options.DryRun))
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
	if result.Sidecar {
		left += "; its container came with the pod, lets all traffic pass, and stays until the pod is replaced"
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
	podItem
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
	Secrets int `json:"secrets,omitempty"`
	itemEnd
}

func newDisableItem(result disable.Result) disableItem {
	item := disableItem{
		podItem: podItemOf(result.Pod), Action: result.Action, Container: result.Container, Cleaner: result.Cleaner,
		Seconds: result.Elapsed.Round(time.Millisecond).Seconds(), Secrets: result.Secrets, itemEnd: itemEndOf(disableWarnings(result), result.Err),
	}
	if report := result.Report; report != nil {
		item.Drained, item.Aborted = &report.Drained, &report.Aborted
		for _, left := range report.Left {
			item.Left = append(item.Left, terminal.Clean(left))
		}
	}
	return item
}
