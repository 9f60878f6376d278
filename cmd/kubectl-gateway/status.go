package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/edges"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// statusOptions are the flags of status.
type statusOptions struct {
	targets targets.Flags
	output  string
	// noHeaders leaves out the names of columns, and sortBy is the JSONPath that orders the items.
	noHeaders bool
	sortBy    string
	timeout   time.Duration
	// failIfExpiring is zero if certificates may expire.
	failIfExpiring time.Duration
	edges          bool
	by             string
	watch          bool
	interval       time.Duration
}

// Values of --by.
const (
	byPod      = "pod"
	byWorkload = "workload"
)

func newStatusCommand(a *app) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [TARGET... | -f FILE | -l SELECTOR | --all]",
		Short: "Show the status of gateways",
		Long: `Asks the gateways of pods for their status, and prints a line for each pod. Without a
selection these are the pods of the namespace that have a gateway; selected pods
without one are shown as "not enabled".

The error stream, below the table, has the problems of gateways and advice. The exit
code is 0 if the state of every pod is known, even a bad one, and 1 if a gateway that
should run did not answer or a named pod was not found. With --fail-if-expiring it is
also 1 if a certificate expires within that time or has expired; a line on the error
stream names the pods.

-o json and -o yaml print a GatewayStatusList. Its items have the pod, the state, the
kubelet's view of the gateway's container, the gateway's own status, the settings that
annotations can declare with where each comes from, and the problems.
-o jsonpath=..., go-template=..., custom-columns=... and name print what you choose of
it, as kubectl get does. --sort-by orders the items of all formats.

--edges prints a line for every peer of the pods, in each direction: whether the
traffic is encrypted, or why it is not or was refused, and how much there was. An edge
that the gateways at both ends saw is printed once. Gateways remember the last 1000
edges since their worker started; connections that no gateway carries are shown while
they are open. -o json and -o yaml print a GatewayEdgeList, -o dot a graph for
Graphviz, and -o svg a picture. The exit code is 1 if a gateway could not be asked.

--watch repeats this: in place on a terminal, and elsewhere whenever something has
changed.`,
		Example: `  # All gateways of the namespace
  kubectl gateway status

  # Some pods, with all columns
  kubectl gateway status pod/web-0 pod/db-0 -o wide

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway status deploy/web sts/db

  # From a scheduled job: fail while there is time to renew certificates
  kubectl gateway status -A -o json --fail-if-expiring=7d >/dev/null

  # Who talks to whom in the namespace, and whether it is encrypted
  kubectl gateway status --edges

  # The same by workload, live
  kubectl gateway status --edges --by workload --watch

  # As a picture
  kubectl gateway status -A -o svg >edges.svg

  # Pods that are not ready, for programs
  kubectl gateway status -A -o json | jq '.items[] | select(.state != "ready")'
  kubectl gateway status -A -o jsonpath='{range .items[?(@.state!="ready")]}{.pod}{"\n"}{end}'

  # Columns of your own, the certificate that ends first at the top
  kubectl gateway status -A -o custom-columns=POD:.pod,ENDS:.status.certificate.notAfter --sort-by=.status.certificate.notAfter`,
		ValidArgsFunction: a.completeTargets(everEnabled),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	o.targets.AddFlags(cmd.Flags())
	flags.Format(cmd.Flags(), &o.output, "", []flags.Word[string]{
		{Value: "wide"}, {Value: "json"}, {Value: "yaml"}, {Value: "kyaml"}, {Value: "name"},
		{Value: "dot", Meaning: "edges, for Graphviz"}, {Value: "svg", Meaning: "edges, as a picture"},
	}, slices.Concat(output.Templates(), output.Columns())...)
	cmd.Flags().BoolVar(&o.noHeaders, "no-headers", false, "leave out the names of columns, also with -o wide and custom-columns")
	flags.Parsed(cmd.Flags(), &o.sortBy, "sort-by", "string", "", "order the pods, or edges, by this JSONPath of an item of -o json, like .status.certificate.notAfter; those without it come first", output.ParseSort)
	cmd.Flags().BoolVar(&o.edges, "edges", false, "show who talks to whom, and whether that is encrypted")
	flags.Choice(cmd.Flags(), &o.by, "by", "", byPod, "what the ends of edges are", flags.Words(byPod, byWorkload))
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "repeat until Ctrl-C")
	flags.Duration(cmd.Flags(), &o.interval, "interval", defaultInterval, flags.Positive, "with --watch, how often to look")
	addTimeout(cmd.Flags(), &o.timeout, status.DefaultTimeout, "how long one gateway may take to answer")
	flags.Parsed(cmd.Flags(), &o.failIfExpiring, "fail-if-expiring", "string", "", "exit with 1 if a certificate ends within this time, such as 48h or 30d", parseLifetime)
	return cmd
}

// complete finds contradictions between flags.
func (o *statusOptions) complete() error {
	graph := o.output == "dot" || o.output == "svg"
	o.edges = o.edges || graph
	switch {
	case o.by == byWorkload && !o.edges:
		return api.WithHint(errors.New("--by is about edges"), "add --edges")
	case o.watch && !o.table():
		format, _, _ := strings.Cut(o.output, "=")
		return api.WithHint(fmt.Errorf("--watch shows tables, and not %s", format), "use it without -o, or with -o wide")
	case o.edges && o.output == "name":
		return api.WithHint(errors.New("edges have no names"), "-o custom-columns=... prints what there is of them")
	case o.watch && slices.Contains(o.targets.Files.Filenames, "-"):
		return api.WithHint(errors.New("--watch cannot read the standard input again and again"), "name a file with -f, or the targets")
	case o.failIfExpiring > 0 && (o.watch || o.edges):
		return errors.New("--fail-if-expiring does not go with --edges, --watch, -o dot and -o svg")
	}
	return nil
}

