package main

import (
	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
)

func newLogCommand(a *app) *cobra.Command {
	var o changeOptions
	var limit int64
	cmd := &cobra.Command{
		Use:   "log (TARGET... | -f FILE | -l SELECTOR | --all) (connections | refused | none) [--limit=SIZE]",
		Short: "Change what running gateways log",
		Long: `Changes which connections the gateways of pods log: all of them, those that they
refuse, or none. The level is the last word on the command line. With refused, they
also log what the rules would refuse if they did not only audit (--audit of 'allow').
Errors and changes of a gateway itself are logged with every level, and everything is
counted with every level: see 'status' and 'metrics'.

The kubelet counts the log against the ephemeral storage of the pod. So a gateway writes
no more than --limit in an hour; the default of 'enable' is 32Mi. What finds no room is
counted in 'status' and 'metrics', and a line in the log says how much that is. Refusals
and errors find room where connections find none.

'tail' and 'verify' need the lines of connections.

A failed pod does not stop the others, and makes the exit code 1. Its gateway goes
on as before.`,
		Example: `  # Only what is refused
  kubectl gateway log pod/web-0 refused

  # Every connection again, and more of them
  kubectl gateway log deploy/web connections --limit=256Mi

  # Nothing but errors, in all pods of the cluster
  kubectl gateway log --all -A --yes none`,
		ValidArgsFunction: completeBefore(a, &o, declared.Logs()),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, pods, err := lastWord(args, declared.Logs(), "it is not said what to log", "what a gateway can log")
			if err != nil {
				return err
			}
			return o.verb(change.Change{Log: level, LogLimit: limit}).run(cmd.Context(), a, pods)
		},
	}
	o.addPodFlags(cmd.Flags())
	flags.Parsed(cmd.Flags(), &limit, "limit", "quantity", "", "how much is logged in an hour, like 64Mi (default: as before)", parseLogLimit)
	return cmd
}

// loggedWords says which connections are logged.
func loggedWords(log api.Log) string {
	switch log {
	case api.LogRefused:
		return "refused connections"
	case api.LogNone:
		return "no connections"
	}
	return "connections"
}
