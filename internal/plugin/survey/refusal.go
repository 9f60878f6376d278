package survey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// Refusal returns why pod cannot have a gateway in the state it is in, nil if it
// can.
func (s *Survey) Refusal(pod *corev1.Pod) error {
	node, class := s.nodes[pod.Spec.NodeName], *cmp.Or(pod.Spec.RuntimeClassName, new(""))
	refuse := func(hint, format string, args ...any) error {
		return api.WithHint(fmt.Errorf(format, args...), hint)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return refuse("name the pod that replaces it", "the pod is being deleted")
	case installed.Finished(pod):
		return refuse("name a pod that runs", "the pod has finished (%s)", pod.Status.Phase)
	case installed.Static(pod):
		return refuse("run it as an ordinary pod, for example of a DaemonSet",
			"this is a static pod: it belongs to its node, and the API server cannot change it")
	case windows(pod, node):
		return refuse("only pods on Linux nodes can have a gateway", "this is a Windows pod")
	case pod.Spec.HostNetwork:
		return refuse("the traffic of hostNetwork pods is the node's own; encrypt that at node level",
			"the pod uses the node's network (hostNetwork)")
	case pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers:
		return refuse("remove hostUsers: false from the pod's template: Kubernetes hands out no BPF tokens",
			"the pod has a user namespace (hostUsers: false), from which no eBPF program can be loaded")
	case Sandbox(class) != "":
		return refuse("use a runtime class that runs containers on the node's kernel",
			"the pod's runtime class %q is a sandbox (%s) without the node's kernel", class, Sandbox(class))
	case virtualNode(node) != "":
		return refuse("schedule the pod to an ordinary node", "node %q is %s, which runs no privileged containers",
			node.Name, virtualNode(node))
	case pod.Status.Phase != corev1.PodRunning && !installed.SidecarRuns(pod):
		hint := "wait for it: 'kubectl wait --for=condition=Ready pod/" + pod.Name + " -n " + pod.Namespace + "'"
		if gateway, ok := installed.Current(pod); ok && gateway.Sidecar {
			// The pod may not become ready before its gateway has a certificate.
			hint = "'kubectl gateway enable pod/" + pod.Name + " -n " + pod.Namespace + "' waits for the gateway that came with it, and gives it a certificate, as 'watch' does"
		}
		return refuse(hint, "the pod does not run yet (%s)", cmp.Or(pod.Status.Phase, corev1.PodPending))
	case len(installed.PodIPs(pod)) == 0:
		return refuse("look at 'kubectl describe pod "+pod.Name+" -n "+pod.Namespace+"'", "the pod has no address yet")
	}
	// On loopback a gateway takes what is free, see api.ListenerPairs.
	if name := DeclaredPort(pod, api.PeerPort); name != "" {
		return refuse("let the application listen on another port: other gateways dial this one",
			"container %s listens on port %d, which the gateway needs", name, api.PeerPort)
	}
	return nil
}

// DeclaredPort returns the container of pod that declares a TCP port, "" if none does.
func DeclaredPort(pod *corev1.Pod, wanted uint16) string {
	for container, declared := range installed.TCPPorts(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)) {
		if declared.ContainerPort == int32(wanted) {
			return container
		}
	}
	return ""
}

func windows(pod *corev1.Pod, node *corev1.Node) bool {
	return pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows ||
		pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows) ||
		node != nil && node.Labels[corev1.LabelOSStable] == string(corev1.Windows)
}

// Sandbox names the sandboxed runtime that a runtime class, or its handler, stands for, as
// far as customary names tell; "" is none.
func Sandbox(name string) string {
	name = strings.ToLower(name)
	switch {
	case strings.Contains(name, "gvisor"), strings.Contains(name, "runsc"):
		return "gVisor"
	case strings.Contains(name, "kata"):
		return "Kata Containers"
	}
	return ""
}

// virtualNode names the kind of node if it is not a machine with a kubelet.
func virtualNode(node *corev1.Node) string {
	switch {
	case node == nil:
		return ""
	case node.Labels["eks.amazonaws.com/compute-type"] == "fargate":
		return "AWS Fargate"
	case node.Labels["type"] == "virtual-kubelet",
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" }):
		return "a virtual node"
	}
	return ""
}
