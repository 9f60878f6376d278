package installed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/identity"
)

// ErrReplaced says that the pod is gone, or was replaced by one of the same name.
var ErrReplaced = api.WithHint(errors.New("the pod has ended or was replaced meanwhile"), "name the pod that replaces it")

// Reread returns the current state of pod, and ErrReplaced if it is gone.
func Reread(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	now, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, ErrReplaced
	case err != nil:
		return nil, fmt.Errorf("reading the pod: %w", err)
	case now.UID != pod.UID:
		return nil, ErrReplaced
	}
	return now, nil
}

// OtherAddresses reports whether pod has other addresses than a gateway with config
// was made for. A pod that has none, between two sandboxes, has no others.
func OtherAddresses(pod *corev1.Pod, config *api.Config) bool {
	has := PodIPs(pod)
	return len(has) > 0 && (len(has) != len(config.PodIPs) ||
		slices.ContainsFunc(has, func(ip netip.Addr) bool { return !slices.Contains(config.PodIPs, ip) }))
}

// Leaving reports whether pod has finished or is being deleted: there is
// nothing left in it to protect.
func Leaving(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Runs reports whether a gateway runs in pod.
func Runs(pod *corev1.Pod) bool {
	gateway, ok := Current(pod)
	return ok && gateway.Phase == Running
}

// WorkloadOf returns the UID of what pod belongs to: its controller, or pod itself without one.
func WorkloadOf(pod *corev1.Pod) types.UID {
	if owner := metav1.GetControllerOf(pod); owner != nil {
		return owner.UID
	}
	return pod.UID
}

// PodIPs returns all addresses of pod, as its status has them.
func PodIPs(pod *corev1.Pod) []netip.Addr {
	var ips []netip.Addr
	add := func(text string) {
		if ip, err := netip.ParseAddr(text); err == nil && !slices.Contains(ips, ip.Unmap()) {
			ips = append(ips, ip.Unmap())
		}
	}
	add(pod.Status.PodIP)
	for _, ip := range pod.Status.PodIPs {
		add(ip.IP)
	}
	return ips
}

// Identity returns whom a certificate for pod is to name: its service account in its namespace.
func Identity(pod *corev1.Pod, trustDomain string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: pod.Namespace, ServiceAccount: cmp.Or(pod.Spec.ServiceAccountName, "default")}
}
