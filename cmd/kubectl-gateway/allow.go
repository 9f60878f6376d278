package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/change"
)

func newAllowCommand(a *app) *cobra.Command {
	var o changeOptions
	var rules api.Rules
	var everyone, fromEdges bool
	cmd := &cobra.Command{
		Use:   "allow (TARGET... | -f FILE | -l SELECTOR | --all) (PATTERN... | --everyone | --from-edges) [--deny PATTERN]... [--audit] [--max-connections-per-peer N]",
		Short: "Change which peers may connect to pods",
		Long: `Changes the identity rules of running gateways: which peers may connect to the
pods. A pattern names peers by namespace and service account, as in
'ns/prod/sa/web', where * stands for any number of characters and ? for one.
Ports of the application may follow behind a colon, as in
'ns/prod/sa/web:8080,9000-9010'; without, the pattern is about every port.
--everyone allows every peer in the trust domain, which is the default of
'enable'. --deny refuses what its pattern matches, whoever is allowed. The command
replaces all rules: what it does not name is gone. So is a bound of the connections
that one identity may have open, --max-connections-per-peer.

With --audit the gateways refuse nobody because of the rules. They log and count
the connections that the rules would refuse, which 'status' and
'status --edges' show.

With --from-edges nothing changes. For each pod a command is printed that allows the
peers whose connections its gateway has carried, each the ports that it has connected
to; --deny and --audit are as in force. Look at it before you run it: who has not
connected since the gateway's worker started is not in it.

The rules apply to peers with a gateway, whose certificates prove their identities.
Permissive mode accepts plaintext from anyone; strict mode refuses it. Open
connections stay as they are, or with --existing=reset those end that the rules
refuse.

A failed pod does not stop the others, and makes the exit code 1. Its gateway goes
on as before.`,
		Example: `  # Only pods of namespace prod may connect to db-0
  kubectl gateway allow pod/db-0 'ns/prod/sa/*'

  # For the pods that a StatefulSet has now
  kubectl gateway allow sts/db 'ns/prod/sa/*'

  # Two service accounts, for all pods with a label
  kubectl gateway allow -l app=db 'ns/prod/sa/web' 'ns/ops/sa/backup'

  # One service account, to one port and to a range of ports
  kubectl gateway allow pod/db-0 'ns/prod/sa/web:5432,9000-9010'

  # Everyone but a namespace
  kubectl gateway allow pod/db-0 --everyone --deny='ns/dev/sa/*'

  # See first whom the rules would refuse
  kubectl gateway allow pod/db-0 'ns/prod/sa/*' --audit
  kubectl gateway status pod/db-0 -o wide

  # Propose rules for what the gateway has seen, as a command to run
  kubectl gateway allow pod/db-0 --from-edges

  # Every peer again
  kubectl gateway allow pod/db-0 --everyone`,
		ValidArgsFunction: a.completeTargets(enabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			if fromEdges {
				if patterns, _, _ := patternsAndPods(args, false); everyone || len(patterns)+len(rules.Deny)+rules.MaxPerPeer > 0 || rules.Audit || o.existing != api.ExistingLeave {
					return errors.New("--from-edges changes nothing, and takes no rules: leave out all but the pods")
				}
				return o.proposal().run(cmd.Context(), a, args)
			}
			patterns, pods, err := patternsAndPods(args, everyone)
			if err != nil {
				return err
			}
			rules.Allow = patterns
			return o.verb(change.Change{Rules: rules}).run(cmd.Context(), a, pods)
		},
	}
	o.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&everyone, "everyone", false, "allow every peer in the trust domain")
	addDeny(cmd.Flags(), &rules)
	cmd.Flags().BoolVar(&fromEdges, "from-edges", false, "print the rules for the peers that have connected so far, as commands, and change nothing")
	return cmd
}

// patternsAndPods separates patterns from pods. A pattern begins with "ns/", and the
// name of a pod never does.
func patternsAndPods(args []string, everyone bool) (patterns, pods []string, err error) {
	for _, arg := range args {
		if strings.HasPrefix(arg, "ns/") || strings.HasPrefix(arg, "spiffe:") || strings.ContainsAny(arg, "*?") {
			patterns = append(patterns, arg)
			continue
		}
		pods = append(pods, arg)
	}
	switch {
	case everyone && len(patterns) > 0:
		return nil, nil, errors.New("patterns and --everyone are both given: use one of them")
	case !everyone && len(patterns) == 0:
		return nil, nil, api.WithHint(errors.New("no pattern is given"), "write one like 'ns/prod/sa/*', or --everyone")
	}
	_, err = api.Rules{Allow: patterns}.Parse()
	return patterns, pods, err
}
