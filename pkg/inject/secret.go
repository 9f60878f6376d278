package inject

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
	"github.com/kubectl-gateway/kubectl-gateway/pkg/ca"
)

// What the Secrets of gateways are found by.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	ManagedBy      = "kubectl-gateway"
	// LabelPodUID holds the UID of the pod that the Secret is for.
	LabelPodUID = "kubectl-gateway.github.io/pod-uid"
	// AnnotationContainer holds the name of the gateway that reads the Secret.
	AnnotationContainer = "kubectl-gateway.github.io/container"
	// AnnotationKeep marks a Secret that was made with --keep-secret.
	AnnotationKeep = "kubectl-gateway.github.io/keep"
)

// keyBundle is the key of the trust bundle; the other two are those of the type
// kubernetes.io/tls.
const keyBundle = "ca.crt"

// Authority issues the certificates of gateways.
type Authority interface {
	TrustDomain() string
	// Bundle returns the certificates that gateways trust, as PEM.
	Bundle() []byte
	Issue(ca.LeafRequest) (*ca.Leaf, error)
	// Sign is Issue for a key that the gateway made, as its PKCS #10 request in
	// PEM form shows.
	Sign(csr []byte, request ca.LeafRequest) (*ca.Leaf, error)
}

// identityOf returns who pod is: its service account in its namespace.
func identityOf(pod *corev1.Pod, trustDomain string) identity.ID {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	return identity.ID{TrustDomain: trustDomain, Namespace: pod.Namespace, ServiceAccount: account}
}

func (in *Injector) mint(pod *corev1.Pod, ips []netip.Addr) (*ca.Leaf, error) {
	return in.Authority.Issue(ca.LeafRequest{
		Identity: identityOf(pod, in.Authority.TrustDomain()), IPs: ips, TTL: in.Options.TTL,
	})
}

// secretName returns a new name that tells which pod it is about.
func secretName(pod string) string {
	const prefix, suffix = ContainerName + "-", 10
	pod = pod[:min(len(pod), validation.DNS1123SubdomainMaxLength-len(prefix)-suffix-1)]
	return prefix + strings.TrimRight(pod, "-.") + "-" + rand.String(suffix)
}

// newSecret describes the Secret that brings cert, key and bundle to the
// container of pod. It goes with the pod at the latest, because the pod owns it.
func (in *Injector) newSecret(pod *corev1.Pod, name, container string, cert, key []byte) *corev1.Secret {
	immutable := true
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Namespace:   pod.Namespace,
			Labels:      map[string]string{LabelManagedBy: ManagedBy, LabelPodUID: string(pod.UID)},
			Annotations: map[string]string{AnnotationContainer: container},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID,
			}},
		},
		Type:      corev1.SecretTypeTLS,
		Immutable: &immutable,
		Data: map[string][]byte{
			corev1.TLSCertKey:       cert,
			corev1.TLSPrivateKeyKey: key,
			keyBundle:               in.Authority.Bundle(),
		},
	}
	if in.Options.KeepSecret {
		secret.Annotations[AnnotationKeep] = "true"
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
		if left := deleteSecret(ctx, in.Client, secret.Namespace, secret.Name); left != nil {
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
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonUnknown, metav1.StatusReasonInternalError, metav1.StatusReasonTimeout,
		metav1.StatusReasonServerTimeout, metav1.StatusReasonServiceUnavailable, metav1.StatusReasonAlreadyExists:
		// Its name is random: one that exists is ours, of a try that client-go
		// repeated.
		return true
	}
	return false
}

// trySecret has the server try the creation of a Secret. The server wants a
// certificate with its key there: it gets those of an authority that nobody
// trusts, because admission webhooks and audit logs see them.
func (in *Injector) trySecret(ctx context.Context, pod *corev1.Pod, name, container string) error {
	nobody, err := ca.New(ca.Options{TrustDomain: in.Authority.TrustDomain()})
	if err != nil {
		return fmt.Errorf("making a certificate for the dry run: %w", err)
	}
	leaf, err := nobody.Issue(ca.LeafRequest{Identity: identityOf(pod, nobody.TrustDomain()), IPs: PodIPs(pod)})
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

// deleteSecret deletes a Secret even after ctx has ended, in a time of its own.
// One that is gone already is fine.
func deleteSecret(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return api.WithHint(fmt.Errorf("deleting Secret %s: %w", name, err),
		fmt.Sprintf("it holds a private key: 'kubectl delete secret %s -n %s'", name, namespace))
}

// removeStale deletes what plugins that were killed have left for pod.
func removeStale(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	list, err := listSecrets(ctx, client, pod)
	if apierrors.IsForbidden(err) {
		// Listing is no part of the job: they go with the pod.
		return nil
	}
	if err != nil {
		return err
	}
	for i := range list {
		if stale(&list[i], pod) {
			if err := deleteSecret(ctx, client, list[i].Namespace, list[i].Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// ErrSecretsUnseen says that the user may not look for Secrets.
var ErrSecretsUnseen = errors.New("not allowed to look for Secrets")

// DeleteSecrets deletes all Secrets of the gateways of pod, and returns how many
// those were.
func DeleteSecrets(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (int, error) {
	list, err := listSecrets(ctx, client, pod)
	if apierrors.IsForbidden(err) {
		return 0, fmt.Errorf("%w: %w", ErrSecretsUnseen, err)
	}
	if err != nil {
		return 0, err
	}
	for i := range list {
		if err := deleteSecret(ctx, client, list[i].Namespace, list[i].Name); err != nil {
			return i, err
		}
	}
	return len(list), nil
}

func listSecrets(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) ([]corev1.Secret, error) {
	list, err := client.CoreV1().Secrets(pod.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: LabelManagedBy + "=" + ManagedBy + "," + LabelPodUID + "=" + string(pod.UID)})
	if err != nil {
		return nil, fmt.Errorf("looking for Secrets that were left behind: %w", err)
	}
	return list.Items, nil
}

// stale reports whether nobody can need secret any more. A plugin creates the
// Secret before the container: while that is missing, the plugin may be at it.
// Once it is there, the Secret is needed only until the kubelet has read it,
// and one that the container does not name came too late for the name.
func stale(secret *corev1.Secret, pod *corev1.Pod) bool {
	if secret.Annotations[AnnotationKeep] != "" {
		return false
	}
	name := secret.Annotations[AnnotationContainer]
	for _, gateway := range Gateways(pod) {
		if gateway.Name == name {
			final, _ := failure(pod, gateway)
			return gateway.Phase != Waiting || final != nil || !readsSecret(pod, name, secret.Name)
		}
	}
	return false
}

func readsSecret(pod *corev1.Pod, container, secret string) bool {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name != container {
			continue
		}
		for _, env := range pod.Spec.EphemeralContainers[i].Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && env.ValueFrom.SecretKeyRef.Name == secret {
				return true
			}
		}
	}
	return false
}
