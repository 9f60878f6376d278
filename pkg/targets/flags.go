package targets

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// Flags select pods that are not named one by one.
type Flags struct {
	// Selector is a label selector, in kubectl's syntax.
	Selector string
	// All selects every pod of the namespace.
	All bool
	// AllNamespaces widens Selector and All to every namespace.
	AllNamespaces bool
}

// AddFlags registers -l/--selector and --all.
func (f *Flags) AddFlags(flags *pflag.FlagSet) {
	flags.StringVarP(&f.Selector, "selector", "l", f.Selector,
		"select pods by label, for example app=web,tier!=cache")
	flags.BoolVar(&f.All, "all", f.All, "select all pods of the namespace")
}

// AddAllNamespacesFlag registers -A/--all-namespaces, for verbs that offer it.
func (f *Flags) AddAllNamespacesFlag(flags *pflag.FlagSet) {
	flags.BoolVarP(&f.AllNamespaces, "all-namespaces", "A", f.AllNamespaces,
		"look in all namespaces")
}

// Empty reports whether neither the flags nor args select any pod.
func (f *Flags) Empty(args []string) bool {
	return len(args) == 0 && f.Selector == "" && !f.All
}

// Pods returns the pods that the flags and args select, each once: named pods
// in the order of args, selected ones by namespace and name.
//
// An argument is a pod's name, or pod/NAME with any of kubectl's words for pods.
// Pods that were found are returned even when others were not; the error then
// joins what went wrong with the others. It is ErrNothingNamed if nothing is
// selected at all, and ErrNoMatch if the selection holds no pod.
func (f *Flags) Pods(ctx context.Context, flags *genericclioptions.ConfigFlags, args []string) ([]corev1.Pod, error) {
	// What is wrong with the command line itself is said without a cluster.
	if _, err := f.parse(args); err != nil {
		return nil, err
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection: %w", err)
	}
	namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	return f.Select(ctx, client, namespace, args)
}

func kubeconfigError(err error) error {
	return api.WithHint(fmt.Errorf("reading the kubeconfig: %w", err),
		"check --kubeconfig, $KUBECONFIG and --context; 'kubectl config get-contexts' lists contexts")
}

// parse returns the names of the pods in args, each once, after checking that
// args and flags make sense together.
func (f *Flags) parse(args []string) ([]string, error) {
	switch {
	case len(args) > 0 && f.Selector != "":
		return nil, errors.New("pods are named, but a selector is given, too: use one of them")
	case len(args) > 0 && f.All:
		return nil, errors.New("pods are named, but --all is given, too: use one of them")
	case f.Selector != "" && f.All:
		return nil, errors.New("--all and a selector are both given: use one of them")
	case len(args) > 0 && f.AllNamespaces:
		return nil, errors.New("a pod cannot be named across all namespaces: use -n instead of -A")
	case f.Empty(args):
		return nil, api.WithHint(ErrNothingNamed, "name a pod, or use -l or --all")
	}
	return parseNames(args)
}
