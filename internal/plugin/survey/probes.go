package survey

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// probed returns the TCP ports of pod that its kubelet connects to, for probes and hooks.
func probed(pod *corev1.Pod) (ports api.Ports) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range probes(&c) {
			ports = append(ports, onePort(p.number(&c))...)
		}
	}
	return api.NewPorts(ports...)
}

// probe is a connection that a kubelet makes for a container.
type probe struct {
	what, host string
	port       intstr.IntOrString
}

// number returns the port in c that p goes to, 0 if there is none of its name.
func (p *probe) number(c *corev1.Container) int32 {
	if p.port.Type == intstr.Int {
		return p.port.IntVal
	}
	for _, declared := range c.Ports {
		if declared.Name == p.port.StrVal {
			return declared.ContainerPort
		}
	}
	return 0
}

// probes returns the connections of probes and hooks of c.
func probes(c *corev1.Container) (list []probe) {
	add := func(what string, http *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, grpc *corev1.GRPCAction) {
		switch {
		case http != nil:
			list = append(list, probe{what, http.Host, http.Port})
		case tcp != nil:
			list = append(list, probe{what, tcp.Host, tcp.Port})
		case grpc != nil:
			list = append(list, probe{what, "", intstr.FromInt32(grpc.Port)})
		}
	}
	for _, p := range []struct {
		what  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		if p.probe != nil {
			add(p.what, p.probe.HTTPGet, p.probe.TCPSocket, p.probe.GRPC)
		}
	}
	if c.Lifecycle == nil {
		return list
	}
	for _, h := range []struct {
		what string
		hook *corev1.LifecycleHandler
	}{{"postStart hook", c.Lifecycle.PostStart}, {"preStop hook", c.Lifecycle.PreStop}} {
		if h.hook != nil {
			add(h.what, h.hook.HTTPGet, h.hook.TCPSocket, nil)
		}
	}
	return list
}
