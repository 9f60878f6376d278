package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

// Limits of a completion.
const (
	// completionTimeout bounds the whole search for names. Typing the name takes no
	// longer.
	completionTimeout = 2 * time.Second
	// completionPage is the number of objects in one request. The pages that arrive
	// in time are offered.
	completionPage = 250
)

// place is the position of a pod among the offers.
type place int

const (
	notAtAll place = iota
	first
	last
)

// chooser finds the place of a pod among the targets of a verb. The gateway is nil if the
// pod has none.
type chooser func(*corev1.Pod, *installed.Gateway) place

func when(yes bool) place {
	if yes {
		return first
	}
	return notAtAll
}

// toEnable chooses pods that can have a gateway, first those whose gateway is missing.
func toEnable(pod *corev1.Pod, g *installed.Gateway) place {
	switch {
	case installed.Leaving(pod) || pod.Status.Phase == corev1.PodPending && !installed.SidecarRuns(pod) || pod.Spec.HostNetwork || installed.Static(pod):
		return notAtAll
	case g == nil || g.Phase == installed.Terminated:
		return first
	}
	return last
}

func toStay(pod *corev1.Pod, _ *installed.Gateway) place { return when(!installed.Leaving(pod)) }

// everEnabled chooses all pods that ever had a gateway: ended ones have a status and a
// log as well.
func everEnabled(_ *corev1.Pod, g *installed.Gateway) place { return when(g != nil) }

func toDisable(_ *corev1.Pod, g *installed.Gateway) place { return when(g != nil && !g.Disabled()) }

func enabled(_ *corev1.Pod, g *installed.Gateway) place {
	return when(g != nil && g.Phase == installed.Running)
}

// completeTargets completes pods, and the workloads that they belong to, unless pods are
// selected in another way.
func (a *app) completeTargets(choose chooser) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if slices.ContainsFunc([]string{"all", "all-namespaces", "selector", "field-selector", "filename", "kustomize"}, cmd.Flags().Changed) {
			return nil, targetsDirective
		}
		return a.targets(cmd, args, toComplete, choose), targetsDirective
	}
}

const targetsDirective = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder

func (a *app) targets(cmd *cobra.Command, args []string, toComplete string, choose chooser) []cobra.Completion {
	o := &offer{choose: choose, args: args, toComplete: toComplete, workloads: map[string]*offered{}}
	return a.lookUp(cmd.Context(), func(ctx context.Context, client kubernetes.Interface) []cobra.Completion {
		namespace, err := a.namespace()
		if err != nil {
			return nil
		}
		// An error, such as the end of ctx, leaves what was found before it.
		_ = pages.Each(ctx, metav1.ListOptions{Limit: completionPage}, client.CoreV1().Pods(namespace).List, o.add)
		return o.completions()
	})
}

// offered is one pod or workload.
type offered struct {
	watch.Name
	description string
	place       place
	pods        int
}

// offer collects what is offered.
type offer struct {
	choose     chooser
	args       []string
	toComplete string
	pods       []offered
	// workloads are found by kubectl's words for them.
	workloads map[string]*offered
}

func (o *offer) add(pod *corev1.Pod) {
	var gateway *installed.Gateway
	state := "no gateway"
	if current, ok := installed.Current(pod); ok {
		gateway = &current
		switch {
		case current.Disabled():
			state = "gateway disabled"
		case current.Phase == installed.Running:
			state = "gateway runs"
		case current.Phase == installed.Terminated:
			state = "gateway has ended"
		default:
			state = "gateway starts"
		}
	}
	at := o.choose(pod, gateway)
	if at == notAtAll {
		return
	}
	o.pods = append(o.pods, offered{Name: watch.Name{Kind: "Pod", Name: pod.Name}, description: state, place: at})
	name := workload(pod)
	if name.Kind == "" {
		return
	}
	key := watch.Words()[name.Kind][0] + "/" + name.Name
	w := o.workloads[key]
	if w == nil {
		w = &offered{Name: name, place: at}
		o.workloads[key] = w
	}
	w.pods++
	w.place = min(w.place, at)
}

// workload returns the workload of a pod, as far as the pod itself shows it: that needs
// no further rights. The kind is "" for a pod of its own.
func workload(pod *corev1.Pod) watch.Name {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return watch.Name{}
	}
	switch owner.APIVersion + " " + owner.Kind {
	case "apps/v1 ReplicaSet":
		// The ReplicaSets of a Deployment have its name and the hash of the template.
		if name, ok := strings.CutSuffix(owner.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ok && name != "" {
			return watch.Name{Kind: "Deployment", Name: name}
		}
	case "apps/v1 StatefulSet", "apps/v1 DaemonSet", "batch/v1 Job":
	default:
		return watch.Name{}
	}
	return watch.Name{Kind: owner.Kind, Name: owner.Name}
}

