package installed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	helpers "k8s.io/component-helpers/resource"

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

// ErrOtherAddresses says that a gateway was made for other addresses than its pod has: the kubelet
// started it again in a new sandbox.
var ErrOtherAddresses = errors.New("a gateway runs that was made for addresses which the pod has no more")

// CheckAddresses reports ErrOtherAddresses about the gateway in the container called name.
func CheckAddresses(pod *corev1.Pod, name string) error {
	config, err := ConfigOf(pod, name)
	if err != nil || !OtherAddresses(pod, config) {
		return nil // what it was made for may not be known
	}
	return api.WithHint(fmt.Errorf("%w: container %s", ErrOtherAddresses, name),
		fmt.Sprintf("'kubectl gateway disable pod/%s -n %s', then enable it again", pod.Name, pod.Namespace))
}

// Finished reports whether all containers of pod have ended for good: it stays listed, and another
// pod may have its addresses.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// HasOwnAddresses reports whether the gateway in the container called name has addresses in its configuration that were
// looked at when it was made. An ephemeral container is added by who may do anything in the pod; what comes with a pod is
// anybody's who may create one, or is made for whatever the kubelet says.
func HasOwnAddresses(pod *corev1.Pod, name string) bool {
	config, err := ConfigOf(pod, name)
	return err == nil && !config.Sidecar &&
		slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

// ErrStatic says that no certificate is made for a pod because it is [Static].
var ErrStatic = errors.New("the pod is a static pod of its node, and has no service account")

// Static reports whether pod shows a static pod of its node, whose kubelet has made it: in whatever namespace it likes, without
// a right to be there, and for no service account.
func Static(pod *corev1.Pod) bool {
	_, mirrors := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirrors
}

// Leaving reports whether pod has finished or is being deleted: there is
// nothing left in it to protect.
func Leaving(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || Finished(pod)
}

// Left reports whether pod is Leaving or gone by now: then that is why something failed in it, and it is no failure.
func Left(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) bool {
	now, err := Reread(ctx, client, pod)
	return errors.Is(err, ErrReplaced) || err == nil && Leaving(now)
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
	for _, status := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if ip, err := netip.ParseAddr(status.IP); err == nil && !slices.Contains(ips, ip.Unmap()) {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}

// TCPPorts yields the TCP ports that containers declare, each with the name of its container.
func TCPPorts(containers []corev1.Container) iter.Seq2[string, corev1.ContainerPort] {
	return func(yield func(string, corev1.ContainerPort) bool) {
		for _, c := range containers {
			for _, port := range c.Ports {
				if cmp.Or(port.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP && !yield(c.Name, port) {
					return
				}
			}
		}
	}
}

// Identity returns whom a certificate for pod is to name: its service account in its namespace.
func Identity(pod *corev1.Pod, trustDomain string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: pod.Namespace, ServiceAccount: cmp.Or(pod.Spec.ServiceAccountName, "default")}
}

// RefOf returns what the API server has of pod, as its gateway is told it.
func RefOf(pod *corev1.Pod) api.PodRef {
	return api.PodRef{
		Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID),
		ServiceAccount: Identity(pod, "").ServiceAccount, Node: pod.Spec.NodeName,
	}
}

const (
	// mostLog is what the log of one gateway takes at most by a kubelet's defaults.
	mostLog = api.KubeletLogs + api.DefaultLogLimit/api.LogBurst
	// leastLog is what a gateway logs in all, however little the pod may use.
	leastLog = 64 << 10
	// logShare is the part of a pod's ephemeral storage that the logs of all its gateways may use,
	// as a divisor.
	logShare = 2
)

// StorageLimit returns how many bytes of ephemeral storage a pod may use before the kubelet evicts
// it, 0 if there is no bound: the limits of its containers together, if one has any.
func StorageLimit(pod *corev1.Pod) int64 {
	limits := helpers.AggregateContainerLimits(pod, helpers.PodResourcesOptions{})
	return limits.StorageEphemeral().Value()
}

// LogTotal returns how many bytes the next gateway of pod may log in all, 0 if that needs no bound.
// The kubelet counts the logs of all containers, of those that have ended, too: whatever number of
// gateways a pod gets, it is not evicted for their logs.
func LogTotal(pod *corev1.Pod) int64 { return LogTotalOf(pod, "") }

// LogTotalOf is LogTotal for the gateway of pod called name.
func LogTotalOf(pod *corev1.Pod, name string) int64 {
	limit := StorageLimit(pod)
	if limit == 0 {
		return 0
	}
	left := limit / logShare
	for _, gateway := range Gateways(pod) {
		if gateway.Name == name {
			continue
		}
		used := int64(mostLog)
		if config, err := ConfigOf(pod, gateway.Name); err == nil && config.LogTotal > 0 {
			used = config.LogTotal
		}
		left -= used
	}
	if left >= mostLog {
		return 0
	}
	// Half of what is left leaves room for the next one.
	return max(left/2, leastLog)
}

// LogRemark says that a gateway of pod logs no more than total bytes in all.
func LogRemark(pod *corev1.Pod, total int64) string {
	return fmt.Sprintf("the pod is evicted for more than %s of ephemeral storage, and logs count: its gateway logs %s in all, and from then on only counts",
		Size(StorageLimit(pod)), Size(total))
}

// Size writes a number of bytes as Kubernetes does, like 32Mi.
func Size(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }
