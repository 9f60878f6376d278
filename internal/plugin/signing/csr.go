package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// usages are those of every certificate.
var usages = []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}

// answerCSR approves and answers a CertificateSigningRequest, or denies it. One that somebody else has approved
// gets no more than others. The error is a [Refusal] if that was the answer.
func (s *Server) answerCSR(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (ca.LeafRequest, *ca.Leaf, error) {
	about, leaf, err := s.forCSR(ctx, r)
	var refusal *Refusal
	if err != nil && !errors.As(err, &refusal) {
		return about, nil, err
	}
	r = r.DeepCopy()
	requests, approved := s.Client.CertificatesV1().CertificateSigningRequests(), has(r, certificatesv1.CertificateApproved)
	options := metav1.UpdateOptions{FieldManager: managedBy}
	var updateErr error
	if !approved && (refusal == nil || !refusal.Failed) {
		condition := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Reason: "Allowed", Message: "for " + about.Identity.String()}
		if refusal != nil {
			condition.Type, condition.Reason, condition.Message = certificatesv1.CertificateDenied, refusal.Reason, refusal.Message
		}
		if r, updateErr = requests.UpdateApproval(ctx, r.Name, with(r, condition), options); updateErr != nil {
			return about, nil, written(updateErr)
		}
	}
	switch {
	case refusal == nil:
		r.Status.Certificate = leaf.CertPEM
	case approved || refusal.Failed:
		r = with(r, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Reason: refusal.Reason, Message: refusal.Message})
	default:
		return about, nil, err
	}
	if _, updateErr = requests.UpdateStatus(ctx, r, options); updateErr != nil {
		return about, nil, written(updateErr)
	}
	return about, leaf, err
}

func with(r *certificatesv1.CertificateSigningRequest, c certificatesv1.CertificateSigningRequestCondition) *certificatesv1.CertificateSigningRequest {
	c.Status, c.LastUpdateTime = corev1.ConditionTrue, metav1.Now()
	r.Status.Conditions = append(r.Status.Conditions, c)
	return r
}

func has(r *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(r.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}

// forCSR makes what answers a CertificateSigningRequest.
func (s *Server) forCSR(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (ca.LeafRequest, *ca.Leaf, error) {
	about, err := s.aboutCSR(ctx, r)
	if err != nil {
		return about, nil, err
	}
	if asked := slices.Sorted(slices.Values(r.Spec.Usages)); !slices.Equal(slices.Compact(asked), usages) {
		return about, nil, refuse(reasonUsages, "the usages have to be %q", usages)
	}
	ttl := s.TTL
	if r.Spec.ExpirationSeconds != nil {
		ttl = min(ttl, time.Duration(*r.Spec.ExpirationSeconds)*time.Second)
	}
	leaf, err := s.sign(ctx, r.Spec.Request, about, ttl, 0)
	return about, leaf, err
}

// accountPrefix is that of the names of service accounts as users.
const accountPrefix = "system:serviceaccount:"

// aboutCSR returns what a certificate may say. A request that names a pod comes from who may add a gateway to it,
// and anything else from a service account that has a rule.
func (s *Server) aboutCSR(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (ca.LeafRequest, error) {
	if pod := signer.PodOf(r); pod.Name != "" {
		if err := s.mayAddGateway(ctx, r, pod.Namespace, pod.Name); err != nil {
			return ca.LeafRequest{}, err
		}
		return s.aboutPod(ctx, pod)
	}
	namespace, name, found := strings.Cut(strings.TrimPrefix(r.Spec.Username, accountPrefix), ":")
	if !found || !strings.HasPrefix(r.Spec.Username, accountPrefix) || !s.ruled(namespace, name) {
		return ca.LeafRequest{}, refuse(reasonAsker, "the request names no pod, and no rule gives a certificate to who has made it: who runs the signer may add --sign-for='ns/NAMESPACE/sa/ACCOUNT' for a service account")
	}
	account, err := s.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return ca.LeafRequest{}, fmt.Errorf("reading the service account: %w", err)
	case err != nil || string(account.UID) != r.Spec.UID:
		return ca.LeafRequest{}, refuse(reasonMismatch, "service account %s in namespace %s does not have the UID %s", name, namespace, r.Spec.UID)
	}
	authority, err := s.Authority(ctx)
	if err != nil {
		return ca.LeafRequest{}, fmt.Errorf("reading the authority: %w", err)
	}
	return ca.LeafRequest{Identity: identity.ID{TrustDomain: authority.TrustDomain(), Namespace: namespace, ServiceAccount: name}}, nil
}

// mayAddGateway refuses a request about a pod of who may not add a container to that. Who may can do there whatever the
// pod can, with its identity and its addresses.
func (s *Server) mayAddGateway(ctx context.Context, r *certificatesv1.CertificateSigningRequest, namespace, pod string) error {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range r.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review, err := s.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: "patch", Resource: "pods", Subresource: "ephemeralcontainers", Name: pod},
	}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("asking what %.100q may do: %w", r.Spec.Username, err)
	}
	if !review.Status.Allowed {
		return refuse(reasonAsker, "who has made the request may not patch pods/ephemeralcontainers of pod %s in namespace %s", pod, namespace)
	}
	return nil
}

// openCSR reports whether r is to be answered. Those about pods of other namespaces are for others to answer.
func (s *Server) openCSR(r *certificatesv1.CertificateSigningRequest) bool {
	if r.Spec.SignerName != s.Name || len(r.Status.Certificate) > 0 || has(r, certificatesv1.CertificateDenied) || has(r, certificatesv1.CertificateFailed) {
		return false
	}
	namespace := signer.PodOf(r).Namespace
	if namespace == "" {
		namespace, _, _ = strings.Cut(strings.TrimPrefix(r.Spec.Username, accountPrefix), ":")
	}
	return s.Namespace == "" || namespace == s.Namespace
}
