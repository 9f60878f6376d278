package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/tail"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/terminal"
)

// Defaults of tail.
const (
	// tailLines is what kubectl logs shows of each of many pods.
	tailLines = 10
	// tailRequests bounds the streams that one command keeps open.
	tailRequests = 50
)

// tailOptions are the flags of tail.
type tailOptions struct {
	targets     targets.Flags
	output      string
	follow      bool
	noFollow    bool
	since       time.Duration
	lines       int64
	maxRequests int
}

func newTailCommand(a *app) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail [TARGET... | --filename=FILE | -l SELECTOR | --all]",
		Short: "Follow the connections of pods",
		Long: `Follows the logs of gateways and shows a line for every connection that ended:
when, which pod, which way, from where to where, whether it was encrypted and if
not why, the peer's identity, bytes, duration and error. Warnings and errors of
the gateways are shown as well. Without a selection all gateways of the namespace
are followed.

With -o json the gateways' own lines are passed on, one object a line, with
"namespace" and "pod" added. A line that is not JSON is in "raw".

Ends with Ctrl-C, or when all gateways have ended. The exit code is 1 if the log
of one could not be read.`,
		Example: `  # All gateways of the namespace
  kubectl gateway tail

  # What two pods did in the last hour
  kubectl gateway tail pod/web-0 pod/db-0 --since=1h --no-follow

  # All pods that a Deployment has now
  kubectl gateway tail deploy/web

  # Connections that were not encrypted, for programs
  kubectl gateway tail -A -o json | jq 'select(.encrypted == false)'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			// Who asks for a time wants all of it.
			if cmd.Flags().Changed("since") && !cmd.Flags().Changed("tail") {
				o.lines = -1
			}
			return o.run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.targets.AddFlagsButF(f)
	o.targets.AddAllNamespacesFlag(f)
	f.StringVarP(&o.output, "output", "o", "", "output format: json")
	f.BoolVarP(&o.follow, "follow", "f", true, "go on with connections to come")
	f.BoolVar(&o.noFollow, "no-follow", false, "show what there is and end, as --follow=false")
	f.DurationVar(&o.since, "since", 0, "leave out what is older, like 5m or 1h")
	f.Int64Var(&o.lines, "tail", tailLines, "lines of each log to begin with, -1 for all; with --since all is the default")
	f.IntVar(&o.maxRequests, "max-log-requests", tailRequests, "how many logs may be read at a time")
	cmd.MarkFlagsMutuallyExclusive("follow", "no-follow")
	return cmd
}

func (o *tailOptions) run(ctx context.Context, a *app, args []string) error {
	if err := oneOf("output", o.output, []string{"", "json"}); err != nil {
		return err
	}
	switch {
	case o.since < 0:
		return fmt.Errorf("--since %s is negative", o.since)
	case o.lines < -1:
		return fmt.Errorf("--tail %d is below -1", o.lines)
	case o.maxRequests < 1:
		return fmt.Errorf("--max-log-requests %d is not positive", o.maxRequests)
	}
	_, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, err := a.lookAt(ctx, o.targets, args)
	if err != nil {
		return err
	}
	found.onlyWithGateway()
	if len(found.pods) == 0 {
		return api.WithHint(fmt.Errorf("no gateways found in %s", found.where()), "'kubectl gateway enable pod/NAME' adds one")
	}
	missing := a.reportMissing(found.missing)
	tailer := &tail.Tailer{
		Kube:      client,
		Formatter: o.formatter(a, found),
		Options: tail.Options{Follow: o.follow && !o.noFollow, Since: o.since, Lines: o.lines,
			Parallel: o.maxRequests},
		Out: a.Out, ErrOut: a.ErrOut, Retry: tail.DefaultRetry(),
	}
	err = tailer.Run(ctx, found.pods)
	if errors.Is(err, tail.ErrIncomplete) {
		return errReported
	}
	if err != nil {
		return err
	}
	return missing
}

func (o *tailOptions) formatter(a *app, found *selection) tail.Formatter {
	if o.output == "json" {
		return tail.JSON{}
	}
	text := &tail.Text{Style: terminal.For(a.Out, os.Getenv), Location: time.Local, Namespaces: o.targets.AllNamespaces || several(found.pods)}
	var sources []tail.Source
	for _, pod := range found.pods {
		sources = append(sources, tail.Source{Namespace: pod.Namespace, Pod: pod.Name})
	}
	text.Width = text.NameWidth(sources)
	return text
}
