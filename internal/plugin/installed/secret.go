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
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
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

// leftoversAge is how long a list of Secrets is used: those that are left behind meanwhile go
// with their pod at the latest.
const leftoversAge = 10 * time.Second

// Leftovers are Secrets that plugins have left that were killed. It is safe for concurrent use,
// and lists those of a namespace once for many pods.
type Leftovers struct {
	client kubernetes.Interface
	// lists are those of namespaces.
	lists func(namespace string) *parallel.Recent[secretList]
}

// secretList has the Secrets of gateways in a namespace, by the UID of their pod, or why the server
// does not list them.
type secretList struct {
	of  map[string][]corev1.Secret
	err error
}

// NewLeftovers returns those of a cluster.
func NewLeftovers(client kubernetes.Interface) *Leftovers {
	return &Leftovers{client, parallel.Once(func(string) *parallel.Recent[secretList] { return new(parallel.Recent[secretList]) })}
}

// Remove deletes what is left for pod, but for the Secret called own, which the caller cares for.
// Without the right to list Secrets there is nothing to do: they go with the pod at the latest.
func (l *Leftovers) Remove(ctx context.Context, pod *corev1.Pod, own string) error {
	list, err := l.of(ctx, pod)
	if err != nil {
		if apierrors.IsForbidden(err) {
			return nil
		}
		return err
	}
	_, err = deleteAll(ctx, l.client, slices.DeleteFunc(slices.Clone(list), func(secret corev1.Secret) bool {
		return secret.Name == own || !stale(&secret, pod)
	}))
	return err
}

func (l *Leftovers) of(ctx context.Context, pod *corev1.Pod) ([]corev1.Secret, error) {
	list, _ := l.lists(pod.Namespace).Get(leftoversAge, func() (secretList, error) {
		secrets, err := listSecrets(ctx, l.client, pod.Namespace, "")
		list := secretList{map[string][]corev1.Secret{}, err}
		for _, secret := range secrets {
			// Nobody looks at what it holds.
			secret.Data = nil
			list.of[secret.Labels[LabelPodUID]] = append(list.of[secret.Labels[LabelPodUID]], secret)
		}
		return list, ctx.Err()
	})
	return list.of[string(pod.UID)], list.err
}

// ErrSecretsUnseen says that the user may not look for Secrets.
var ErrSecretsUnseen = errors.New("not allowed to look for Secrets")

// DeleteSecrets deletes all Secrets of the gateways of pod, and returns how many
// those were.
func DeleteSecrets(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (int, error) {
	list, err := listSecrets(ctx, client, pod.Namespace, string(pod.UID))
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

// listSecrets returns the Secrets of gateways in a namespace, those of the pod with a UID if
// that is not empty.
func listSecrets(ctx context.Context, client kubernetes.Interface, namespace, uid string) ([]corev1.Secret, error) {
	selector := LabelManagedBy + "=" + ManagedBy + "," + LabelPodUID
	if uid != "" {
		selector += "=" + uid
	}
	list, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
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
	gateway := find(pod, Gateway{Name: secret.Annotations[AnnotationContainer]})
	if gateway.Phase == "" {
		return false
	}
	chance, err := failure(pod, gateway)
	return gateway.Phase != Waiting || err != nil && chance == hopeless || secretOf(pod, gateway.Name) != secret.Name
}

// secretOf returns the name of the Secret that brings the gateway in a container its key, "" if there
// is none.
func secretOf(pod *corev1.Pod, container string) string {
	if c, err := containerOf(pod, container); err == nil {
		for _, env := range c.Env {
			if env.Name == api.EnvKey && env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				return env.ValueFrom.SecretKeyRef.Name
			}
		}
	}
	return ""
}
