package installed

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

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
func LogTotal(pod *corev1.Pod) int64 {
	limit := StorageLimit(pod)
	if limit == 0 {
		return 0
	}
	left := limit / logShare
	for _, gateway := range Gateways(pod) {
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