func (o *statusOptions) run(ctx context.Context, a *app, args []string) error {
	if err := o.complete(); err != nil {
		return err
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	gateways := remote.NewClient(config, client)
	if o.edges {
		look := &edgesLook{a: a, o: o, client: client, collector: edges.Collector{Gateways: gateways, Timeout: o.timeout, Now: time.Now}}
		return o.runEdges(ctx, a, args, look)
	}
	collector := status.Collector{Gateways: gateways, Timeout: o.timeout, Explain: explain, Now: time.Now, Client: client}
	look := func(ctx context.Context) (*gatewaysView, error) {
		found, err := a.lookAt(ctx, o.targets, args)
		if err != nil {
			return nil, err
		}
		list, err := collector.Collect(ctx, found.pods)
		if err != nil {
			return nil, err
		}
		return &gatewaysView{o: o, found: found, list: list}, output.Sort(list.Items, o.sortBy)
	}
	if o.watch {
		return a.follow(ctx, o.interval, func(ctx context.Context) (statusView, error) { return look(ctx) })
	}
	view, err := look(ctx)
	if err != nil {
		return err
	}
	if err := o.print(a, view); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	err = a.reportMissing(view.found.missing)
	if view.list.Unread() || o.failIfExpiring > 0 && a.reportExpiring(view.list, o.failIfExpiring, time.Now()) {
		err = errReported
	}
	return err
}

// reportExpiring names the pods whose certificates end within a time, and reports
// whether there are any.
func (a *app) reportExpiring(list *status.List, within time.Duration, now time.Time) bool {
	var pods []string
	for _, i := range list.Expiring(within, now) {
		left := i.Status.Cert.NotAfter.Sub(now)
		when := "in " + duration.HumanDuration(left)
		if left <= 0 {
			when = duration.HumanDuration(-left) + " ago"
		}
		pods = append(pods, fmt.Sprintf("pod/%s -n %s (%s)", i.Pod, i.Namespace, when))
	}
	if len(pods) == 0 {
		return false
	}
	fmt.Fprintf(a.ErrOut, "error: certificates end within %s: %s\nhint: 'kubectl gateway rotate' renews them\n",
		duration.HumanDuration(within), line(strings.Join(pods, ", ")))
	return true
}

func (o *statusOptions) print(a *app, view *gatewaysView) error {
	if o.table() {
		return view.show(a.Out, a.ErrOut, terminal.For(a.Out, os.Getenv), terminal.For(a.ErrOut, os.Getenv), time.Now())
	}
	var err error
	if o.output == "name" {
		err = a.print("status", view.list.Names())
	} else {
		err = o.printList(a, "status", view.list)
	}
	if err != nil {
		return err
	}
	view.warnNotCompared(a.ErrOut, terminal.For(a.ErrOut, os.Getenv))
	// They explain the exit code.
	return view.list.Failures(a.ErrOut, terminal.For(a.ErrOut, os.Getenv))
}

// table reports whether the output is the verb's own table.
func (o *statusOptions) table() bool { return o.output == "" || o.output == "wide" }

// printList prints a list in a format of package output.
func (o *statusOptions) printList(a *app, what string, list any) error {
	print, err := output.New(o.output, output.Options{NoHeaders: o.noHeaders})
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := print(&text, list); err != nil {
		return err
	}
	return a.print(what, text.String())
}

// gatewaysView is a table of gateways.
type gatewaysView struct {
	o     *statusOptions
	found *selection
	list  *status.List
}

func (v *gatewaysView) missing() error { return v.found.missing }

func (v *gatewaysView) show(out, errOut io.Writer, style, errStyle *terminal.Style, now time.Time) error {
	if len(v.list.Items) == 0 {
		_, err := fmt.Fprintf(errOut, "no gateways found in %s\nhint: 'kubectl gateway enable pod/NAME' adds one\n", v.found.where())
		return err
	}
	table := status.TableOptions{Namespace: v.o.targets.AllNamespaces || several(v.found.pods), Wide: v.o.output == "wide", NoHeaders: v.o.noHeaders, Now: now}
	if err := v.list.Table(out, style, table); err != nil || now.IsZero() {
		return err // advice depends on the time
	}
	if err := v.list.Advice(errOut, errStyle); err != nil {
		return err
	}
	v.warnNotCompared(errOut, errStyle)
	return nil
}

// warnNotCompared says that what gateways capture is not compared with the cluster, and why. Where that shows, it says so of
// where settings come from.
func (v *gatewaysView) warnNotCompared(errOut io.Writer, style *terminal.Style) {
	if why := v.list.NotCompared; why != "" {
		fmt.Fprintf(errOut, "%s %s\n", style.Paint(terminal.Caution, "warning:"), line(why))
	}
	if why := v.list.NotDeclared; why != "" && v.o.output == "wide" {
		fmt.Fprintf(errOut, "%s %s\n", style.Paint(terminal.Caution, "warning:"), line(why))
	}
}
