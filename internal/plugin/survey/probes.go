package survey

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// probed returns the TCP ports of pod that its kubelet connects to, for probes and hooks.
func probed(pod *corev1.Pod) api.Ports {
	var ports []api.PortRange
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		add := func(port intstr.IntOrString) {
			number := port.IntVal
			for _, declared := range c.Ports {
				if port.Type == intstr.String && declared.Name == port.StrVal {
					number = declared.ContainerPort
				}
			}
			if number > 0 && number <= 65535 {
				ports = append(ports, api.PortRange{First: uint16(number), Last: uint16(number)})
			}
		}
		for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			switch {
			case probe == nil:
			case probe.HTTPGet != nil:
				add(probe.HTTPGet.Port)
			case probe.TCPSocket != nil:
				add(probe.TCPSocket.Port)
			case probe.GRPC != nil:
				add(intstr.FromInt32(probe.GRPC.Port))
			}
		}
		if c.Lifecycle == nil {
			continue
		}
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			switch {
			case hook == nil:
			case hook.HTTPGet != nil:
				add(hook.HTTPGet.Port)
			case hook.TCPSocket != nil:
				add(hook.TCPSocket.Port)
			}
		}
	}
	return api.NewPorts(ports...)
}
