package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/announce"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/output"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/remote"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rotate"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signing"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// watchOptions are the flags of watch.
type watchOptions struct {
	settings       settings
	parallel       int
	selector       string
	allNamespaces  bool
	drain          time.Duration
	upgrade        bool
	replace        bool
	declared       declared.From
	once           bool
	leaderElect    bool
	leaseNamespace string
	healthAddress  string
	output         string
	sign           string
	signFor        []api.Rule
}

func newWatchCommand(a *app) *cobra.Command {
	var o watchOptions
	cmd := &cobra.Command{
		Use:   "watch [TARGET...] [-l SELECTOR] [-n NAMESPACE | -A]",
		Short: "Keep pods enabled as they come and go",
		Long: `Adds a gateway to every running pod that has the annotation
` + watch.Annotation + `=true, on itself or on its namespace, or that belongs to a named target:
deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, cronjob/NAME or pod/NAME. It
watches all namespaces, or one with -n or named targets, and with -l matching pods
only.

watch replaces gateways that died. It renews the certificates of all gateways that it
sees at two thirds of their life, no matter who added them. The new ones are valid for
24 hours, so that a stolen key is soon of no use: without watch they end, the first of
them after 8 hours. --cert-ttl=30d is for a watch that may be away for longer.

Gateways that it keeps and that are older than this plugin are upgraded, as 'upgrade'
does it: a few at a time, one pod of a workload, never to an older version. When one
fails, no other is upgraded until watch is started again, or until the annotation
` + watch.AnnotationUpgrade + ` of a pod or of a namespace changes. With the value false it
exempts that pod or namespace; --upgrade=false exempts all.

Annotations say how gateways are to be as well, by the names of the flags of 'enable':
` + declaredNames() + `. Those of the
pod (and so of the template of its workload) take precedence over those of the
Deployment, StatefulSet, DaemonSet or Job itself, these over the namespace's, and these
over the flags of watch. What is declared of a gateway that runs is changed in place as
the annotations change, the wire with --replace alone, which is 'enable --replace'. An
annotation that cannot be read changes nothing, and is told; new gateways are strict
then, or let nobody in. One that is removed leaves what it has set. Whoever may annotate
pods decides about their gateways: --annotations=namespaces heeds namespaces alone.

When the annotation is removed, watch disables the gateways that it added for it. The
annotation ` + watch.Annotation + `=false disables the gateway of a pod no matter who added it. A
pod's own annotation takes precedence over a named target, and that over the
annotation of the namespace.

With --sign the authority of the cluster is a signer for others: watch answers
PodCertificateRequests and CertificateSigningRequests of that signerName, which
'init-ca --signer' on other machines makes, and publishes the roots as a
ClusterTrustBundle. Pods with a gateway get certificates, and others for whom
--sign-for has a rule. With -n it is about that namespace alone.

Of all namespaces, the pods of one take up --parallel workers, and for the others there
are a quarter more: pods that never become ready do not hold up other people's renewals.

Runs until Ctrl-C, and can be restarted at any time: all its state is in the cluster.
It also runs in the cluster: install/ has a Helm chart and a Kustomize base. On a terminal it
shows a live summary, otherwise a line for each event. --once does what is due now
and ends; the exit code is 1 if something failed.`,
		Example: `  # All annotated pods of the cluster
  kubectl annotate namespace shop ` + watch.Annotation + `=true
  kubectl gateway watch

  # The gateways of a namespace become strict, and those of one Deployment log less
  kubectl annotate namespace shop ` + api.AnnotationPrefix + `mode=strict
  kubectl annotate deploy/web -n shop ` + api.AnnotationPrefix + `log=refused

  # The pods of a Deployment, present and later ones
  kubectl gateway watch deploy/web -n shop

  # Sign for operators without the authority's key, and for a pod without a gateway
  kubectl gateway watch --sign=example.com/kube-gateway --sign-for='ns/shop/sa/scraper'

  # For a cron job of your own
  kubectl gateway watch --once -o json`,
		// With a selector, targets may be named as well.
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if o.allNamespaces {
				return nil, targetsDirective
			}
			return a.targets(cmd, args, toComplete, toStay), targetsDirective
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	f.StringVarP(&o.selector, "selector", "l", "", "watch only pods with these labels, for example app=web,tier!=cache")
	f.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "watch all namespaces, as without -n")
	o.settings.addFlags(a, f, inject.DeliveryCSR, "24h, and "+days(ca.DefaultLeafTTL)+" with --once")
	addParallel(f, &o.parallel)
	addDrainTimeout(f, &o.drain, "how long connections of a disabled or replaced gateway may go on")
	f.BoolVar(&o.upgrade, "upgrade", true, "upgrade gateways that are older than this plugin")
	flags.Choice(f, &o.declared, "annotations", "", declared.FromAll, "whose annotations say how gateways are to be", []flags.Word[declared.From]{
		{Value: declared.FromAll, Meaning: "those of pods, workloads and namespaces"},
		{Value: declared.FromNamespaces, Meaning: "those of namespaces alone"},
		{Value: declared.FromNobody, Meaning: "those of nobody, the flags alone"},
	})
	f.BoolVar(&o.replace, "replace", false, "replace gateways for declared settings that do not change in place")
	addSign(f, &o.sign, "answer requests for certificates of this signer, like example.com/kube-gateway, with the authority")
	flags.Repeated(f, &o.signFor, "sign-for", "stringArray", "", "with --sign: service account that gets certificates without a gateway, like 'ns/shop/sa/*'; may be repeated", flags.Whole, signing.ParseRule)
	f.BoolVar(&o.once, "once", false, "do what is due now, and end")
	f.BoolVar(&o.leaderElect, "leader-elect", false, "let one of several replicas work at a time")
	f.StringVar(&o.leaseNamespace, "lease-namespace", "", "namespace of the replicas' Lease (default: that of the kubeconfig, in a pod its own)")
	f.StringVar(&o.healthAddress, "health-addr", "", "serve /healthz, /readyz and /metrics at this address, like :8080")
	flags.Format(f, &o.output, "", []flags.Word[string]{{Value: "json", Meaning: "one object a line"}}, output.Templates()...)
	cmd.MarkFlagsMutuallyExclusive("once", "leader-elect")
	return cmd
}

