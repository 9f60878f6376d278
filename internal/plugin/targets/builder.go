package targets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/cli-runtime/pkg/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
)

// named returns the targets that arguments name, in their order. It asks for the server's
// kinds only if an argument is not a pod.
func (c *connection) named(ctx context.Context, arguments []argument) ([]target, error) {
	var words []string
	for _, a := range arguments {
		if a.kind != "" {
			words = append(words, a.kind+"/"+a.name)
		}
	}
	var others []target
	if len(words) > 0 {
		var err error
		if others, err = c.build(ctx, func(b *resource.Builder) { b.ResourceTypeOrNameArgs(false, words...) }); err != nil {
			// cli-runtime has no type for this error.
			if strings.Contains(err.Error(), "doesn't have a resource type") {
				return nil, api.WithHint(err, "'kubectl api-resources' lists the kinds and their short names; a pod needs none: write its name alone")
			}
			return nil, explain(fmt.Errorf("asking the server for its kinds of objects: %w", err))
		}
	}
	targets := make([]target, len(arguments))
	for i, a := range arguments {
		if a.kind == "" {
			targets[i] = target{kind: podKind, resource: podResource, namespaced: true, namespace: c.namespace, name: a.name}
			continue
		}
		targets[i], others = others[0], others[1:]
	}
	return targets, nil
}

// filed returns the targets in files, without objects that have no pods. It returns what
// it found even if it could not read everything.
func (c *connection) filed(ctx context.Context, files resource.FilenameOptions, in io.Reader) ([]target, error) {
	stdin := slices.Contains(files.Filenames, "-")
	files.Filenames = slices.DeleteFunc(slices.Clone(files.Filenames), func(name string) bool { return name == "-" })
	all, err := c.build(ctx, func(b *resource.Builder) {
		b.FilenameParam(c.enforceNamespace, &files)
		if stdin {
			b.StdinInUse().Stream(cmp.Or(in, io.Reader(os.Stdin)), "standard input")
		}
		b.Flatten()
	})
	var failed []error
	if err != nil {
		errs := []error{err}
		var many utilerrors.Aggregate
		if errors.As(err, &many) {
			errs = many.Errors()
		}
		for _, err := range errs {
			failed = append(failed, api.WithHint(fmt.Errorf("reading the files: %w", err),
				"a file must hold manifests, as for kubectl apply, of kinds that the server knows"))
		}
	}
	var targets []target
	for _, t := range all {
		switch {
		case kindOf(t.kind) == noPods || kindOf(t.kind) == service || kindOf(t.kind) == custom && !t.template:
		case t.name == "":
			failed = append(failed, api.WithHint(fmt.Errorf("a %s in the files has no name", t.kind.Kind),
				"a name that the server generates is not known from the file: name the object on the command line"))
		default:
			targets = append(targets, t)
		}
	}
	if len(targets) == 0 && len(failed) == 0 {
		return nil, api.WithHint(fmt.Errorf("%w: none of the %d objects in the files is a pod or a workload", ErrNothingNamed, len(all)),
			"files select pods by their names and those of their Deployments, StatefulSets, DaemonSets, Jobs and the like")
	}
	return targets, errors.Join(failed...)
}

// build runs a builder that makes no request for the objects themselves.
//
// cli-runtime takes no context, and may wait for the server's kinds, a URL or the
// standard input. It is abandoned when ctx ends: it has no effect but its result.
func (c *connection) build(ctx context.Context, choose func(*resource.Builder)) ([]target, error) {
	var targets []target
	var err error
	if ended := parallel.Until(ctx, func() { targets, err = c.buildNow(choose) }); ended != nil {
		return nil, ended
	}
	return targets, err
}

func (c *connection) buildNow(choose func(*resource.Builder)) ([]target, error) {
	b := resource.NewBuilder(c.getter).Unstructured().ContinueOnError().
		NamespaceParam(c.namespace).DefaultNamespace().RequireObject(false)
	choose(b)
	var targets []target
	err := b.Do().Visit(func(info *resource.Info, err error) error {
		if err != nil {
			return err
		}
		mapping := info.Mapping
		t := target{kind: mapping.GroupVersionKind.GroupKind(), resource: mapping.Resource, name: info.Name, namespace: info.Namespace,
			namespaced: mapping.Scope.Name() == meta.RESTScopeNameNamespace}
		if object, ok := info.Object.(*unstructured.Unstructured); ok {
			t.template = hasTemplate(object)
		}
		targets = append(targets, t)
		return nil
	})
	return targets, err
}
