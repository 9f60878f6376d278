package inject

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// keyBundle is the key of the trust bundle; the other two are those of the type
// kubernetes.io/tls.
const keyBundle = "ca.crt"

// secretName returns a new name that tells which pod it is about.
func secretName(pod string) string {
	const prefix, suffix = installed.ContainerName + "-", 10
	pod = pod[:min(len(pod), validation.DNS1123SubdomainMaxLength-len(prefix)-suffix-1)]
	return prefix + strings.TrimRight(pod, "-.") + "-" + rand.String(suffix)
}

// newSecret describes the Secret that brings cert, key and bundle to the
// container of pod. It goes with the pod at the latest, because the pod owns it.
func (in *Injector) newSecret(pod *corev1.Pod, name, container string, cert, key []byte) *corev1.Secret {
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Namespace:   pod.Namespace,
			Labels:      map[string]string{installed.LabelManagedBy: installed.ManagedBy, installed.LabelPodUID: string(pod.UID)},
			Annotations: map[string]string{installed.AnnotationContainer: container},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
			}},
		},
		Type:      corev1.SecretTypeTLS,
		Immutable: new(true),
		Data: map[string][]byte{
			corev1.TLSCertKey:       cert,
			corev1.TLSPrivateKeyKey: key,
			keyBundle:               in.Authority.Bundle(),
		},
	}
	if in.Options.KeepSecret {
		secret.Annotations[installed.AnnotationKeep] = "true"
	}
	return secret
}

// createAttempts is how often the creation of a Secret is tried whose outcome is
// not known.
const createAttempts = 3

// createSecret creates secret. After an error nothing of it is left.
func (in *Injector) createSecret(ctx context.Context, secret *corev1.Secret) (*corev1.Secret, error) {
	var err error
	for range createAttempts {
		var created *corev1.Secret
		if created, err = in.Client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{}); err == nil {
			return created, nil
		}
		if !mayHaveCreated(err) {
			break
		}
		if left := installed.DeleteSecret(ctx, in.Client, secret.Namespace, secret.Name); left != nil {
			err = fmt.Errorf("%w (and %w)", err, left)
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	err = fmt.Errorf("creating Secret %s: %w", secret.Name, err)
	if apierrors.IsForbidden(err) {
		err = api.WithHint(err, "look for a ResourceQuota or an admission policy of the namespace that refuses Secrets")
	}
	return nil, err
}

// mayHaveCreated reports whether the server may have created an object although
// it answered with err: it did not answer, or it failed.
func mayHaveCreated(err error) bool {
	return slices.Contains([]metav1.StatusReason{
		metav1.StatusReasonUnknown, metav1.StatusReasonInternalError, metav1.StatusReasonTimeout,
		metav1.StatusReasonServerTimeout, metav1.StatusReasonServiceUnavailable,
		// Its name is random: one that exists is ours, of a try that client-go repeated.
		metav1.StatusReasonAlreadyExists,
	}, apierrors.ReasonForError(err))
}

// trySecret has the server try the creation of a Secret. The server wants a
// certificate with its key there: it gets those of an authority that nobody
// trusts, because admission webhooks and audit logs see them.
func (in *Injector) trySecret(ctx context.Context, pod *corev1.Pod, name, container string) error {
	nobody, err := ca.New(ca.Options{TrustDomain: in.Authority.TrustDomain()})
	if err != nil {
		return fmt.Errorf("making a certificate for the dry run: %w", err)
	}
	leaf, err := nobody.Issue(ca.LeafRequest{
		Identity: installed.Identity(pod, nobody.TrustDomain()), IPs: installed.PodIPs(pod), Pod: installed.RefOf(pod)})
	if err != nil {
		return err
	}
	_, err = in.Client.CoreV1().Secrets(pod.Namespace).Create(ctx, in.newSecret(pod, name, container, leaf.CertPEM, leaf.KeyPEM),
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return fmt.Errorf("creating Secret %s: %w", name, err)
	}
	return nil
}
