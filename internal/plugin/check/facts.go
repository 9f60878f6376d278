package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/discovery"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/pages"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/status"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// facts are shared by the checks of one round. Each is asked for once, by the first check
// that needs it, and does not end with that check: others wait for it as well.
type facts struct {
	*Checker
	server func() (*apiversion.Info, error)
	// found are the pods to check, without those that end.
	found func() ([]corev1.Pod, error)
	nodes func() (map[string]*corev1.Node, error)
	// spaces are the namespaces of pods, and the errors of those that could not be read.
	spaces func() (map[string]*corev1.Namespace, map[string]error)
	survey func() (*survey.Survey, error)
	// states are the states of all pods that ever had a gateway.
	states func() (*status.List, error)
	// tried are the outcomes of the server's dry run by pod.
	tried func() map[*corev1.Pod]error
	// privileged is the outcome of a dry run of a privileged pod, by namespace.
	privileged func() map[string]error
	// authority is what issues the certificates of gateways.
	authority func() (ca.Issuer, error)
	// ask says whether the user has a right, and user who that is to the server.
	ask  func(question) reply
	user func() (*authenticationv1.SelfSubjectReview, error)
}

func newFacts(ctx context.Context, c *Checker) *facts {
	f := &facts{Checker: c}
	f.server = once(ctx, c, func(ctx context.Context) (*apiversion.Info, error) {
		return discovery.ToServerVersionInterfaceWithContext(c.Client.Discovery()).ServerVersionWithContext(ctx)
	})
	f.found = once(ctx, c, func(ctx context.Context) ([]corev1.Pod, error) {
		if c.Unread != nil {
			return nil, c.Unread
		}
		pods, err := c.Find(ctx)
		return slices.DeleteFunc(pods, func(pod corev1.Pod) bool { return installed.Leaving(&pod) || pod.Labels[labelCheck] != "" }), err
	})
	f.nodes = once(ctx, c, f.readNodes)
	f.spaces = sync.OnceValues(func() (map[string]*corev1.Namespace, map[string]error) { return f.readNamespaces(ctx) })
	f.survey = once(ctx, c, func(ctx context.Context) (*survey.Survey, error) {
		pods, _ := f.found()
		return survey.Run(ctx, c.Client, pods, c.Given)
	})
	f.states = once(ctx, c, func(ctx context.Context) (*status.List, error) {
		pods, _ := f.found()
		pods = slices.DeleteFunc(slices.Clone(pods), func(pod corev1.Pod) bool { return len(installed.Gateways(&pod)) == 0 })
		return (&status.Collector{Gateways: c.Gateways, Now: c.Now}).Collect(ctx, pods)
	})
	f.tried = sync.OnceValue(func() map[*corev1.Pod]error { return f.try(ctx) })
	f.privileged = sync.OnceValue(func() map[string]error { return f.tryPrivileged(ctx) })
	f.authority = once(ctx, c, func(ctx context.Context) (ca.Issuer, error) {
		return authority.Open(ctx, f.location())
	})
	f.ask = f.askOnce(ctx)
	f.user = once(ctx, c, func(ctx context.Context) (*authenticationv1.SelfSubjectReview, error) {
		return c.Client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	})
	return f
}

// once calls get once, with the timeout of a check.
func once[T any](ctx context.Context, c *Checker, get func(context.Context) (T, error)) func() (T, error) {
	return sync.OnceValues(func() (T, error) {
		ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Timeout, DefaultTimeout))
		defer cancel()
		return get(ctx)
	})
}

// given returns a check of what get finds out, or else the finding that this is not known or not there.
func given[T any](get func(*facts) (T, []Item), run func(context.Context, *facts, T) []Item) func(context.Context, *facts) []Item {
	return func(ctx context.Context, f *facts) []Item {
		subject, why := get(f)
		if why != nil {
			return why
		}
		return run(ctx, f, subject)
	}
}

// pods returns the pods to check, or the finding of a check that needs some.
func (f *facts) pods() ([]corev1.Pod, []Item) {
	pods, _ := f.found()
	if len(pods) == 0 {
		return nil, skipped("there are no pods")
	}
	return pods, nil
}

// namespaces are those of the pods, or else the namespace of the command.
func (f *facts) namespaces() []string {
	pods, _ := f.found()
	names := sets.New(lists.Map(pods, func(pod corev1.Pod) string { return pod.Namespace })...)
	if names.Len() == 0 {
		names.Insert(f.Namespace)
	}
	return sets.List(names)
}

func (f *facts) readNodes(ctx context.Context) (map[string]*corev1.Node, error) {
	nodes := map[string]*corev1.Node{}
	return nodes, pages.Each(ctx, metav1.ListOptions{}, f.Client.CoreV1().Nodes().List, func(node *corev1.Node) { nodes[node.Name] = node })
}

func (f *facts) readNamespaces(ctx context.Context) (map[string]*corev1.Namespace, map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.Timeout, DefaultTimeout))
	defer cancel()
	spaces, errs := map[string]*corev1.Namespace{}, map[string]error{}
	for _, name := range f.namespaces() {
		space, err := f.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			errs[name] = err
			continue
		}
		spaces[name] = space
	}
	return spaces, errs
}

// relevantNodes are the nodes of the pods, or all nodes without any pods.
func (f *facts) relevantNodes() ([]*corev1.Node, []Item) {
	nodes, err := f.nodes()
	if err != nil {
		return nil, unread("nodes", err)
	}
	pods, _ := f.found()
	names := sets.New(lists.Map(pods, func(pod corev1.Pod) string { return pod.Spec.NodeName })...)
	names.Delete("") // of pods that wait for a node
	var list []*corev1.Node
	for name, node := range nodes {
		if names.Len() == 0 || names.Has(name) {
			list = append(list, node)
		}
	}
	slices.SortFunc(list, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// nameOf names a pod in kubectl's syntax.
func nameOf(pod *corev1.Pod) string { return fmt.Sprintf("pod/%s -n %s", pod.Name, pod.Namespace) }

// unread is the finding about an object that could not be read. Missing rights are not an
// error if only this check needs them.
func unread(what string, err error) []Item {
	if apierrors.IsForbidden(err) {
		return skipped("you may not read %s", what)
	}
	return []Item{failed(Error, fmt.Errorf("reading %s: %w", what, err))}
}
