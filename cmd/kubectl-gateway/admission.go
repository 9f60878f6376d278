package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/admission"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/flags"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

func newAdmissionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admission",
		Short: "Give new pods a gateway before their first packet",
		Long: `Has the API server give new pods a gateway: a MutatingAdmissionPolicy and its binding,
which are objects of the cluster. Nothing of this runs, and no webhook is called.

A pod gets the gateway as it is created if it has the annotation
` + api.Annotation + `=true, on itself or on its namespace; that of the pod takes precedence. For
the pods of a workload the annotation belongs into their template. The gateway is a
sidecar: an init container in front of all others, which the kubelet starts again when
it ends, and which ends after the application. Pods that run are not changed: 'enable'
and 'watch' add gateways to those.

A sidecar starts without a certificate, and 'watch' gives it one as soon as it sees the
pod. In strict mode, the default, the other containers of the pod wait for that, its
init containers as well: no packet is plaintext. So a strict pod without a 'watch' waits
('kubectl describe pod' says for what), and 'enable' helps as well. In permissive mode
they wait for --startup-timeout at most. The annotation
` + declared.AnnotationMode + `=strict of a pod or its namespace makes its gateway strict;
permissive counts where 'install --annotations' lets it.

Kubernetes 1.36 or later is needed, and namespaces must admit privileged containers.
All other verbs treat a sidecar as any gateway.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newAdmissionInstallCommand(a), newAdmissionDiffCommand(a), newAdmissionShowCommand(a), newAdmissionRemoveCommand(a))
	return cmd
}

// admissionOptions are the flags that say what gateways new pods get.
type admissionOptions struct {
	settings
	startupTimeout   time.Duration
	requests, limits corev1.ResourceList
	exempt           []string
	loosen           declared.From
}

func (o *admissionOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.addGateway(f, api.Strict)
	addAuthorityDir(f, &o.authorityDir, "authority-dir")
	flags.Duration(f, &o.startupTimeout, "startup-timeout", admission.DefaultStartupTimeout, time.Second, "in permissive mode: how long the containers of a pod wait for a gateway that is ready")
	flags.Choice(f, &o.loosen, "annotations", "", declared.FromNobody, "whose annotations may make a gateway permissive that --mode makes strict; strict is heeded always", []flags.Word[declared.From]{
		{Value: declared.FromAll, Meaning: "those of pods and namespaces"},
		{Value: declared.FromNamespaces, Meaning: "those of namespaces alone"},
		{Value: declared.FromNobody, Meaning: "those of nobody"},
	})
	flags.Parsed(f, &o.requests, "requests", "quantities", "cpu=10m,memory=32Mi", "what each gateway requests, like cpu=10m,memory=32Mi; empty for nothing", parseResources)
	flags.Parsed(f, &o.limits, "limits", "quantities", "", "what each gateway may use at most, like cpu=1,memory=256Mi (default: no limit)", parseResources)
	flags.Repeated(f, &o.exempt, "exempt-namespace", "strings", "", "namespace whose pods get no gateway, whatever their annotations say, besides "+authority.Namespace+" and "+admission.WatchNamespace+"; may be repeated", flags.Commas, parseNamespace)
}

// parseResources reads quantities of resources, as kubectl set resources does.
func parseResources(text string) (corev1.ResourceList, error) {
	if text == "" {
		return nil, nil
	}
	list := corev1.ResourceList{}
	for word := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		if !slices.Contains([]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}, corev1.ResourceName(name)) {
			return nil, api.WithHint(fmt.Errorf("%q is neither cpu nor memory", name), "write it like cpu=100m,memory=64Mi")
		}
		quantity, err := resource.ParseQuantity(value)
		if err != nil || quantity.Sign() <= 0 {
			return nil, api.WithHint(fmt.Errorf("%q is not a quantity of %s", value, name), "write it like cpu=100m,memory=64Mi")
		}
		list[corev1.ResourceName(name)] = quantity
	}
	return list, nil
}

func parseNamespace(text string) (string, error) {
	if problems := validation.IsDNS1123Label(text); len(problems) > 0 {
		return "", fmt.Errorf("%q is not the name of a namespace", text)
	}
	return text, nil
}

// wanted returns the objects that the flags describe.
func (o *admissionOptions) wanted(cmd *cobra.Command, a *app, client kubernetes.Interface) (admission.Objects, error) {
	options := o.complete()
	if options.Mode == api.Strict && o.loosen == declared.FromNobody && cmd.Flags().Changed("startup-timeout") {
		return admission.Objects{}, api.WithHint(errors.New("--startup-timeout is about permissive mode"), "strict gateways keep their pods waiting until they are ready")
	}
	for name, limit := range o.limits {
		request, ok := o.requests[name]
		switch {
		case ok && request.Cmp(limit) <= 0:
		case ok && cmd.Flags().Changed("requests"):
			return admission.Objects{}, fmt.Errorf("the requested %s of %s is more than the limit of %s", name, request.String(), limit.String())
		case ok:
			o.requests[name] = limit
		}
	}
	signer, err := authority.Load(cmd.Context(), (&job{report: newReport(a, ""), client: client}).authority(o.authorityDir))
	if err != nil {
		return admission.Objects{}, fmt.Errorf("loading the authority: %w", err)
	}
	options.TrustDomain = signer.TrustDomain()
	return admission.Wanted(admission.Options{
		Image: options.Image, PullPolicy: options.PullPolicy, Config: options.Config, Roots: signer.Roots(),
		StartupTimeout: o.startupTimeout, Exempt: o.exempt, Loosen: o.loosen,
		Resources: corev1.ResourceRequirements{Requests: o.requests, Limits: o.limits},
	})
}

func newAdmissionInstallCommand(a *app) *cobra.Command {
	var o admissionOptions
	var dryRun installed.DryRun
	var format string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install or upgrade the policy",
		Long: `Creates the MutatingAdmissionPolicy ` + admission.Name + ` and its binding, or brings them to this
