package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/inject"
)

const (
	enforceLabel = "pod-security.kubernetes.io/enforce"
	// triedPods bounds the dry runs on pods of a namespace that the user did not name.
	triedPods    = 5
	parallelTry  = 16
	violatesText = "violates PodSecurity"
)

// try has the server try the real patch on pods that can have a gateway and have no
// working one.
func (f *facts) try(ctx context.Context) map[*corev1.Pod]error {
	outcomes := map[*corev1.Pod]error{}
	pods, _ := f.found()
	cluster, err := f.survey()
	if err != nil {
		// The ranges do not matter to admission.
		cluster = &survey.Survey{Found: api.Coverage{Capture: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	}
	count := map[string]int{}
	var candidates []*corev1.Pod
	for i := range pods {
		pod := &pods[i]
		current, has := installed.Current(pod)
		if has && installed.Hopeful(pod, current) || cluster.Refusal(pod) != nil || !f.Named && count[pod.Namespace] >= triedPods {
			continue
		}
		count[pod.Namespace]++
		candidates = append(candidates, pod)
	}
	unknown, err := ca.New(ca.Options{})
	injector := &inject.Injector{Client: f.Client, Gateways: f.Gateways, Survey: cluster, Authority: unknown, Options: inject.Options{
		Image: f.Image, PullPolicy: f.PullPolicy, Mode: api.Permissive, OnFailure: api.FailOpen, Wire: f.Wire,
		Delivery: inject.DeliveryCSR, Timeout: cmp.Or(f.Timeout, DefaultTimeout), DryRun: installed.DryRunServer,
	}}
	errs := parallel.Each(parallelTry, candidates, func(pod **corev1.Pod) error {
		if err != nil {
			return err
		}
		return injector.Enable(ctx, *pod).Err
	}, nil)
	for i, pod := range candidates {
		outcomes[pod] = errs[i]
	}
	return outcomes
}

// tryPrivileged has the server try to create a privileged pod in the namespaces where no
// pod was tried.
func (f *facts) tryPrivileged(ctx context.Context) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Timeout, DefaultTimeout))
	defer cancel()
	outcomes := map[string]error{}
	for _, namespace := range f.namespaces() {
		pod := testPod(namespace, f.Image, f.PullPolicy)
		pod.Spec.SecurityContext = nil
		pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: new(true), RunAsUser: new(int64(0))}
		_, err := f.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		outcomes[namespace] = err
	}
	return outcomes
}

// notAllowed reports whether err comes from RBAC and not from an admission policy.
func notAllowed(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), " cannot ")
}

// verdict returns why Pod Security refuses a gateway in namespace, nil if it admits it.
// known is false if the server refused earlier.
func (f *facts) verdict(namespace string) (err error, known bool) {
	for pod, tried := range f.tried() {
		switch {
		case pod.Namespace != namespace:
		case tried == nil:
			known = true
		case strings.Contains(tried.Error(), violatesText):
			return tried, true
		}
	}
	if known {
		return nil, true
	}
	switch err = f.privileged()[namespace]; {
	case err == nil:
		return nil, true
	case strings.Contains(err.Error(), violatesText):
		return err, true
	}
	return nil, false
}

func labelCommand(namespace string) string {
	return fmt.Sprintf("kubectl label namespace %s %s=privileged --overwrite", namespace, enforceLabel)
}

func checkPodSecurity(_ context.Context, f *facts) []Item {
	spaces, errs := f.spaces()
	var list []Item
	for _, name := range f.namespaces() {
		refused, known := f.verdict(name)
		space := spaces[name]
		level := "unknown"
		if space != nil {
			level = cmp.Or(space.Labels[enforceLabel], "privileged by default")
		}
		found := Item{Objects: []string{"namespace/" + name}}
		switch {
		case errs[name] != nil && !apierrors.IsForbidden(errs[name]):
			found = failed(Error, fmt.Errorf("reading the namespace: %w", errs[name]))
			found.Objects = []string{"namespace/" + name}
		case refused != nil:
			found.Result, found.Command = Error, labelCommand(name)
			found.Detail = fmt.Sprintf("it enforces the level %s, and a gateway is a privileged container", level)
			found.Hint = "pods need no other label; those that make pods there may then make privileged ones"
			if space != nil && space.Labels[enforceLabel] == "" {
				found.Detail = "the cluster's default level refuses privileged containers"
			}
		case !known && space == nil:
			found.Result, found.Detail = Skipped, "you may neither read the namespace nor try a pod in it"
		case !known && (level == "baseline" || level == "restricted"):
			found.Result, found.Command = Error, labelCommand(name)
			found.Detail = fmt.Sprintf("it enforces the level %s, and a gateway is a privileged container", level)
		default:
			found.Result, found.Detail = OK, "level "+level
			if space == nil {
				found.Detail = "by dry run"
			}
		}
		list = append(list, found)
	}
	return list
}