// place returns which pods to watch.
func (o *watchOptions) place(a *app, args []string) (watch.Options, error) {
	options := watch.Options{Selector: o.selector, Parallel: o.parallel, Declared: o.declared, Replace: o.replace}
	if _, err := labels.Parse(o.selector); err != nil {
		return options, api.WithHint(fmt.Errorf("reading the selector %q: %w", o.selector, err),
			"write it as for kubectl get -l, for example app=web,tier!=cache")
	}
	var err error
	if options.Names, err = watch.ParseNames(args); err != nil {
		return options, err
	}
	switch {
	case len(args) > 0 && o.allNamespaces:
		return options, errors.New("a target cannot be named across all namespaces: use -n instead of -A")
	case len(args) > 0:
		options.Namespace, err = a.namespace()
	case !o.allNamespaces && a.flags.Namespace != nil:
		options.Namespace = *a.flags.Namespace
	}
	return options, err
}

func (o *watchOptions) run(ctx context.Context, a *app, args []string) error {
	if o.sign == "" && len(o.signFor) > 0 {
		return errors.New("--sign-for says for whom --sign signs, and needs that")
	}
	settings := o.settings.complete()
	options, err := o.place(a, args)
	if err != nil {
		return err
	}
	if !o.once {
		setGCPercent(usualGCPercent)
	}
	config, client, err := a.kubernetes()
	if err != nil {
		return err
	}
	report := newWatchReport(a, o.output, options, o.once)
	if report.view != nil {
		if config, client, err = quiet(config); err != nil {
			return err
		}
	}
	if err := inject.CheckServer(ctx, client.Discovery(), settings.Delivery); err != nil {
		return err
	}
	location := o.settings.open(ctx, authority.Location{Client: client, Dir: o.settings.authorityDir})
	plugin := &watch.Plugin{
		Client: client, Gateways: remote.NewClient(config, client),
		Options: settings, Drain: o.drain,
		Authority: func(ctx context.Context, remark func(string)) (ca.Issuer, error) {
			location := location
			location.Remark = remark
			return authority.Open(ctx, location)
		},
		Warn: report.warnings, Marker: announce.NewMarker(client),
	}
	// Its informer tells of the end of a gateway, and no worker is to wait for that.
	plugin.Gateways.Survey, plugin.Gateways.Notice = plugin.Cluster, 0
	if o.upgrade {
		plugin.Version = version
	}
	// Without an authority nothing works: watch fails at once.
	issuer, err := plugin.Authority(ctx, nil)
	if err != nil {
		return fmt.Errorf("loading the authority: %w", err)
	}
	plugin.Options.TTL = o.certTTL(issuer)
	poster := announce.NewPoster(client)
	defer poster.Close()
	if _, signed := issuer.(*signer.Signer); signed {
		follower := rotate.AuthorityRotator{Location: location, Gateways: plugin.Gateways,
			TTL: settings.TTL, Parallel: o.parallel, Progress: report.notice,
			Renewed: func(_ context.Context, pod *corev1.Pod, status *api.Status) {
				post(poster, watch.Event{Time: time.Now(), Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, Action: watch.Renewed, NotAfter: status.Cert.NotAfter})
			}}
		plugin.FollowRoots = func(ctx context.Context, overlook bool) (*rotate.SignerResult, error) {
			return follower.Follow(ctx, overlook)
		}
	}
	options.Mode = settings.Mode
	watcher := &watch.Watcher{Client: client, Actions: plugin, Options: options, Report: func(e watch.Event) {
		report.add(e)
		post(poster, e)
	}}
	report.counts = watcher.Counts
	signs, err := o.signer(ctx, plugin, options.Namespace)
	if err != nil {
		return err
	}
	return o.watch(ctx, a, client, watcher, signs, report)
}

