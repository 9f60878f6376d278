package installed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Labels and annotations of the Secrets of gateways.
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

// cleanupTimeout bounds deleting a Secret after everything else has ended.
const cleanupTimeout = 5 * time.Second

// DeleteSecret deletes a Secret within cleanupTimeout, even after ctx has ended.
// One that is gone already is fine.
func DeleteSecret(ctx context.Context, client kubernetes.Interface, namespace, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := client.CoreV1().Secrets(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return api.WithHint(fmt.Errorf("deleting Secret %s: %w", name, err),
		fmt.Sprintf("it holds a private key: 'kubectl delete secret %s -n %s'", name, namespace))
}

// RemoveStale deletes what plugins that were killed have left for pod.
func RemoveStale(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	list, err := listSecrets(ctx, client, pod)
	if apierrors.IsForbidden(err) {
		// They go with the pod at the latest.
		return nil
	}
	if err != nil {
		return err
	}
	_, err = deleteAll(ctx, client, slices.DeleteFunc(list, func(secret corev1.Secret) bool { return !stale(&secret, pod) }))
	return err
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
	return deleteAll(ctx, client, list)
}

// deleteAll deletes secrets, and returns how many it deleted.
func deleteAll(ctx context.Context, client kubernetes.Interface, secrets []corev1.Secret) (int, error) {
	for i := range secrets {
		if err := DeleteSecret(ctx, client, secrets[i].Namespace, secrets[i].Name); err != nil {
			return i, err
		}
	}
	return len(secrets), nil
}

func listSecrets(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) ([]corev1.Secret, error) {
	list, err := client.CoreV1().Secrets(pod.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: LabelManagedBy + "=" + ManagedBy + "," + LabelPodUID + "=" + string(pod.UID)})
	if err != nil {
		return nil, fmt.Errorf("looking for Secrets that were left behind: %w", err)
	}
	return list.Items, nil
}

// stale reports whether secret is not needed any longer. A plugin creates the
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
			chance, err := failure(pod, gateway)
			return gateway.Phase != Waiting || err != nil && chance == hopeless || !readsSecret(pod, name, secret.Name)
		}
	}
	return false
}

func readsSecret(pod *corev1.Pod, container, secret string) bool {
	c, err := containerOf(pod, container)
	return err == nil && slices.ContainsFunc(c.Env, func(env corev1.EnvVar) bool {
		return env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && env.ValueFrom.SecretKeyRef.Name == secret
	})
}
