package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/targets"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

// enableOptions are the flags of enable.
type enableOptions struct {
	podFlags
	settings
	replace bool
	// secret says that the user wants the key in a Secret.
	secret bool
	// given reports whether the user has given a flag.
	given func(flag string) bool
}

// newEnableCommand returns the command that stores its flags in o.
func newEnableCommand(a *app, o *enableOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable (TARGET... | -f FILE | -l SELECTOR | --all)",
		Short: "Add gateways to running pods",
		Long: `Adds a gateway to each pod and waits until it is ready; the pods go on running. From
then on new connections between pods with gateways are encrypted, to pod addresses
and to Services alike.

A target is pod/NAME, the name of a pod alone, or a workload, which stands for its
present pods: deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, cronjob/NAME, and
svc/NAME for the pods behind a Service. Files can name pods and workloads as well.
Later pods of a workload get no gateway: see 'watch'.

enable skips pods with a working gateway, and replaces a gateway that died or was
disabled. A failed pod does not stop the others, and makes the exit code 1.

--replace puts a new gateway in the place of one that works, as 'upgrade' does: no
connection fails. It has the settings that are given, this plugin's image or --image,
and otherwise the settings that are in force. Nothing is done where that would change
nothing. What 'mode', 'allow' and 'refresh' change needs no --replace.

What annotations of a pod, its workload or its namespace say about its gateway (see
'watch') holds where no flag says otherwise; flags that are given take precedence, until
a 'watch' brings back what is declared.

Connections that are open already stay in plaintext, and are counted and listed.
--existing=reset closes them, also in pods that have a gateway already, so that the
applications make new ones, which are encrypted.`,
		Example: `  # Two pods
  kubectl gateway enable pod/web-0 pod/db-0

  # The pods that a Deployment and a StatefulSet have now
  kubectl gateway enable deploy/web sts/db

  # The pods and workloads in a directory of manifests
  kubectl gateway enable -f manifests/ -R

  # All pods of the cluster, without a confirmation
  kubectl gateway enable --all -A --yes

  # All pods with a label, refusing what cannot be encrypted
  kubectl gateway enable -l app=web --mode=strict

  # Only pods of namespace prod may connect
  kubectl gateway enable pod/db-0 --mode=strict --allow='ns/prod/sa/*'

  # Metrics at a port of the pod, for Prometheus
  kubectl gateway enable deploy/web --metrics-addr=:18445

  # No key reaches the API server, and no right to Secrets is needed
  kubectl gateway enable pod/web-0 --delivery=csr

  # Change what cannot be changed in place, in pods that have a gateway
  kubectl gateway enable deploy/web --replace --on-failure=closed --wire=port

  # Print what enable would create, tried by the server, without keys
  kubectl gateway enable pod/web-0 --dry-run=server -o yaml`,
		ValidArgsFunction: a.completeTargets(toEnable),
		RunE: func(cmd *cobra.Command, args []string) error {
			options := o.complete()
			o.given = cmd.Flags().Changed
			o.secret = cmd.Flags().Changed("delivery") && options.Delivery == inject.DeliverySecret
			switch {
			case o.replace:
				options.Succession.Change = o.change(cmd.Flags().Changed, options)
				options.Succession.Redeliver = cmd.Flags().Changed("delivery")
				if !cmd.Flags().Changed("image") {
					options.Succession.Version = version
				}
			case cmd.Flags().Changed("drain-timeout"):
				return api.WithHint(errors.New("--drain-timeout is about gateways that are replaced"), "use it with --replace")
			}
			if options.KeepSecret && options.Delivery == inject.DeliveryCSR {
				return errors.New("--keep-secret and --delivery=csr are both given, and csr makes no Secret")
			}
			return o.verb(&inject.Injector{Options: options}).run(cmd.Context(), a, args)
		},
	}
	f := cmd.Flags()
	o.podFlags.addFlags(f)
	o.settings.addFlags(a, f, inject.DeliverySecret, days(ca.DefaultLeafTTL))
	f.BoolVar(&o.options.KeepSecret, "keep-secret", false, "keep the Secret with the pod's key after the gateway has read it")
	f.BoolVar(&o.replace, "replace", false, "put a new gateway in the place of one that runs, with the settings that are given")
	addDrainTimeout(f, &o.options.Succession.DrainTimeout, "with --replace: how long connections of the old gateway may go on before they are reset")
	addDryRun(f, &o.options.DryRun, "the server tries it")
	return cmd
}

