package rights

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
)

// Ask asks the server whether the user has the right r, in namespace if that is where r
// is needed.
func Ask(ctx context.Context, client kubernetes.Interface, namespace string, r Right) (bool, error) {
	switch r.Scope {
	case System:
		namespace = authority.Namespace
	case AllNamespaces, Cluster:
		namespace = ""
	}
	review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: namespace, Verb: r.Verb, Group: r.Group, Resource: r.Resource, Subresource: r.Subresource, Name: r.Name,
		}}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// Missing returns those of list that ask, which may be called at the same time, denies.
func Missing(list []Right, ask func(Right) (bool, error)) ([]Right, error) {
	denied := make([]bool, len(list))
	var group errgroup.Group
	for i, r := range list {
		group.Go(func() error {
			allowed, err := ask(r)
			denied[i] = !allowed
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var missing []Right
	for i, r := range list {
		if denied[i] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// lacking returns those of list that the user does not have in namespace.
func lacking(ctx context.Context, client kubernetes.Interface, namespace string, list []Right) ([]Right, error) {
	return Missing(list, func(r Right) (bool, error) {
		allowed, err := Ask(ctx, client, namespace, r)
		if err != nil {
			err = fmt.Errorf("asking whether you may %s in namespace %q: %w", r, namespace, err)
		}
		return allowed, err
	})
}

// SigningHint says who gets the rights of [Signing].
const SigningHint = "ask for a role that allows it, like kubectl-gateway-sign of docs/OPERATIONS.md; examples/watch-sign.yaml has one for watch in the cluster"

// PreflightSigning is Preflight for [Signing].
func PreflightSigning(ctx context.Context, client kubernetes.Interface, namespace, signer, bundle string) error {
	missing, err := lacking(ctx, client, namespace, Signing(namespace, signer, bundle))
	if err != nil || len(missing) == 0 {
		return err
	}
	return api.WithHint(fmt.Errorf("as signer %s you may not: %s", signer, strings.Join(lists.Texts(missing), ", ")),
		SigningHint)
}

// Preflight asks the server whether the user may do in namespace what uses cannot do
// without, and names everything that is missing.
func Preflight(ctx context.Context, client kubernetes.Interface, namespace string, uses ...Use) error {
	missing, err := lacking(ctx, client, namespace, Must(uses...))
	if err != nil || len(missing) == 0 {
		return err
	}
	hint := "ask for a role that allows it"
	switch {
	case !slices.ContainsFunc(missing, func(r Right) bool { return !slices.Contains(Of(Secrets), r) }):
		hint = "--delivery=csr needs no Secrets, or " + hint
	case slices.ContainsFunc(missing, func(r Right) bool { return r.Subresource == "ephemeralcontainers" }):
		hint += "; the built-in roles edit and admin lack pods/ephemeralcontainers"
	}
	return api.WithHint(fmt.Errorf("you may not do this in namespace %q: %s", namespace, strings.Join(lists.Texts(missing), ", ")), hint)
}
