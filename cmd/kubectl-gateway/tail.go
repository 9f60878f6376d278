package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/tail"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Defaults of tail.
const (
	// tailLines is kubectl's default for several pods.
	tailLines = 10
	// tailRequests bounds the open streams of a command.
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
	template    string
	filter      tail.Filter
	// input is the standard input, if it names the targets.
	input []byte
}

func newTailCommand(a *app) *cobra.Command {
	var o tailOptions
	cmd := &cobra.Command{
		Use:   "tail [TARGET... | --filename=FILE | -l SELECTOR | --all]",
		Short: "Follow the connections of pods",
		Long: `Follows the logs of gateways and prints a line for every connection that ended: its
time, pod, direction, source and destination, whether it was encrypted and if not
why, the peer's identity, bytes, duration and error. It prints warnings and errors of
gateways as well. Without a selection it follows all gateways of the namespace.

Pods that match later are followed as soon as they have a gateway, and so are new
gateways of the same pods; a line on the error stream reports each start and end. A
broken stream continues where it broke, however long the server is away. Gateways
number their lines: those that a node has rotated away before they were read are
counted on the error stream, and so are those that a gateway has dropped (see 'log').

-o json prints the gateways' own lines, one object a line, with "namespace" and "pod"
added. A line that is not JSON is in "raw". -o jsonpath=... and go-template=... print a
line for each of these objects. --template prints a line for each
connection and nothing else, by a Go template of the fields
.Namespace .Pod .Time .Level .Direction .Source .Destination .Dialled .Peer .Wire
.Encrypted .TLS .Reason .Sent .Received .Duration and .Error; .Source.Addr and
.Source.Port are the parts of an address. Besides Go's own there are the functions
json, bytes, toRFC3339Nano, toUTC and "toTimestamp TIME LAYOUT [ZONE]". Methods, as
.Time.Format, cannot be called.

Ends with Ctrl-C, or with --no-follow after the last present line. The exit code is 1
if a log could not be read.`,
		Example: `  # All gateways of the namespace
  kubectl gateway tail

  # What two pods did in the last hour
  kubectl gateway tail pod/web-0 pod/db-0 --since=1h --no-follow

  # All pods that a Deployment has now
  kubectl gateway tail deploy/web

  # What is carried in plaintext, in the whole cluster
  kubectl gateway tail -A --plaintext-only

  # What goes wrong, from ten minutes ago on
  kubectl gateway tail -l app=web --errors --since=10m

  # Lines of your own
  kubectl gateway tail --template '{{.Pod}} {{.Source}} {{.Destination}} {{.Peer}}'

  # The same with the time of day in New York
  kubectl gateway tail --template '{{toTimestamp .Time "15:04:05" "America/New_York"}} {{.Pod}} {{.Peer}}'

  # Connections that were not encrypted, for programs
  kubectl gateway tail -A -o json | jq 'select(.encrypted == false)'`,
		ValidArgsFunction: a.completeTargets(everEnabled),
		RunE: func(cmd *cobra.Command, args []string) error {
			// With a time, or for rare lines, the default is all lines.
			if (o.since > 0 || o.filter != tail.Filter{}) && !cmd.Flags().Changed("tail") {
				o.lines = -1
			}
			return o.run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.targets.AddFlagsButF(f)
	addOutput(f, &o.output, "", "json")
	f.BoolVarP(&o.follow, "follow", "f", true, "follow new connections")
	f.BoolVar(&o.noFollow, "no-follow", false, "print the present lines and end, as --follow=false")
	flags.Duration(f, &o.since, "since", 0, flags.NotNegative, "leave out older lines, like 5m or 1h")
	flags.Int(f, &o.lines, "tail", tailLines, -1, "lines of each log to begin with, -1 for all; with --since, --plaintext-only and --errors all is the default")
	flags.Int(f, &o.maxRequests, "max-log-requests", tailRequests, flags.Positive, "how many logs to read at a time")
	f.BoolVar(&o.filter.Plaintext, "plaintext-only", false, "show only connections that were carried in plaintext; with --errors also those")
	f.BoolVar(&o.filter.Errors, "errors", false, "show only connections that were refused or broke, and errors and warnings of gateways")
	f.StringVar(&o.template, "template", "", "Go template of the line of a connection, like '{{.Pod}} {{.Destination}} {{.Encrypted}}'")
	cmd.MarkFlagsMutuallyExclusive("follow", "no-follow")
	cmd.MarkFlagsMutuallyExclusive("output", "template")
	return cmd
}

func (o *tailOptions) run(ctx context.Context, a *app, args []string) error {
	formatter, err := o.ownFormat()
	if err != nil {
		return err
	}
	follow := o.follow && !o.noFollow
	if err := o.keepInput(a); err != nil {
		return err
	}
	_, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	found, err := a.lookAt(ctx, o.targets, args)
	switch empty := errors.Is(err, targets.ErrNoMatch); {
	case empty && follow:
		// Pods that match may come later.
		found = &selection{chosen: &targets.Selection{}}
		if !o.targets.AllNamespaces {
			if found.namespace, err = a.namespace(); err != nil {
				return err
			}
		}
	case err != nil:
		return err
	}
	found.onlyWithGateway()
	if len(found.pods) == 0 {
		if !follow {
			return api.WithHint(fmt.Errorf("no gateways found in %s", found.where()), "'kubectl gateway enable pod/NAME' adds one")
		}
		fmt.Fprintf(a.ErrOut, "no gateways found in %s yet: waiting for some\nhint: 'kubectl gateway enable pod/NAME' adds one\n", line(found.where()))
	}
	missing := a.reportMissing(found.missing)
	if formatter == nil {
		formatter = o.formatter(a, found)
	}
	tailer := &tail.Tailer{
		Kube: client, Formatter: formatter, Idle: tail.DefaultIdle,
		Options: tail.Options{Follow: follow, Since: o.since, Lines: o.lines, Parallel: o.maxRequests, Filter: o.filter},
		Join:    o.join(a, found, args),
		Out:     a.Out, ErrOut: a.ErrOut, Retry: tail.DefaultRetry(), Explain: explain,
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

// maxInput bounds the manifests on the standard input, in bytes.
const maxInput = 16 << 20

// keepInput reads the standard input if it names the targets: each new pod is compared
// with them.
func (o *tailOptions) keepInput(a *app) error {
	if !slices.Contains(o.targets.Files.Filenames, "-") {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(a.In, maxInput+1))
	switch {
	case err != nil:
		return fmt.Errorf("reading the standard input: %w", err)
	case len(text) > maxInput:
		return fmt.Errorf("the standard input is longer than %d bytes", maxInput)
	}
	o.input = text
	a.In = bytes.NewReader(text)
	return nil
}

// join decides which pods belong to the selection, now and later.
func (o *tailOptions) join(a *app, found *selection, args []string) *tail.Join {
	join := &tail.Join{Namespaces: []string{found.namespace}, LabelSelector: o.targets.Selector, FieldSelector: o.targets.FieldSelector}
	if len(args) == 0 && len(o.targets.Files.Filenames) == 0 && o.targets.Files.Kustomize == "" {
		return join
	}
	for _, pod := range found.pods {
		if !slices.Contains(join.Namespaces, pod.Namespace) {
			join.Namespaces = append(join.Namespaces, pod.Namespace)
		}
	}
	// The code that selected the first pods decides about workloads and names as well.
	// kubectl's flags are not safe for concurrent use.
	var one sync.Mutex
	join.Belongs = func(ctx context.Context, pod *corev1.Pod) (bool, error) {
		one.Lock()
		defer one.Unlock()
		flags := o.targets
		flags.In = bytes.NewReader(o.input)
		now, err := flags.Find(ctx, a.flags, args)
		for i := range now.Pods {
			if now.Pods[i].UID == pod.UID {
				return true, nil
			}
		}
		// A missing target is an answer. A server that does not answer is asked again.
		if errors.As(err, new(net.Error)) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTooManyRequests(err) {
			return false, err
		}
		return false, nil
	}
	return join
}

// ownFormat returns what makes lines of another format than text, nil for text.
func (o *tailOptions) ownFormat() (tail.Formatter, error) {
	switch {
	case o.template != "":
		return tail.NewTemplate(o.template)
	case o.output == output.JSON:
		return tail.JSON{}, nil
	case o.output != "":
		print, err := output.New(o.output, output.Options{})
		return &tail.Printed{Print: print}, err
	}
	return nil, nil
}

func (o *tailOptions) formatter(a *app, found *selection) tail.Formatter {
	text := &tail.Text{Style: terminal.For(a.Out, os.Getenv), Location: time.Local, Namespaces: o.targets.AllNamespaces || several(found.pods)}
	text.Width = text.NameWidth(lists.Map(found.pods, func(pod corev1.Pod) tail.Source { return tail.Source{Namespace: pod.Namespace, Pod: pod.Name} }))
	return text
}
