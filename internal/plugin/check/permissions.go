package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

// scope is where a permission is needed.
type scope int

const (
	// inNamespace is each namespace with pods.
	inNamespace scope = iota
	// inSystem is the namespace kube-system.
	inSystem
	// everywhere is the cluster as a whole.
	everywhere
)

// permission is one thing that a verb of the plugin does.
type permission struct {
	verb, group, resource, subresource string
	// name restricts it to one object.
	name  string
	scope scope
}

func (p permission) path() string {
	path := p.resource
	if p.subresource != "" {
		path += "/" + p.subresource
	}
	if p.group != "" {
		path += "." + p.group
	}
	return path
}

// String names p with where it is missing, which is namespace unless p says more.
func (p permission) String() string {
	text := p.verb + " " + p.path()
	if p.name != "" {
		text += " " + p.name
	}
	switch p.scope {
	case inSystem:
		return text + " in " + authority.Namespace
	case everywhere:
		return text + " of the cluster"
	}
	return text
}

func pods(subresource string, verbs ...string) []permission {
	var list []permission
	for _, verb := range verbs {
		list = append(list, permission{verb: verb, resource: "pods", subresource: subresource})
	}
	return list
}

// certifying is what finding the authority takes.
func certifying() []permission {
	return []permission{
		{verb: "get", resource: "namespaces", name: authority.Namespace, scope: inSystem},
		{verb: "get", resource: "configmaps", name: authority.BundleName, scope: inSystem},
	}
}

// needs returns what a verb of the plugin does in the cluster. That of "secret" and
// "watch" comes on top of "enable".
func needs(verb string) []permission {
	look := slices.Concat(pods("", "get", "list"), pods("exec", "create"))
	switch verb {
	case "enable":
		return slices.Concat(pods("", "get", "list", "watch"), pods("exec", "create"), pods("ephemeralcontainers", "patch"), certifying(),
			[]permission{
				{verb: "list", resource: "nodes", scope: everywhere},
				{verb: "list", group: "networking.k8s.io", resource: "servicecidrs", scope: everywhere},
			})
	case "secret":
		return []permission{{verb: "create", resource: "secrets"}, {verb: "list", resource: "secrets"}, {verb: "delete", resource: "secrets"}}
	case "status":
		return look
	case "tail":
		return slices.Concat(pods("", "get", "list", "watch"), pods("log", "get"))
	case "disable":
		return slices.Concat(look, pods("", "watch"), pods("ephemeralcontainers", "patch"))
	case "rotate":
		return slices.Concat(look, certifying())
	case "watch":
		return []permission{
			{verb: "list", resource: "namespaces", scope: everywhere}, {verb: "watch", resource: "namespaces", scope: everywhere},
			{verb: "watch", resource: "nodes", scope: everywhere},
			{verb: "list", group: "apps", resource: "replicasets"}, {verb: "watch", group: "apps", resource: "replicasets"},
		}
	}
	return nil
}

// bundles are the roles that are proposed, by the name of the role. Each holds all
// that its verbs need: applied again, it takes nothing away.
func bundles() map[string][]string {
	return map[string][]string{
		"kubectl-gateway":         {"enable", "status", "tail", "disable", "rotate"},
		"kubectl-gateway-secrets": {"secret"},
		"kubectl-gateway-watch":   {"watch"},
	}
}

// accessFacts are the server's answers about what the user may do.
type accessFacts struct {
	ask func(namespace string, p permission) (bool, error)
	// user is who the server takes the user for.
	user func() (authenticationv1.UserInfo, error)
}

func (a *accessFacts) init(ctx context.Context, c *Checker) {
	type key struct {
		namespace string
		permission
	}
	var mu sync.Mutex
	answers := map[key]func() (bool, error){}
	a.ask = func(namespace string, p permission) (bool, error) {
		switch p.scope {
		case inSystem:
			namespace = authority.Namespace
		case everywhere:
			namespace = ""
		}
		k := key{namespace, p}
		mu.Lock()
		if answers[k] == nil {
			answers[k] = once(ctx, c, func(ctx context.Context) (bool, error) {
				review, err := c.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
					Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
						Namespace: namespace, Verb: p.verb, Group: p.group, Resource: p.resource, Subresource: p.subresource, Name: p.name,
					}}}, metav1.CreateOptions{})
				if err != nil {
					return false, fmt.Errorf("asking whether you may %s: %w", p, err)
				}
				return review.Status.Allowed, nil
			})
		}
		answer := answers[k]
		mu.Unlock()
		return answer()
	}
	a.user = once(ctx, c, func(ctx context.Context) (authenticationv1.UserInfo, error) {
		review, err := c.Client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.UserInfo{}, err
		}
		return review.Status.UserInfo, nil
	})
}

// missing returns what of list the user may not do in namespace.
func (a *accessFacts) missing(namespace string, list []permission) ([]permission, error) {
	type answer struct {
		allowed bool
		err     error
	}
	answers := make([]answer, len(list))
	var group sync.WaitGroup
	for i, p := range list {
		group.Go(func() { answers[i].allowed, answers[i].err = a.ask(namespace, p) })
	}
	group.Wait()
	var missing []permission
	for i, answer := range answers {
		if answer.err != nil {
			return nil, answer.err
		}
		if !answer.allowed {
			missing = append(missing, list[i])
		}
	}
	return missing, nil
}

// verbs returns the check of what one verb of the plugin needs.
func verbs(verb string) func(context.Context, *facts) []finding {
	return func(_ context.Context, f *facts) []finding {
		var list []finding
		for _, namespace := range f.namespaces() {
			missing, err := f.access.missing(namespace, needs(verb))
			if err != nil {
				return []finding{failed(Error, err)}
			}
			if len(missing) > 0 {
				list = append(list, f.denied(verb, namespace, missing))
			}
		}
		return list
	}
}

func (f *facts) denied(verb, namespace string, missing []permission) finding {
	var words []string
	for _, p := range missing {
		words = append(words, p.String())
	}
	found := finding{result: Error, objects: []string{"namespace/" + namespace}, detail: "you may not: " + strings.Join(words, ", "),
		hint: "whoever may grant it runs this"}
	switch verb {
	case "secret":
		found.result, found.hint = Warning, "'enable --delivery=csr' needs none of it; or whoever may grant it runs this"
	case "watch":
		found.result, found.hint = Warning, "'watch' then heeds only the annotations of pods; or whoever may grant it runs this"
	}
	user, err := f.access.user()
	if err != nil {
		found.hint += ", with your name in the place of " + unknownUser
		user.Username = unknownUser
	}
	for role, verbs := range bundles() {
		if slices.Contains(verbs, verb) {
			found.command, err = grant(role, verbs, namespace, user.Username)
		}
	}
	if err != nil {
		found.hint = err.Error()
	}
	return found
}

// unknownUser stands in manifests for a user whom the server does not name.
const unknownUser = "YOUR-USER-NAME"
