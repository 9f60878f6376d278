package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
)

func newModeCommand(a *app) *cobra.Command {
	var o changeOptions
	dryRun := false
	cmd := &cobra.Command{
		Use:   "mode (TARGET... | -f FILE | -l SELECTOR | --all) (strict | permissive)",
		Short: "Change the mode of running gateways",
		Long: `Changes what the gateways of pods do with connections that cannot be encrypted:
strict refuses them, outbound and inbound, permissive lets them through in
plaintext and counts them. The mode is the last word on the command line.

Each gateway changes at once, for new connections. Open ones stay as they are; strict
with --existing=reset ends those in plaintext. What happens without the gateway
(--on-failure of 'enable') stays as it is.

--dry-run changes nothing, and says which connections strict mode would have refused of
those that each gateway has seen: with whom, how many, and when the last one was.

A failed pod does not stop the others, and makes the exit code 1. Its gateway goes
on as before.`,
		Example: `  # What would be refused?
  kubectl gateway mode pod/web-0 strict --dry-run

  # One pod, or several
  kubectl gateway mode pod/web-0 strict
  kubectl gateway mode pod/web-0 pod/db-0 permissive

  # The pods that a Deployment has now
  kubectl gateway mode deploy/web strict

  # All pods with a label that have a gateway
  kubectl gateway mode -l app=web strict

  # And end what is open in plaintext
  kubectl gateway mode deploy/web strict --existing=reset

  # All gateways of the cluster, without a confirmation
  kubectl gateway mode --all -A --yes strict`,
		ValidArgsFunction: completeBefore(a, &o, declared.Modes()),
		RunE: func(cmd *cobra.Command, args []string) error {
			mode, pods, err := lastWord(args, declared.Modes(), "no mode is given", "a mode")
			if err != nil {
				return err
			}
			switch {
			case !dryRun:
				return o.verb(change.Change{Mode: mode}).run(cmd.Context(), a, pods)
			case mode != api.Strict:
				return api.WithHint(errors.New("--dry-run is about strict mode: permissive mode refuses nothing"), "end the command with strict")
			}
			return o.rehearsal().run(cmd.Context(), a, pods)
		},
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, and say which connections strict mode would have refused of those that were seen")
	return cmd
}
