package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/admission"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// checkSidecars looks at what gives new pods a gateway as they are created.
func checkSidecars(ctx context.Context, f *facts) []Item {
	live, err := admission.Read(ctx, f.Client)
	switch {
	case errors.Is(err, admission.ErrNotServed):
		return skipped("%s: %s", err, api.Hint(err))
	case apierrors.IsForbidden(err):
		return skipped("you may not read the policy")
	case err != nil:
		return []Item{failed(Warning, err)}
	case live.Policy == nil:
		missing, err := f.missing("", rights.Of(rights.Admission))
		if err == nil && len(missing) > 0 {
			return ok("no policy is installed, and you may not: %s", strings.Join(lists.Texts(missing), ", "))
		}
		return ok("no policy is installed: new pods get no gateway as they are created")
	}
	const again = "kubectl gateway admission install"
	if live.Binding == nil {
		return []Item{{Result: Error, Detail: "the policy has no binding, and is not in force", Command: again}}
	}
	list := f.refusedSidecars()
	if s := admission.Summarize(live.Policy); s.Image != "" && s.Image != f.Image {
		list = append(list, Item{Result: Warning, Detail: fmt.Sprintf("new pods get image %s, and this plugin is of %s", s.Image, f.Image), Command: again})
	}
	return orOK(list, "new pods with the annotation %s=true get one", api.Annotation)
}

// refusedSidecars are the namespaces with the annotation in which no pod could be created with a gateway.
func (f *facts) refusedSidecars() []Item {
	spaces, _ := f.spaces()
	pods, _ := f.found()
	var list []Item
	for _, name := range f.namespaces() {
		asks := spaces[name] != nil && spaces[name].Annotations[api.Annotation] == "true"
		for i := range pods {
			asks = asks || pods[i].Namespace == name && pods[i].Annotations[api.Annotation] == "true"
		}
		if !asks {
			continue
		}
		if refused, _ := f.verdict(name); refused != nil {
			list = append(list, Item{Result: Error, Objects: []string{"namespace/" + name}, Command: labelCommand(name),
				Detail: "its pods ask for a gateway, which Pod Security refuses: no new pod of them is created"})
		}
	}
	return list
}
