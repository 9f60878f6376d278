package targets

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

var (
	// ErrNothingNamed means that a command line selects nothing.
	ErrNothingNamed = errors.New("no pod is named")
	// ErrNoMatch means that a selector, a workload or a namespace has no pod.
	ErrNoMatch = errors.New("no pod found")
)

// parallelGets bounds concurrent reads of named objects.
const parallelGets = 16

// connection is a cluster, and the namespace of targets that name none.
type connection struct {
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	getter    genericclioptions.RESTClientGetter
	namespace string
	// enforceNamespace refuses files that name another namespace.
	enforceNamespace bool
}

// Selection are the pods that a command line selects.
type Selection struct {
	// Pods has no duplicates. Named pods and those of workloads are in the order of
	// the command line, selected ones are ordered by namespace and name.
	Pods []corev1.Pod
	// Workloads are the named objects that own pods, and may create more of them.
	Workloads []Workload
	// Named are the pods that were named themselves. Others merely match.
	Named map[types.NamespacedName]bool
}

// IsNamed reports whether pod was named itself.
func (s *Selection) IsNamed(pod *corev1.Pod) bool { return s.Named[nameOf(pod)] }

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// Workload is an object that makes pods.
type Workload struct {
	// Namespace is where the workload and its pods are.
	Namespace string
	// Name is how the workload is named on a command line, as deployment/web.
	Name string
	// Watch is the command that adds gateways to later pods of the workload, "" for
	// kinds that watch does not take by name.
	Watch string
}

// Find returns what the flags and args select. The selection is never nil.
//
// An argument is a pod's name, or KIND/NAME with any of kubectl's words for kinds. Find
// returns what it found even if it did not find everything; the error then joins the
// others. It is ErrNothingNamed if nothing is selected, and ErrNoMatch if the selection
// has no pod.
func (f *Flags) Find(ctx context.Context, flags *genericclioptions.ConfigFlags, args []string) (*Selection, error) {
	// Errors of the command line need no cluster.
	if _, err := f.parse(args); err != nil {
		return &Selection{}, err
	}
	c := &connection{getter: flags}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return &Selection{}, kubeconfigError(err)
	}
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return &Selection{}, fmt.Errorf("preparing the connection: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return &Selection{}, fmt.Errorf("preparing the connection: %w", err)
	}
	if c.namespace, c.enforceNamespace, err = flags.ToRawKubeConfigLoader().Namespace(); err != nil {
		return &Selection{}, kubeconfigError(err)
	}
	return f.find(ctx, c, args)
}

func kubeconfigError(err error) error {
	return api.WithHint(fmt.Errorf("reading the kubeconfig: %w", err),
		"check --kubeconfig, $KUBECONFIG and --context; 'kubectl config get-contexts' lists contexts")
}

func (f *Flags) parse(args []string) ([]argument, error) {
	if err := f.check(args); err != nil {
		return nil, err
	}
	return parseArguments(args)
}

// find is Find with the connection at hand.
func (f *Flags) find(ctx context.Context, c *connection, args []string) (*Selection, error) {
	arguments, err := f.parse(args)
	if err != nil {
		return &Selection{}, err
	}
	var targets []target
	switch {
	case len(arguments) > 0:
		targets, err = c.named(ctx, arguments)
	case f.files():
		targets, err = c.filed(ctx, f.Files, f.In)
	default:
		pods, err := f.list(ctx, c)
		return &Selection{Pods: pods}, err
	}
	if len(targets) == 0 {
		return &Selection{}, err
	}
	return c.resolve(ctx, targets, f.files(), err)
}

// resolve returns the pods of targets. The error joins failed and the errors of targets.
// With spare, some targets may have no pods: files describe objects such as CronJobs.
func (c *connection) resolve(ctx context.Context, targets []target, spare bool, failed error) (*Selection, error) {
	type found struct {
		pods []corev1.Pod
		err  error
	}
	results := parallel.Each(parallelGets, targets, func(t *target) found {
		pods, err := c.podsOf(ctx, *t)
		return found{pods, err}
	}, nil)

	s := &Selection{Named: map[types.NamespacedName]bool{}}
	errs := Errors(failed)
	var empty []error
	have := map[types.NamespacedName]bool{}
	for i, t := range targets {
		for _, pod := range results[i].pods {
			key := nameOf(&pod)
			if !have[key] {
				have[key] = true
				s.Pods = append(s.Pods, pod)
			}
			if kindOf(t.kind) == itself {
				s.Named[key] = true
			}
		}
		switch err := results[i].err; {
		case slices.Contains(targets[:i], t):
			// A pod may be named in two ways.
			continue
		case spare && errors.Is(err, ErrNoMatch):
			empty = append(empty, err)
		case err != nil:
			errs = append(errs, err)
			continue
		}
		if k := kindOf(t.kind); k != itself && k != service {
			s.Workloads = append(s.Workloads, Workload{Namespace: t.namespace, Name: t.String(), Watch: t.watch()})
		}
	}
	if len(s.Pods) == 0 {
		return &Selection{}, errors.Join(append(errs, empty...)...)
	}
	return s, errors.Join(errs...)
}

// Errors returns the errors that err joins, err alone, or none if it is nil.
func Errors(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}
