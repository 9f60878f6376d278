package targets

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kubectl-gateway/kubectl-gateway/pkg/api"
)

// parseNames returns the pod names that args hold, each once, in their order.
func parseNames(args []string) ([]string, error) {
	var names []string
	for _, arg := range args {
		name, err := parseName(arg)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func parseName(arg string) (string, error) {
	kind, name, found := strings.Cut(arg, "/")
	if !found {
		kind, name = "pod", arg
	}
	switch strings.ToLower(kind) {
	case "pod", "pods", "po":
	default:
		return "", api.WithHint(fmt.Errorf("%q is not a pod, and only pods can be named", arg),
			"select the pods of a workload by their labels, for example -l app=web")
	}
	if name == "" || strings.Contains(name, "/") {
		return "", api.WithHint(fmt.Errorf("%q does not name a pod", arg), "write pod/NAME")
	}
	return name, nil
}