func checkAdmission(_ context.Context, f *facts) []Item {
	var list []Item
	good, unknown := 0, 0
	done := map[string]bool{}
	pods, _ := f.found()
	tried := f.tried()
	// This keeps the order of pods.
	for i := range pods {
		pod := &pods[i]
		err, was := tried[pod]
		if !was {
			continue
		}
		done[pod.Namespace] = true
		switch {
		case err == nil:
			good++
		case notAllowed(err), strings.Contains(err.Error(), violatesText), errors.Is(err, installed.ErrReplaced):
			// Permissions and Pod Security have checks of their own.
			unknown++
		default:
			found := failed(Error, err)
			if strings.Contains(err.Error(), "does not support dry run") {
				found = Item{Result: Warning, Detail: err.Error(), Hint: "only enabling a pod will tell whether that webhook admits it"}
			}
			found.Objects = []string{nameOf(pod)}
			list = append(list, found)
		}
	}
	for _, namespace := range f.namespaces() {
		if done[namespace] {
			continue
		}
		switch err := f.privileged()[namespace]; {
		case err == nil:
			good++
		case notAllowed(err), strings.Contains(err.Error(), violatesText):
			unknown++
		default:
			found := failed(Warning, fmt.Errorf("trying a privileged pod: %w", err))
			found.Objects = []string{"namespace/" + namespace}
			list = append(list, found)
		}
	}
	switch {
	case len(list) > 0:
		return list
	case good == 0 && unknown > 0:
		return skipped("nothing could be tried: see permissions and Pod Security")
	}
	return ok("%d tried", good)
}

func checkWebhooks(ctx context.Context, f *facts) []Item {
	validating, err := f.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unread("admission webhooks", err)
	}
	mutating, err := f.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return unread("admission webhooks", err)
	}
	var hooks []admissionv1.ValidatingWebhook
	for _, config := range validating.Items {
		hooks = append(hooks, config.Webhooks...)
	}
	for _, config := range mutating.Items {
		for _, w := range config.Webhooks { // here only what both kinds have counts
			hooks = append(hooks, admissionv1.ValidatingWebhook{Name: w.Name, Rules: w.Rules, NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects})
		}
	}
	var list []Item
	asked := sets.New[string]()
	spaces, _ := f.spaces()
	for _, h := range hooks {
		if !asks(&h, spaces, f) {
			continue
		}
		asked.Insert(h.Name)
		if h.SideEffects != nil && *h.SideEffects != admissionv1.SideEffectClassNone && *h.SideEffects != admissionv1.SideEffectClassNoneOnDryRun {
			list = append(list, Item{Result: Warning, Objects: []string{h.Name}, Detail: "it is asked about gateways, but not in a dry run",
				Hint: "only enabling a pod will tell whether it admits the gateway"})
		}
	}
	if asked.Len() == 0 {
		return ok("none is asked about gateways")
	}
	return orOK(list, "asked, see the dry run: %s", strings.Join(sets.List(asked), ", "))
}

// asks reports whether the server asks h about a gateway for a relevant pod.
func asks(h *admissionv1.ValidatingWebhook, spaces map[string]*corev1.Namespace, f *facts) bool {
	if !slices.ContainsFunc(h.Rules, ruleMatches) {
		return false
	}
	pods, _ := f.found()
	objects, err := metav1.LabelSelectorAsSelector(h.ObjectSelector)
	if h.ObjectSelector == nil || err != nil {
		objects = labels.Everything()
	}
	namespaces, err := metav1.LabelSelectorAsSelector(h.NamespaceSelector)
	if h.NamespaceSelector == nil || err != nil {
		namespaces = labels.Everything()
	}
	for _, name := range f.namespaces() {
		space := spaces[name]
		if space != nil && !namespaces.Matches(labels.Set(space.Labels)) {
			continue
		}
		if len(pods) == 0 || slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Namespace == name && objects.Matches(labels.Set(pod.Labels)) }) {
			return true
		}
	}
	return false
}

// ruleMatches reports whether a rule covers updates of pods/ephemeralcontainers.
func ruleMatches(r admissionv1.RuleWithOperations) bool {
	operation := slices.ContainsFunc(r.Operations, func(o admissionv1.OperationType) bool {
		return o == admissionv1.OperationAll || o == admissionv1.Update
	})
	group := slices.Contains(r.APIGroups, "*") || slices.Contains(r.APIGroups, "")
	version := slices.Contains(r.APIVersions, "*") || slices.Contains(r.APIVersions, "v1")
	resource := slices.ContainsFunc(r.Resources, func(name string) bool {
		return slices.Contains([]string{"pods/ephemeralcontainers", "pods/*", "*/ephemeralcontainers", "*/*"}, name)
	})
	scope := r.Scope == nil || *r.Scope == admissionv1.AllScopes || *r.Scope == admissionv1.NamespacedScope
	return operation && group && version && resource && scope
}