// verb adds gateways to pods by an injector with Options.
func (o *enableOptions) verb(injector *inject.Injector) *podVerb[inject.Result, injectItem] {
	options := &injector.Options
	var reader *declared.Reader
	do := func(ctx context.Context, pod *corev1.Pod) inject.Result {
		own, warnings := o.declared(injector, reader, pod)
		var result inject.Result
		if o.replace {
			result = own.EnableOrReplace(ctx, pod)
		} else {
			result = own.Enable(ctx, pod)
		}
		result.Warnings = append(warnings, result.Warnings...)
		return result
	}
	v := injecting(&o.podFlags, injector, &o.authorityFlags, "enable", do)
	v.survey = func(ctx context.Context, j *job, pods []corev1.Pod) (err error) {
		if o.secret && injector.Delivery() != inject.DeliverySecret {
			return api.WithHint(errors.New("--delivery=secret makes the key here, and a signer of the cluster issues certificates for keys of gateways alone"), "leave the flag out")
		}
		v.uses = inject.Uses(options.Delivery, injector.Authority)
		reader = declared.NewReader(ctx, j.client)
		strict, unread, err := o.strict(reader, pods)
		if err != nil {
			return err
		}
		j.warn("", unread)
		injector.Shared = inject.NewShared(injector.Client, installed.ManyPods(ctx, injector.Client, pods))
		if err := inject.CheckServer(ctx, injector.Client.Discovery(), injector.Delivery()); err != nil {
			return err
		}
		if injector.Survey, err = survey.Run(ctx, injector.Client, pods, options.Named); err == nil {
			j.warn("", injector.Survey.Warnings)
			if options.Mode == api.Strict || strict {
				j.warn("", injector.Survey.StrictUnknown())
			}
		}
		return err
	}
	v.tell = func(result inject.Result) outcome { return tellEnabled(result, options) }
	v.item = newEnableItem
	v.closing = func(found *targets.Selection, _ []inject.Result) []string { return ofWorkloads(found.Workloads) }
	if o.replace {
		v.group = installed.WorkloadOf
	}
	return v
}

// strict reports whether strict mode is declared of one of pods, and what of their annotations may not be read.
func (o *enableOptions) strict(reader *declared.Reader, pods []corev1.Pod) (strict bool, unread []string, err error) {
	type answer struct {
		settings declared.Settings
		unread   []error
	}
	for _, a := range parallel.Each(o.parallel, pods, func(pod *corev1.Pod) (a answer) {
		a.settings, a.unread = reader.Read(pod)
		return a
	}, nil) {
		var config api.Config
		a.settings.Apply(&config)
		strict = strict || config.Mode == api.Strict
		for _, err := range a.unread {
			if !apierrors.IsForbidden(err) {
				// Who may read them has to know them.
				return false, nil, err
			}
			if text := err.Error() + ": they do not count"; !slices.Contains(unread, text) {
				unread = append(unread, text)
			}
		}
	}
	return strict && !o.given("mode"), unread, nil
}

// declared returns injector with what is declared of pod where no flag is given, and what the user has to know about that.
func (o *enableOptions) declared(injector *inject.Injector, reader *declared.Reader, pod *corev1.Pod) (*inject.Injector, []string) {
	settings, _ := reader.Read(pod)
	own, change := *injector, injector.Options.Succession.Change
	warnings := settings.Overridden(&own.Options.Config, o.given)
	for _, v := range settings {
		if v.Err != nil {
			warnings = append(warnings, v.Err.Error()+"; "+api.Hint(v.Err))
		}
	}
	settings = slices.DeleteFunc(settings, func(v declared.Value) bool { return o.given(v.Name) })
	settings.Apply(&own.Options.Config)
	own.Options.Declared = settings.First()
	if change != nil {
		own.Options.Succession.Change = func(c *api.Config) {
			settings.Change(c)
			change(c)
		}
	}
	return &own, warnings
}

// tellEnabled says what enable did with a pod.
func tellEnabled(result inject.Result, options *inject.Options) outcome {
	what := "enabled"
	switch {
	case result.Action == inject.Unchanged && options.Succession.Change != nil:
		what = "already has these settings"
	case result.Action == inject.Unchanged:
		what = "already enabled"
	}
	told := injected(result, options)
	told.done = fmt.Sprintf("gateway %s (%s, %.1fs)%s", what, result.Container, result.Elapsed.Seconds(), dryRunWords(options.DryRun))
	switch {
	case result.Action != inject.Replaced || result.Err != nil:
	case options.DryRun != installed.DryRunNone:
		told.done = fmt.Sprintf("gateway would be replaced (%s by %s)%s", result.Predecessor, result.Container, dryRunWords(options.DryRun))
	default:
		told.done, told.notes = replacedWords(result, "replaced", options.Succession.DrainTimeout)
	}
	if result.Reset > 0 {
		told.notes = append(told.notes, fmt.Sprintf("connections from before that were reset: %d", result.Reset))
	}
	return told
}

func newEnableItem(result inject.Result) injectItem {
	item := injectItemOf(result)
	if s := result.Status; s != nil && result.Err == nil {
		item.Identity, item.Existing, item.Reset = s.Identity, s.Existing, result.Reset
	}
	return item
}
