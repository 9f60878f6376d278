package signer

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1alpha1 "k8s.io/api/certificates/v1alpha1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// Trust returns the roots that c is trusted by at present, in an order that depends on them alone.
func (c *Choice) Trust(ctx context.Context, client kubernetes.Interface) ([]*x509.Certificate, error) {
	if c.TrustBundle != "" {
		return c.roots([]string{c.TrustBundle}, "the trust bundle")
	}
	texts, err := c.published(ctx, client)
	switch {
	case apierrors.IsNotFound(err):
		return nil, api.WithHint(fmt.Errorf("reading what signer %s is trusted by: the server has no ClusterTrustBundle objects", c.Name),
			"give the signer's roots with 'kubectl gateway init-ca --signer=… --trust-bundle=FILE'")
	case err != nil:
		return nil, fmt.Errorf("reading what signer %s is trusted by: %w", c.Name, err)
	}
	return c.roots(texts, "the ClusterTrustBundle objects")
}

// published returns the bundles of the signer's ClusterTrustBundle objects, in the newest version
// of the API that the server has.
func (c *Choice) published(ctx context.Context, client kubernetes.Interface) ([]string, error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.signerName", c.Name).String()}
	v1, err := client.CertificatesV1().ClusterTrustBundles().List(ctx, options)
	if err == nil {
		return bundles(c.Name, v1.Items, func(b *certificatesv1.ClusterTrustBundle) (string, string) {
			return b.Spec.SignerName, b.Spec.TrustBundle
		}), nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	v1beta1, err := client.CertificatesV1beta1().ClusterTrustBundles().List(ctx, options)
	if err == nil {
		return bundles(c.Name, v1beta1.Items, func(b *certificatesv1beta1.ClusterTrustBundle) (string, string) {
			return b.Spec.SignerName, b.Spec.TrustBundle
		}), nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	v1alpha1, err := client.CertificatesV1alpha1().ClusterTrustBundles().List(ctx, options)
	if err != nil {
		return nil, err
	}
	return bundles(c.Name, v1alpha1.Items, func(b *certificatesv1alpha1.ClusterTrustBundle) (string, string) {
		return b.Spec.SignerName, b.Spec.TrustBundle
	}), nil
}

// bundles returns what those of items hold that are the signer's. The server has selected them
// already: whose roots are trusted must not depend on that.
func bundles[T any](signer string, items []T, of func(*T) (signer, bundle string)) []string {
	var texts []string
	for i := range items {
		if name, text := of(&items[i]); name == signer {
			texts = append(texts, text)
		}
	}
	return texts
}

// usable returns roots without those that have ended, sorted and each once.
func usable(roots []*x509.Certificate) []*x509.Certificate {
	now := time.Now()
	roots = slices.DeleteFunc(slices.Clone(roots), func(root *x509.Certificate) bool { return now.After(root.NotAfter) })
	slices.SortFunc(roots, func(a, b *x509.Certificate) int { return cmp.Compare(ca.Fingerprint(a), ca.Fingerprint(b)) })
	return slices.CompactFunc(roots, (*x509.Certificate).Equal)
}

// resolve returns by which object the signer is asked on this server.
func (c *Choice) resolve(ctx context.Context, client kubernetes.Interface) (Request, error) {
	if c.Request == RequestPod || c.Request == RequestCSR {
		return c.Request, nil
	}
	has, err := HasPodRequests(ctx, client)
	switch {
	case err != nil:
		return "", fmt.Errorf("asking the server how a signer can be asked: %w", err)
	case has:
		return RequestPod, nil
	}
	return RequestCSR, nil
}

// HasPodRequests reports whether the server has PodCertificateRequests.
func HasPodRequests(ctx context.Context, client kubernetes.Interface) (bool, error) {
	served, err := discovery.ToServerResourcesInterfaceWithContext(client.Discovery()).ServerResourcesForGroupVersionWithContext(ctx, certificatesv1.SchemeGroupVersion.String())
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	return served != nil && slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == "podcertificaterequests" }), nil
}
