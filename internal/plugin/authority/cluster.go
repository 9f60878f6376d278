package authority

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Names of what the cluster keeps.
const (
	// Namespace holds all of it.
	Namespace = metav1.NamespaceSystem
	// BundleName is the ConfigMap with the trust bundle.
	BundleName = "kube-gateway-trust"
	// BundleKey is the key of the ConfigMap that holds certificates in PEM form.
	BundleKey = "ca.crt"
	// RevokedKey is the key of the ConfigMap that holds what the authorities have revoked, as package ca
	// encodes it.
	RevokedKey = "revoked.json"
	// SecretName is the Secret with the authority (--store=cluster), and the other two
	// are those of its successor or predecessor during a rotation.
	SecretName         = "kube-gateway-authority"
	NextSecretName     = SecretName + "-next"
	PreviousSecretName = SecretName + "-previous"
	// TrustDomainAnnotation is on all objects.
	TrustDomainAnnotation = "kubectl-gateway.github.io/trust-domain"
	// signerAnnotation is on the trust bundle where a signer issues the certificates, and
	// signerKey is the key of that ConfigMap that holds the signer's roots if the user gave them.
	signerAnnotation = "kubectl-gateway.github.io/signer"
	signerKey        = "signer.crt"
	// rotationAnnotation is on the trust bundle during a rotation.
	rotationAnnotation = "kubectl-gateway.github.io/rotation"

	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "kubectl-gateway"
)

// clusterUID returns the uid of the namespace kube-system. It differs between
// clusters, and never changes during a cluster's life.
func clusterUID(ctx context.Context, client kubernetes.Interface) (string, error) {
	ns, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", clusterError("finding out which cluster this is", "get", "namespace "+metav1.NamespaceSystem, err)
	}
	if ns.UID == "" {
		return "", errors.New("finding out which cluster this is: the namespace kube-system has no uid")
	}
	return string(ns.UID), nil
}

func objectMeta(name string, a *ca.Authority) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: Namespace, Name: name}
	setMeta(&m, a.TrustDomain())
	return m
}

func setMeta(m *metav1.ObjectMeta, trustDomain string) {
	metav1.SetMetaDataLabel(m, managedByLabel, managedBy)
	metav1.SetMetaDataAnnotation(m, TrustDomainAnnotation, trustDomain)
}

// clusterError says what was being done with an object such as "secret NAME", and
// which permission is missing. A nil err stays nil.
func clusterError(doing, verb, object string, err error) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return api.WithHint(fmt.Errorf("%s: %s: %w", doing, object, ErrChanged), "run the command again")
	case !apierrors.IsForbidden(err):
		return fmt.Errorf("%s: %w", doing, err)
	}
	kind, name, _ := strings.Cut(object, " ")
	where, flag := " in namespace "+Namespace, " -n "+Namespace
	if kind == "namespace" {
		where, flag = "", ""
	}
	return api.WithHint(fmt.Errorf("%s: %w", doing, err), fmt.Sprintf("ask for a role that may %s %s%s; 'kubectl auth can-i %s %ss/%s%s' tells whether you may",
		verb, object, where, verb, kind, name, flag))
}
