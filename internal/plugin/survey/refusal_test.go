package survey

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

func TestCheckPod(t *testing.T) {
	no, class := false, "gvisor-strict"
	kata := "kata-qemu"
	now := metav1.Now()
	linux := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	node := func(labels map[string]string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		node   *corev1.Node
		want   string
	}{
		"ordinary":            {node: linux},
		"ordinary, no node":   {},
		"host users":          {change: func(p *corev1.Pod) { yes := true; p.Spec.HostUsers = &yes }},
		"other runtime class": {change: func(p *corev1.Pod) { runc := "runc"; p.Spec.RuntimeClassName = &runc }},
		"udp port": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.PeerPort, Protocol: corev1.ProtocolUDP}}
		}},
		"deleted":        {change: func(p *corev1.Pod) { p.DeletionTimestamp = &now }, want: "being deleted"},
		"succeeded":      {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, want: "finished (Succeeded)"},
		"failed":         {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, want: "finished (Failed)"},
		"pending":        {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, want: "does not run yet (Pending)"},
		"no phase":       {change: func(p *corev1.Pod) { p.Status.Phase = "" }, want: "does not run yet (Pending)"},
		"no address":     {change: func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, want: "no address"},
		"host network":   {change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, want: "hostNetwork"},
		"user namespace": {change: func(p *corev1.Pod) { p.Spec.HostUsers = &no }, want: "hostUsers: false"},
		"mirror": {change: func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}, want: "static pod"},
		"windows by os":       {change: func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, want: "Windows"},
		"windows by node":     {node: node(map[string]string{corev1.LabelOSStable: "windows"}), want: "Windows"},
		"windows by selector": {change: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "windows"} }, want: "Windows"},
		"gvisor":              {change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }, want: "gVisor"},
		"kata":                {change: func(p *corev1.Pod) { p.Spec.RuntimeClassName = &kata }, want: "Kata"},
		"fargate":             {node: node(map[string]string{"eks.amazonaws.com/compute-type": "fargate"}), want: "Fargate"},
		"virtual kubelet":     {node: node(map[string]string{"type": "virtual-kubelet"}), want: "virtual node"},
		"virtual taint":       {node: node(nil, corev1.Taint{Key: "virtual-kubelet.io/provider"}), want: "virtual node"},
		"port taken": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.PeerPort}}
		}, want: "port 18443"},
		"ports on loopback": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: api.CapturePort}, {ContainerPort: api.InbandPort}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var cluster Survey
			if test.node != nil {
				cluster.nodes = map[string]*corev1.Node{"node-1": test.node}
			}
			pod := fakecluster.NewPod("p")
			if test.change != nil {
				test.change(pod)
			}
			expect.Error(t, cluster.Refusal(pod), test.want)
		})
	}
}
