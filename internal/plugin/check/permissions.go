package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// bundles are the proposed roles, by name. Each role holds all rights of its uses, so that
// applying it again removes nothing.
func bundles() map[string][]rights.Use {
	return map[string][]rights.Use{
		"kubectl-gateway":         {rights.Enable, rights.Status, rights.Tail, rights.Disable, rights.Rotate},
		"kubectl-gateway-secrets": {rights.Secrets},
		"kubectl-gateway-watch":   {rights.Watch},
	}
}

// accessFacts are the server's answers about what the user may do.
type accessFacts struct {
	ask func(namespace string, r rights.Right) (bool, error)
	// user is the user as the server authenticates it.
	user func() (authenticationv1.UserInfo, error)
}

func (a *accessFacts) init(ctx context.Context, c *Checker) {
	type key struct {
		namespace string
		rights.Right
	}
	var mu sync.Mutex
	answers := map[key]func() (bool, error){}
	a.ask = func(namespace string, r rights.Right) (bool, error) {
		if r.Scope != rights.Namespace {
			// One question serves all namespaces.
			namespace = ""
		}
		k := key{namespace, r}
		mu.Lock()
		if answers[k] == nil {
			answers[k] = once(ctx, c, func(ctx context.Context) (bool, error) {
				allowed, err := rights.Ask(ctx, c.Client, namespace, r)
				if err != nil {
					return false, fmt.Errorf("asking whether you may %s: %w", r, err)
				}
				return allowed, nil
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

// missing returns the rights of list that the user lacks in namespace.
func (a *accessFacts) missing(namespace string, list []rights.Right) ([]rights.Right, error) {
	return rights.Missing(list, func(r rights.Right) (bool, error) { return a.ask(namespace, r) })
}

// may returns the check of the rights that use needs.
func may(use rights.Use) func(context.Context, *facts) []finding {
	return func(_ context.Context, f *facts) []finding {
		var list []finding
		for _, namespace := range f.namespaces() {
			missing, err := f.access.missing(namespace, rights.Of(use))
			if err != nil {
				return []finding{failed(Error, err)}
			}
			if len(missing) > 0 {
				list = append(list, f.denied(use, namespace, missing))
			}
		}
		return list
	}
}

func (f *facts) denied(use rights.Use, namespace string, missing []rights.Right) finding {
	var words []string
	for _, p := range missing {
		words = append(words, p.String())
	}
	found := finding{result: Error, objects: []string{"namespace/" + namespace}, detail: "you may not: " + strings.Join(words, ", "),
		hint: "whoever may grant it runs this"}
	switch use {
	case rights.Secrets:
		found.result, found.hint = Warning, "'enable --delivery=csr' needs none of it; or whoever may grant it runs this"
	case rights.Watch:
		found.result, found.hint = Warning, "'watch' then heeds only the annotations of pods; or whoever may grant it runs this"
	}
	user, err := f.access.user()
	if err != nil {
		found.hint += ", with your name in the place of " + unknownUser
		user.Username = unknownUser
	}
	for role, uses := range bundles() {
		if slices.Contains(uses, use) {
			found.command, err = grant(role, uses, namespace, user.Username)
		}
	}
	if err != nil {
		found.hint = err.Error()
	}
	return found
}

// unknownUser is a placeholder in manifests for a user that the server does not name.
const unknownUser = "YOUR-USER-NAME"
