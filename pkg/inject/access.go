package inject

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
)

// permission is one thing that is done in a pod's namespace.
type permission struct{ verb, resource, subresource string }

func (p permission) String() string {
	if p.subresource == "" {
		return p.verb + " " + p.resource
	}
	return p.verb + " " + p.resource + "/" + p.subresource
}

func permissions(delivery Delivery) []permission {
	list := append(disablePermissions(), permission{"patch", "pods", "ephemeralcontainers"})
	if delivery == DeliveryCSR {
		return list
	}
	return append(list, permission{"create", "secrets", ""}, permission{"delete", "secrets", ""})
}

func disablePermissions() []permission {
	return []permission{
		{"get", "pods", ""},
		{"list", "pods", ""},
		{"watch", "pods", ""},
		{"create", "pods", "exec"},
	}
}

// CheckAccess asks the server whether the user may do in namespace all that
// enable does with a delivery, and names everything that is missing.
func CheckAccess(ctx context.Context, client kubernetes.Interface, namespace string, delivery Delivery) error {
	return checkAccess(ctx, client, namespace, permissions(delivery),
		"ask for a role that allows it; the built-in roles edit and admin lack pods/ephemeralcontainers")
}

// CheckDisableAccess does the same for what ends a gateway.
func CheckDisableAccess(ctx context.Context, client kubernetes.Interface, namespace string) error {
	return checkAccess(ctx, client, namespace, disablePermissions(), "ask for a role that allows it")
}

func checkAccess(ctx context.Context, client kubernetes.Interface, namespace string, wanted []permission, hint string) error {
	denied := make([]bool, len(wanted))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, p := range wanted {
		group.Go(func() error {
			review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(groupCtx,
				&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{
						Namespace: namespace, Verb: p.verb, Resource: p.resource, Subresource: p.subresource,
					}}}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("asking whether you may %s in namespace %q: %w", p, namespace, err)
			}
			denied[i] = !review.Status.Allowed
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var missing []string
	for i, p := range wanted {
		if denied[i] {
			missing = append(missing, p.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !slices.ContainsFunc(missing, func(what string) bool { return !strings.HasSuffix(what, " secrets") }) {
		hint = "--delivery=csr needs no Secrets, or ask for a role that allows it"
	}
	return api.WithHint(fmt.Errorf("you may not do this in namespace %q: %s", namespace, strings.Join(missing, ", ")), hint)
}
