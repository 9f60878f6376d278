package targets

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

var (
	podKind     = schema.GroupKind{Kind: "Pod"}
	podResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}
)

// target is one named object: a pod, or an object that may have pods.
type target struct {
	kind       schema.GroupKind
	resource   schema.GroupVersionResource
	namespaced bool
	// namespace and name are those of the object.
	namespace, name string
	// template reports for an object in a file whether the file has a pod template.
	template bool
}

// String names the target in kubectl's syntax. Custom kinds need their group.
func (t target) String() string {
	kind := strings.ToLower(t.kind.Kind)
	if !builtin(t.kind.Group) {
		kind = t.resource.GroupResource().String()
	}
	return kind + "/" + t.name
}

// builtin reports whether a group is one of Kubernetes itself.
func builtin(group string) bool {
	return !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io")
}

// argument is KIND/NAME. The kind is "" for a pod.
type argument struct{ kind, name string }

// parseArguments reads args, each once, in their order. An argument without a
// kind is a pod's name.
func parseArguments(args []string) ([]argument, error) {
	var parsed []argument
	for _, arg := range args {
		a, err := parseArgument(arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(parsed, a) {
			parsed = append(parsed, a)
		}
	}
	return parsed, nil
}

func parseArgument(arg string) (argument, error) {
	kind, name, found := strings.Cut(arg, "/")
	if !found {
		kind, name = "pod", arg
	}
	switch strings.ToLower(kind) {
	case "pod", "pods", "po":
		kind = ""
		if name == "" || strings.Contains(name, "/") {
			return argument{}, api.WithHint(fmt.Errorf("%q does not name a pod", arg), "write pod/NAME")
		}
	case "":
		return argument{}, api.WithHint(fmt.Errorf("%q has no kind", arg), "write KIND/NAME, for example deploy/web")
	default:
		if name == "" || strings.Contains(name, "/") || strings.Contains(kind, ",") {
			return argument{}, api.WithHint(fmt.Errorf("%q does not name one object", arg),
				"write KIND/NAME, for example deploy/web; -n names the namespace")
		}
	}
	return argument{kind, name}, nil
}