plugin's version and to the flags that are given. What is not given has its default:
'diff' shows what would change. Pods that run keep the gateways that they have.

With mode strict a pod is not created if the policy fails (failurePolicy: Fail), with
permissive it is created without a gateway. --dry-run=client -o yaml prints the objects
for GitOps.`,
		Example: `  # New pods of namespace shop have a gateway from their first packet
  kubectl gateway admission install
  kubectl annotate namespace shop ` + api.Annotation + `=true
  kubectl gateway watch

  # Pods start without a gateway that is not ready after half a minute
  kubectl gateway admission install --mode=permissive --startup-timeout=30s

  # Namespaces may declare otherwise, with the annotation ` + declared.AnnotationMode + `
  kubectl gateway admission install --annotations=namespaces

  # With limits
  kubectl gateway admission install --requests=cpu=50m,memory=64Mi --limits=memory=256Mi

  # Print the objects
  kubectl gateway admission install --dry-run=client -o yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := a.kubernetes()
			if err != nil {
				return err
			}
			wanted, err := o.wanted(cmd, a, client)
			if err != nil {
				return err
			}
			objects, done, err := admission.Install(cmd.Context(), client, wanted, dryRun)
			if err != nil {
				return err
			}
			if format != "" {
				return a.printObjects(admission.Plain(objects), format)
			}
			if err := a.print("result", changesText(done, dryRun)); err != nil {
				return err
			}
			if dryRun == installed.DryRunNone {
				fmt.Fprintln(a.ErrOut, admissionHint(o.complete().Mode))
			}
			return nil
		},
	}
	o.addFlags(cmd)
	addDryRun(cmd.Flags(), &dryRun, "the server tries it")
	addOutput(cmd.Flags(), &format, "", "name", "json", "yaml", "kyaml")
	return cmd
}

// admissionHint says what pods need that are to come.
func admissionHint(mode api.Mode) string {
	text := "new pods with the annotation " + api.Annotation + "=true, on themselves or on their namespace, get a gateway; 'kubectl gateway watch' gives it its certificate"
	if mode == api.Strict {
		text += ", for which the pods wait"
	}
	return text
}

// exitNotCompared is the exit code of admission diff where it could not compare: 1 says that there is a difference.
const exitNotCompared = 2

func newAdmissionDiffCommand(a *app) *cobra.Command {
	var o admissionOptions
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show what 'install' would change",
		Long: `Prints what 'install' with the same flags would change of the policy and its binding, as
a unified diff. The exit code is 1 if that is something, as with 'kubectl diff'.`,
		Example: `  # Before an upgrade
  kubectl gateway admission diff`,
		Args: func(cmd *cobra.Command, args []string) error {
			return exitWith(exitNotCompared, cobra.NoArgs(cmd, args))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := a.kubernetes()
			if err != nil {
				return exitWith(exitNotCompared, err)
			}
			wanted, err := o.wanted(cmd, a, client)
			if err != nil {
				return exitWith(exitNotCompared, err)
			}
			live, err := admission.Read(cmd.Context(), client)
			if err != nil {
				return exitWith(exitNotCompared, err)
			}
			text, err := admission.Diff(live, wanted)
			if err != nil || text == "" {
				return exitWith(exitNotCompared, err)
			}
			if err := a.print("difference", cleanLines(text)); err != nil {
				return exitWith(exitNotCompared, err)
			}
			return errReported
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exitWith(exitNotCompared, flags.Error(cmd, err)) })
	o.addFlags(cmd)
	return cmd
}

