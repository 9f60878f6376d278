package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/survey"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

const (
	// minKernel is the first kernel with all hooks of gateways.
	minKernel = "5.10"
	// tcxKernel is the first one with tcx; before it, gateways use clsact.
	tcxKernel = "6.6"
	// cgroup2Kubelet is the first kubelet that by default does not start on cgroup v1
	// (KEP-5573, failCgroupV1).
	cgroup2Kubelet = "1.35"
)

func linux(node *corev1.Node) bool {
	system := node.Status.NodeInfo.OperatingSystem
	return system == "" || system == "linux"
}

func checkOS(_ context.Context, _ *facts, nodes []*corev1.Node) []Item {
	var list []Item
	var systems []string
	for _, node := range nodes {
		info := node.Status.NodeInfo
		if !linux(node) {
			list = append(list, Item{Result: Warning, Objects: []string{"node/" + node.Name},
				Detail: fmt.Sprintf("it runs %s (%s)", info.OperatingSystem, info.OSImage), Hint: "only pods on Linux nodes can have a gateway"})
			continue
		}
		if text := fmt.Sprintf("%s, %s", info.OSImage, info.ContainerRuntimeVersion); !slices.Contains(systems, text) {
			systems = append(systems, text)
		}
	}
	return orOK(list, "%s: %s", terminal.Plural(len(nodes), "node"), strings.Join(systems, "; "))
}

func checkKernel(_ context.Context, _ *facts, nodes []*corev1.Node) []Item {
	var list []Item
	var kernels []string
	for _, node := range nodes {
		if !linux(node) {
			continue
		}
		text := node.Status.NodeInfo.KernelVersion
		kernel, err := version.ParseGeneric(text)
		object := []string{"node/" + node.Name}
		switch {
		case err != nil:
			list = append(list, Item{Result: Warning, Objects: object, Detail: fmt.Sprintf("its kernel %q has no version that can be read", text),
				Hint: "gateways need Linux " + minKernel + " or later"})
			continue
		case kernel.LessThan(version.MustParseGeneric(minKernel)):
			list = append(list, Item{Result: Error, Objects: object, Detail: fmt.Sprintf("Linux %s is older than %s", text, minKernel),
				Hint: "upgrade the node's system; gateways need the hooks of Linux " + minKernel})
			continue
		}
		words := "Linux " + text
		if kernel.LessThan(version.MustParseGeneric(tcxKernel)) {
			words += " (clsact in the place of tcx)"
		}
		if !slices.Contains(kernels, words) {
			kernels = append(kernels, words)
		}
	}
	return orOK(list, "%s", strings.Join(kernels, "; "))
}

func checkCgroup(_ context.Context, f *facts, nodes []*corev1.Node) []Item {
	// A capturing gateway is attached to a cgroup of version 2.
	seen := map[string]bool{}
	items, _ := f.answered()
	for _, item := range items {
		seen[item.Node] = seen[item.Node] || item.Status.Capture.Cgroup != ""
	}
	var unknown []Item
	byGateway, byKubelet := 0, 0
	for _, node := range nodes {
		kubelet, err := version.ParseGeneric(node.Status.NodeInfo.KubeletVersion)
		switch {
		case !linux(node):
		case seen[node.Name]:
			byGateway++
		case err == nil && kubelet.AtLeast(version.MustParseGeneric(cgroup2Kubelet)):
			byKubelet++
		default:
			unknown = append(unknown, Item{Result: Skipped, Objects: []string{"node/" + node.Name},
				Detail: fmt.Sprintf("kubelet %s does not tell; the first gateway on the node will", node.Status.NodeInfo.KubeletVersion)})
		}
	}
	return orOK(unknown, "%d by gateways that run, %d by the version of the kubelet", byGateway, byKubelet)
}

func checkEligible(ctx context.Context, f *facts, pods []corev1.Pod) []Item {
	cluster, err := f.survey()
	if err != nil {
		cluster = &survey.Survey{}
	}
	handlers := map[string]string{}
	if classes, err := f.Client.NodeV1().RuntimeClasses().List(ctx, metav1.ListOptions{}); err == nil {
		for _, class := range classes.Items {
			handlers[class.Name] = class.Handler
		}
	}
	var list []Item
	for i := range pods {
		pod := &pods[i]
		found := Item{}
		if err := cluster.Refusal(pod); err != nil {
			found = failed(Error, err)
		} else if class := pod.Spec.RuntimeClassName; class != nil && survey.Sandbox(handlers[*class]) != "" {
			found = Item{Result: Error, Detail: fmt.Sprintf("the pod's runtime class %q is a sandbox (handler %s) without the node's kernel", *class, handlers[*class]),
				Hint: "use a runtime class that runs containers on the node's kernel"}
		} else {
			continue
		}
		if !f.Named {
			// The user did not choose the pod, and may not want a gateway in it.
			found.Result = Warning
		}
		found.Objects = []string{nameOf(pod)}
		list = append(list, found)
	}
	return orOK(list, "%s", terminal.Plural(len(pods), "pod"))
}
