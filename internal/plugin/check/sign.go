package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signing"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// signChecks are those of a watch that is to sign as f.Sign.
func signChecks() []check {
	return []check{
		{id: "sign-key", category: Sign, description: "the key that signs is at hand", run: given((*facts).present, checkSignKey)},
		{id: "sign-requests", category: Sign, description: "the server has what signers work with", run: checkSignRequests},
		{id: "sign-permissions", category: Sign, description: "you may sign", run: checkSignRights},
	}
}

func checkSignKey(_ context.Context, _ *facts, issuer ca.Issuer) []Item {
	if _, own := issuer.(*ca.Authority); own {
		return ok("%s", issuer)
	}
	return []Item{{Result: Error, Detail: fmt.Sprintf("certificates come from %v, whose key is not here", issuer),
		Hint: "run it where the authority is, or where 'init-ca --store=cluster' has brought it"}}
}

// checkSignRequests looks for the kinds of requests, of which one suffices, and for the place where roots are published.
func checkSignRequests(ctx context.Context, f *facts) []Item {
	served, err := discovery.ToServerResourcesInterfaceWithContext(f.Client.Discovery()).ServerResourcesForGroupVersionWithContext(ctx, certificatesv1.SchemeGroupVersion.String())
	if err != nil && !apierrors.IsNotFound(err) {
		return []Item{failed(Error, fmt.Errorf("asking what the server serves: %w", err))}
	}
	has := func(resource string) bool {
		return served != nil && slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == resource })
	}
	const version = "Kubernetes 1.37 has them"
	pods, csrs := has("podcertificaterequests"), has("certificatesigningrequests")
	var list []Item
	switch {
	case !pods && !csrs:
		return []Item{{Result: Error, Detail: "it has no requests in " + certificatesv1.SchemeGroupVersion.String(), Hint: version}}
	case !pods:
		list = append(list, Item{Result: Warning, Detail: "it has no PodCertificateRequests: CertificateSigningRequests alone are answered", Hint: version})
	}
	if !has("clustertrustbundles") {
		list = append(list, Item{Result: Warning, Detail: "it has no ClusterTrustBundles: the roots are not published",
			Hint: version + "; before, give the roots to those who ask in a file, as --trust-bundle of init-ca"})
	}
	return orOK(list, "3 of 3 kinds of objects")
}

func checkSignRights(_ context.Context, f *facts) []Item {
	needed := rights.Signing("", f.Sign, signing.BundleName(f.Sign))
	missing, err := f.missing("", needed)
	switch {
	case err != nil:
		return []Item{failed(Error, err)}
	case len(missing) > 0:
		return []Item{{Result: Error, Detail: fmt.Sprintf("of %d rights of signer %s you lack %d: %s", len(needed), f.Sign, len(missing), strings.Join(lists.Texts(missing), ", ")),
			Hint: rights.SigningHint}}
	}
	return ok("all %d rights of signer %s", len(needed), f.Sign)
}