// cleanLines makes lines of foreign text harmless.
func cleanLines(text string) string {
	var b strings.Builder
	for text := range strings.Lines(text) {
		b.WriteString(terminal.Clean(strings.TrimSuffix(text, "\n")) + "\n")
	}
	return b.String()
}

func newAdmissionShowCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the policy that is installed",
		Long:  `Shows which gateways new pods get. With -o yaml it prints the policy and its binding.`,
		Example: `  # What new pods get
  kubectl gateway admission show`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := a.kubernetes()
			if err != nil {
				return err
			}
			live, err := admission.Read(cmd.Context(), client)
			if err != nil {
				return err
			}
			if live.Policy == nil {
				return api.WithHint(errors.New("no policy is installed: new pods get no gateway as they are created"), "'kubectl gateway admission install' installs it")
			}
			if format != "" {
				return a.printObjects(live.List(), format)
			}
			return a.print("policy", policyText(live))
		},
	}
	addOutput(cmd.Flags(), &format, "", "name", "json", "yaml", "kyaml")
	return cmd
}

// policyText describes what is installed.
func policyText(live admission.Objects) string {
	s := admission.Summarize(live.Policy)
	var b strings.Builder
	row := func(name, value string) { fmt.Fprintf(&b, "%-11s %s\n", name, line(value)) }
	bound := "in force since " + live.Policy.CreationTimestamp.UTC().Format(time.RFC3339)
	if live.Binding == nil {
		bound = "not in force: there is no binding; 'kubectl gateway admission install' makes one"
	}
	row("policy", "mutatingadmissionpolicy/"+admission.Name+", "+bound)
	if s.Image != "" {
		row("image", s.Image)
	}
	switch {
	case s.Loosen == declared.FromAll:
		row("mode", string(s.Mode)+", where annotations of pods and namespaces say nothing else")
	case s.Loosen == declared.FromNamespaces:
		row("mode", string(s.Mode)+", where annotations of namespaces say nothing else; strict where those of pods do")
	case s.Mode == api.Permissive && s.Loosen == declared.FromNobody:
		row("mode", string(s.Mode)+", and strict where annotations say so")
	case s.Mode != "":
		row("mode", string(s.Mode))
	}
	failure := "a pod is created without a gateway if the policy fails"
	if s.Refuses {
		failure = "a pod is not created if the policy fails"
	}
	row("failure", failure)
	row("exempt", strings.Join(s.Exempt, ", "))
	return b.String()
}

func newAdmissionRemoveCommand(a *app) *cobra.Command {
	var dryRun installed.DryRun
	cmd := &cobra.Command{
		Use:   "remove",
		Short: "Remove the policy",
		Long: `Deletes the binding and the policy. New pods get no gateway as they are created; those
that have one keep it until they are replaced.`,
		Example: `  # No gateways for new pods
  kubectl gateway admission remove`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, client, err := a.kubernetes()
			if err != nil {
				return err
			}
			done, err := admission.Remove(cmd.Context(), client, dryRun)
			if err != nil {
				return err
			}
			if done.Policy == admission.Absent && done.Binding == admission.Absent {
				fmt.Fprintln(a.ErrOut, "no policy is installed")
				return nil
			}
			return a.print("result", changesText(done, dryRun))
		},
	}
	addDryRun(cmd.Flags(), &dryRun, "the server tries it")
	return cmd
}

// changesText says what was done, a line for each object, as kubectl does.
func changesText(done admission.Done, dryRun installed.DryRun) string {
	const group = ".admissionregistration.k8s.io/" + admission.Name
	return fmt.Sprintf("mutatingadmissionpolicy%s %s%s\nmutatingadmissionpolicybinding%[1]s %[4]s%[3]s\n", group, done.Policy, dryRunWords(dryRun), done.Binding)
}

// printObjects prints objects of the API in a format.
func (a *app) printObjects(objects []any, format string) error {
	if format == "name" {
		var b strings.Builder
		for _, object := range objects {
			o := object.(runtime.Object)
			fmt.Fprintf(&b, "%s.admissionregistration.k8s.io/%s\n", strings.ToLower(o.GetObjectKind().GroupVersionKind().Kind), admission.Name)
		}
		return a.print("objects", b.String())
	}
	text, err := encodeObjects(objects, format)
	if err != nil {
		return err
	}
	return a.print("objects", text)
}
