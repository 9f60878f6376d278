package inject

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// IdentityOf returns whom a certificate for pod is to name: its service account
// in its namespace.
func IdentityOf(pod *corev1.Pod, trustDomain string) identity.ID { return identityOf(pod, trustDomain) }
