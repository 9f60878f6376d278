package signing

import (
	"context"
	"errors"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/signer"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// certificateKeyType is the reason that the API has for keys of another kind.
const certificateKeyType = certificatesv1.PodCertificateRequestConditionUnsupportedKeyType

// leastPodLife and standardPodLife are the shortest life of what answers a PodCertificateRequest, and the longest one
// unless the request says otherwise. The API server sees to both.
const (
	leastPodLife    = time.Hour
	standardPodLife = 24 * time.Hour
)

// answerPod answers a PodCertificateRequest. The error is a [Refusal] if that was the answer.
func (s *Server) answerPod(ctx context.Context, r *certificatesv1.PodCertificateRequest) (ca.LeafRequest, *ca.Leaf, error) {
	about, leaf, err := s.forPod(ctx, r)
	if err == nil {
		err = s.tell(ctx, r, issued(r, about, leaf))
	}
	if apierrors.IsInvalid(err) {
		// The server's clock may differ from the one here.
		err = &Refusal{Reason: reasonNotTaken, Message: clean("the API server does not take the certificate: %v", err), Failed: true}
	}
	var refusal *Refusal
	if errors.As(err, &refusal) {
		kind := certificatesv1.PodCertificateRequestConditionTypeDenied
		if refusal.Failed {
			kind = certificatesv1.PodCertificateRequestConditionTypeFailed
		}
		if err := s.tell(ctx, r, conditional(kind, refusal.Reason, refusal.Message)); err != nil {
			return about, nil, err
		}
	}
	return about, leaf, err
}

// issued returns the status of r with a certificate.
func issued(r *certificatesv1.PodCertificateRequest, about ca.LeafRequest, leaf *ca.Leaf) certificatesv1.PodCertificateRequestStatus {
	status := conditional(certificatesv1.PodCertificateRequestConditionTypeIssued, "Issued", "for "+about.Identity.String())
	status.CertificateChain = string(leaf.CertPEM)
	status.NotBefore, status.NotAfter = &metav1.Time{Time: leaf.NotBefore}, &metav1.Time{Time: leaf.NotAfter}
	// Those of many pods that came together are renewed one after the other.
	refresh, _ := watch.RenewAt(api.Certificate{Serial: leaf.Serial, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}, string(r.Spec.PodUID))
	status.BeginRefreshAt = &metav1.Time{Time: refresh}
	return status
}

func conditional(kind, reason, message string) certificatesv1.PodCertificateRequestStatus {
	return certificatesv1.PodCertificateRequestStatus{Conditions: []metav1.Condition{{
		Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
	}}}
}

// tell gives r a status.
func (s *Server) tell(ctx context.Context, r *certificatesv1.PodCertificateRequest, status certificatesv1.PodCertificateRequestStatus) error {
	r = r.DeepCopy()
	r.Status = status
	_, err := s.Client.CertificatesV1().PodCertificateRequests(r.Namespace).UpdateStatus(ctx, r, metav1.UpdateOptions{FieldManager: managedBy})
	return written(err)
}

// forPod makes what answers a PodCertificateRequest.
func (s *Server) forPod(ctx context.Context, r *certificatesv1.PodCertificateRequest) (ca.LeafRequest, *ca.Leaf, error) {
	about, err := s.aboutPod(ctx, signer.Holder{PodRef: api.PodRef{
		Namespace: r.Namespace, Name: r.Spec.PodName, UID: string(r.Spec.PodUID), ServiceAccount: r.Spec.ServiceAccountName, Node: string(r.Spec.NodeName),
	}, AccountUID: r.Spec.ServiceAccountUID, NodeUID: r.Spec.NodeUID})
	if err != nil {
		return about, nil, err
	}
	for key := range r.Spec.UnverifiedUserAnnotations {
		return about, nil, refuse(certificatesv1.PodCertificateRequestConditionInvalidUserConfig, "annotation %q is unknown: there is none that this signer knows", key)
	}
	longest := standardPodLife
	if r.Spec.MaxExpirationSeconds != nil {
		longest = time.Duration(*r.Spec.MaxExpirationSeconds) * time.Second
	}
	if longest < leastPodLife {
		return about, nil, refuse(reasonLifetime, "maxExpirationSeconds has to be %d at least", leastPodLife/time.Second)
	}
	// What is before the issue counts.
	ttl := min(max(s.TTL, leastPodLife), longest-ca.Backdate)
	leaf, err := s.sign(ctx, ca.EncodeRequest(r.Spec.StubPKCS10Request), about, ttl, leastPodLife)
	return about, leaf, err
}

// openPod reports whether r is to be answered.
func (s *Server) openPod(r *certificatesv1.PodCertificateRequest) bool {
	return r.Spec.SignerName == s.Name && (s.Namespace == "" || r.Namespace == s.Namespace) && r.Status.CertificateChain == "" && len(r.Status.Conditions) == 0
}
