package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
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
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case installed.Leaving(pod) || pod.Status.Phase == corev1.PodPending || pod.Spec.HostNetwork || mirror:
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

func (a *app) targets(cmd *cobra.Command, args []string, toComplete string, choose chooser) (offers []cobra.Completion) {
	o := &offer{choose: choose, args: args, toComplete: toComplete, workloads: map[string]*offered{}}
	a.lookUp(cmd.Context(), func(ctx context.Context, client kubernetes.Interface) []cobra.Completion {
		namespace, err := a.namespace()
		if err != nil {
			return nil
		}
		list := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.CoreV1().Pods(namespace).List(ctx, options)
		}
		eachItem(ctx, list, func(object runtime.Object) { o.add(object.(*corev1.Pod)) })
		return o.completions()
	}, &offers)
	return offers
}

// offered is one pod or workload.
type offered struct {
	kind, name, description string
	place                   place
	pods                    int
}

// offer collects what is offered.
type offer struct {
	choose     chooser
	args       []string
	toComplete string
	pods       []offered
	workloads  map[string]*offered
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
	o.pods = append(o.pods, offered{kind: "pod", name: pod.Name, description: state, place: at})
	kind, name := workload(pod)
	if kind == "" {
		return
	}
	w := o.workloads[kind+"/"+name]
	if w == nil {
		w = &offered{kind: kind, name: name, place: at}
		o.workloads[kind+"/"+name] = w
	}
	w.pods++
	w.place = min(w.place, at)
}

// workload returns the workload of a pod, as far as the pod itself shows it: that needs
// no further rights. The kind is "" for a pod of its own.
func workload(pod *corev1.Pod) (kind, name string) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return "", ""
	}
	group, _, _ := strings.Cut(owner.APIVersion, "/")
	switch {
	case group == "apps" && owner.Kind == "ReplicaSet":
		// The ReplicaSets of a Deployment have its name and the hash of the template.
		if name, ok := strings.CutSuffix(owner.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ok && name != "" {
			return "deploy", name
		}
		return "rs", owner.Name
	case group == "apps" && owner.Kind == "StatefulSet":
		return "sts", owner.Name
	case group == "apps" && owner.Kind == "DaemonSet":
		return "ds", owner.Name
	case group == "batch" && owner.Kind == "Job":
		return "job", owner.Name
	}
	return "", ""
}

// kindWords are the words for each kind, the preferred one first.
func kindWords() map[string][]string {
	return map[string][]string{
		"pod":    {"pod", "pods", "po"},
		"deploy": {"deploy", "deployment", "deployments", "deployment.apps", "deployments.apps"},
		"sts":    {"sts", "statefulset", "statefulsets", "statefulset.apps", "statefulsets.apps"},
		"ds":     {"ds", "daemonset", "daemonsets", "daemonset.apps", "daemonsets.apps"},
		"rs":     {"rs", "replicaset", "replicasets", "replicaset.apps", "replicasets.apps"},
		"job":    {"job", "jobs", "job.batch", "jobs.batch"},
	}
}

// completions returns the offers that match the typed text: by place, and at each place
// pods before workloads.
func (o *offer) completions() []cobra.Completion {
	all := slices.Clone(o.pods)
	for _, key := range slices.Sorted(maps.Keys(o.workloads)) {
		w := *o.workloads[key]
		w.description = fmt.Sprintf("%d pods", w.pods)
		if w.pods == 1 {
			w.description = "1 pod"
		}
		all = append(all, w)
	}
	slices.SortStableFunc(all, func(a, b offered) int {
		return cmp.Or(cmp.Compare(a.place, b.place), compareBool(a.kind != "pod", b.kind != "pod"), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	words := kindWords()
	named := map[string]bool{}
	for _, arg := range o.args {
		kind, name, ok := strings.Cut(arg, "/")
		if !ok {
			kind, name = "pod", arg
		}
		for canonical, all := range words {
			if slices.Contains(all, strings.ToLower(kind)) {
				named[canonical+"/"+name] = true
			}
		}
	}
	var completions []cobra.Completion
	for _, one := range all {
		if named[one.kind+"/"+one.name] || !harmless(one.name) {
			continue
		}
		for _, word := range words[one.kind] {
			if text := word + "/" + one.name; strings.HasPrefix(text, o.toComplete) {
				completions = append(completions, cobra.CompletionWithDesc(text, one.description))
				break
			}
		}
		if one.kind == "pod" && o.toComplete != "" && strings.HasPrefix(one.name, o.toComplete) {
			completions = append(completions, cobra.CompletionWithDesc(one.name, one.description))
		}
	}
	return completions
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// completeNamespaces completes the names of namespaces.
func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var offers []cobra.Completion
	a.lookUp(cmd.Context(), func(ctx context.Context, client kubernetes.Interface) []cobra.Completion {
		var names []cobra.Completion
		list := func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.CoreV1().Namespaces().List(ctx, options)
		}
		eachItem(ctx, list, func(object runtime.Object) { names = append(names, object.(*corev1.Namespace).Name) })
		return matching(names, toComplete)
	}, &offers)
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

// lookUp appends to found what ask finds in the cluster within completionTimeout.
// Errors are not printed: they would tear apart the line that is being typed.
func (a *app) lookUp(ctx context.Context, ask func(context.Context, kubernetes.Interface) []cobra.Completion, found *[]cobra.Completion) {
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	// ask ends a little earlier, so that a partial answer is still offered.
	askContext, cancelAsk := context.WithTimeout(ctx, completionTimeout*9/10)
	answer := make(chan []cobra.Completion, 1)
	go func() {
		defer cancelAsk()
		config, err := a.flags.ToRESTConfig()
		if err != nil {
			answer <- nil
			return
		}
		config = rest.CopyConfig(config)
		config.WarningHandler, config.WarningHandlerWithContext = rest.NoWarnings{}, nil
		if config.ExecProvider != nil {
			config.ExecProvider.StdinUnavailable = true
			config.ExecProvider.StdinUnavailableMessage = "a completion cannot ask questions"
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			answer <- nil
			return
		}
		answer <- ask(askContext, client)
	}()
	// A program that fetches credentials does not end with a context: it is abandoned.
	select {
	case offers := <-answer:
		*found = append(*found, offers...)
	case <-ctx.Done():
	}
}

// eachItem calls do with the objects that list returns, until the last one or the end of
// ctx.
func eachItem(ctx context.Context, list pager.ListPageFunc, do func(runtime.Object)) {
	pages := pager.New(list)
	pages.PageSize = completionPage
	_ = pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		do(object)
		return nil
	})
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