// certTTL returns how long the certificates of issuer are to be valid, zero if that is the issuer's choice. Only a
// watch that goes on renews short ones in time.
func (o *watchOptions) certTTL(issuer ca.Issuer) time.Duration {
	if _, signed := issuer.(*signer.Signer); signed || o.once {
		return o.settings.options.TTL
	}
	return cmp.Or(o.settings.options.TTL, watch.LeafTTL)
}

// post has an event that is about a pod written there.
func post(poster *announce.Poster, e watch.Event) {
	reason, ok := map[watch.Action]announce.Reason{
		watch.Enabled: announce.Enabled, watch.Replaced: announce.Replaced, watch.Upgraded: announce.Replaced, watch.Disabled: announce.Disabled,
		watch.Renewed: announce.Renewed, watch.Changed: announce.Changed, watch.Failed: announce.Failed, watch.Refused: announce.Refused,
	}[e.Action]
	if !ok || e.Pod == "" {
		return
	}
	text := eventWords(e)
	if hint := advice(e.Err); e.Err != nil && hint != "" {
		text += "; " + hint
	}
	poster.Post(e.Namespace, e.Pod, e.UID, reason, text)
}

// signer returns what signs for others, nil without --sign.
func (o *watchOptions) signer(ctx context.Context, plugin *watch.Plugin, namespace string) (*signing.Server, error) {
	if o.sign == "" {
		return nil, nil
	}
	own := func(ctx context.Context) (*ca.Authority, error) {
		issuer, err := plugin.Issuer(ctx)
		if err != nil {
			return nil, err
		}
		if own, ok := issuer.(*ca.Authority); ok {
			return own, nil
		}
		return nil, api.WithHint(fmt.Errorf("--sign needs the key of an authority, and certificates come from %v", issuer), "run it where the authority is, or where 'init-ca --store=cluster' has brought it")
	}
	if _, err := own(ctx); err != nil {
		return nil, err
	}
	if err := rights.PreflightSigning(ctx, plugin.Client, namespace, o.sign, signing.BundleName(o.sign)); err != nil {
		return nil, err
	}
	return &signing.Server{Client: plugin.Client, Name: o.sign, Namespace: namespace, For: o.signFor, TTL: plugin.Options.TTL, Parallel: o.parallel,
		Authority: own, Survey: plugin.Cluster}, nil
}

// watch runs watcher once, or until the end of ctx, alone or elected, and signs beside it unless that is nil.
func (o *watchOptions) watch(ctx context.Context, a *app, client kubernetes.Interface, watcher *watch.Watcher, signs *signing.Server, report *watchReport) error {
	if signs != nil {
		signs.Report = report.add
	}
	if o.once {
		left, err := watcher.Once(ctx)
		unanswered := 0
		if signs != nil && err == nil {
			unanswered, err = signs.Once(ctx)
		}
		report.finish()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return err
		case left > 0:
			fmt.Fprintf(a.ErrOut, "%s %d of %d pods are not as they are wanted\nhint: %s\n",
				report.style.Paint(terminal.Bad, "error:"), left, watcher.Counts().Watched, report.next())
			return errReported
		case unanswered > 0:
			return fmt.Errorf("%d requests of signer %s were not answered", unanswered, o.sign)
		}
		return report.outErr
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := watcher.Run
	if signs != nil {
		work = func(ctx context.Context) error {
			both, ctx := errgroup.WithContext(ctx)
			both.Go(func() error { return watcher.Run(ctx) })
			both.Go(func() error { return signs.Run(ctx) })
			return both.Wait()
		}
	}
	run := work
	health := &watchHealth{ready: watcher.Synced, metrics: watcher.Metrics}
	if o.leaderElect {
		election, err := o.election(a, client, report)
		if err != nil {
			return err
		}
		health.standBy(election)
		run = func(ctx context.Context) error {
			return election.Lead(ctx, func(ctx context.Context) error {
				health.leads()
				return work(ctx)
			})
		}
	}
	if o.healthAddress != "" {
		stop, err := health.serve(o.healthAddress, func(err error) { cancel(err) })
		if err != nil {
			return err
		}
		defer stop()
	}
	report.start(func(err error) { cancel(err) })
	err := run(ctx)
	report.finish()
	// Ctrl-C is the normal end of a watch.
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

func (o *watchOptions) election(a *app, client kubernetes.Interface, report *watchReport) (*watch.Election, error) {
	namespace, err := a.namespace()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding a name for this replica: %w", err)
	}
	// Two replicas on one machine need different identities.
	identity := host + "-" + utilrand.String(8)
	return &watch.Election{Client: client, Namespace: cmp.Or(o.leaseNamespace, namespace), Identity: identity, Elected: func(leader string) {
		if leader == identity {
			leader = "this replica"
		}
		report.notice(leader + " leads")
	}}, nil
}

// where names the watched namespaces.
func where(options watch.Options) string {
	if options.Namespace == metav1.NamespaceAll {
		return "all namespaces"
	}
	return "namespace " + options.Namespace
}