// completions returns the offers that match the typed text: by place, and at each place
// pods before workloads.
func (o *offer) completions() []cobra.Completion {
	all := slices.SortedFunc(slices.Values(o.pods), func(a, b offered) int { return cmp.Compare(a.Name.Name, b.Name.Name) })
	for _, key := range slices.Sorted(maps.Keys(o.workloads)) {
		w := *o.workloads[key]
		w.description = terminal.Plural(w.pods, "pod")
		all = append(all, w)
	}
	slices.SortStableFunc(all, func(a, b offered) int { return cmp.Compare(a.place, b.place) })
	named := map[watch.Name]bool{}
	for _, arg := range o.args {
		word, name, ok := strings.Cut(arg, "/")
		if !ok {
			word, name = "pod", arg
		}
		named[watch.Name{Kind: watch.KindOf(word), Name: name}] = true
	}
	words := watch.Words()
	var completions []cobra.Completion
	for _, one := range all {
		name := one.Name.Name
		if named[one.Name] || !harmless(name) {
			continue
		}
		for _, word := range words[one.Kind] {
			if text := word + "/" + name; strings.HasPrefix(text, o.toComplete) {
				completions = append(completions, cobra.CompletionWithDesc(text, one.description))
				break
			}
		}
		if one.Kind == "Pod" && o.toComplete != "" && strings.HasPrefix(name, o.toComplete) {
			completions = append(completions, cobra.CompletionWithDesc(name, one.description))
		}
	}
	return completions
}

// completeNamespaces completes the names of namespaces.
func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	offers := a.lookUp(cmd.Context(), func(ctx context.Context, client kubernetes.Interface) []cobra.Completion {
		var names []cobra.Completion
		_ = pages.Each(ctx, metav1.ListOptions{Limit: completionPage}, client.CoreV1().Namespaces().List, func(namespace *corev1.Namespace) {
			names = append(names, namespace.Name)
		})
		return matching(names, toComplete)
	})
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// completeKubeconfig completes the names of contexts, clusters or users of the
// kubeconfig, for the flag of that name.
func (a *app) completeKubeconfig(flag string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		var names []cobra.Completion
		if config, err := a.flags.ToRawKubeConfigLoader().RawConfig(); err == nil {
			switch flag {
			case "context":
				names = slices.Sorted(maps.Keys(config.Contexts))
			case "cluster":
				names = slices.Sorted(maps.Keys(config.Clusters))
			case "user":
				names = slices.Sorted(maps.Keys(config.AuthInfos))
			}
		}
		return matching(names, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// lookUp returns what ask finds in the cluster within completionTimeout. Errors are not
// printed: they would tear apart the line that is being typed.
func (a *app) lookUp(ctx context.Context, ask func(context.Context, kubernetes.Interface) []cobra.Completion) []cobra.Completion {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	// ask ends a little earlier, so that a partial answer is still offered.
	askContext, cancelAsk := context.WithTimeout(ctx, completionTimeout*9/10)
	var offers []cobra.Completion
	// A program that fetches credentials does not end with a context: it is abandoned.
	err := parallel.Until(ctx, func() {
		defer cancelAsk()
		if config, err := a.flags.ToRESTConfig(); err == nil {
			if config.ExecProvider != nil {
				config.ExecProvider.StdinUnavailable = true
				config.ExecProvider.StdinUnavailableMessage = "a completion cannot ask questions"
			}
			if _, client, err := quiet(config); err == nil {
				offers = ask(askContext, client)
			}
		}
	})
	if err != nil {
		return nil
	}
	return offers
}

// matching returns the completions that begin with the typed text.
func matching(all []cobra.Completion, toComplete string) []cobra.Completion {
	return slices.DeleteFunc(slices.Clone(all), func(c cobra.Completion) bool {
		name, _, _ := strings.Cut(c, "\t")
		return !strings.HasPrefix(name, toComplete) || !harmless(name)
	})
}

// harmless reports whether a name is one word that a terminal can show.
func harmless(name string) bool {
	return name != "" && terminal.Clean(name) == name && !strings.ContainsAny(name, " \t\n")
}
