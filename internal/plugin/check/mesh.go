package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sidecar is a proxy that another mesh puts into pods.
type sidecar struct{ container, mesh, hint string }

// sidecars lists proxies by the container names of their injectors.
func sidecars() []sidecar {
	return []sidecar{
		{"istio-proxy", "Istio", "annotate the pod's template with traffic.sidecar.istio.io/excludeOutboundPorts and excludeInboundPorts \"18443\", or leave the pod to Istio"},
		{"linkerd-proxy", "Linkerd", "annotate the pod's template with config.linkerd.io/skip-outbound-ports and skip-inbound-ports \"18443\", or leave the pod to Linkerd"},
		{"kuma-sidecar", "Kuma", "leave the pod to Kuma, or remove its sidecar"},
		{"consul-dataplane", "Consul", "leave the pod to Consul, or remove its sidecar"},
	}
}

// ambientLabel adds pods to the mesh of Istio without a sidecar.
const ambientLabel = "istio.io/dataplane-mode"

func checkMeshes(_ context.Context, f *facts, pods []corev1.Pod) []Item {
	spaces, _ := f.spaces()
	var list []Item
	for i := range pods {
		pod := &pods[i]
		for _, car := range sidecars() {
			has := slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool { return c.Name == car.container })
			if has {
				list = append(list, Item{Result: Warning, Objects: []string{nameOf(pod)}, Hint: car.hint, Detail: fmt.Sprintf(
					"the sidecar of %[1]s is in the pod: what the gateway encrypts goes through it again, and %[1]s sees neither requests nor the application's peer", car.mesh)})
			}
		}
		mode, said := pod.Labels[ambientLabel]
		if space := spaces[pod.Namespace]; !said && space != nil {
			mode = space.Labels[ambientLabel]
		}
		if mode == "ambient" {
			list = append(list, Item{Result: Warning, Objects: []string{nameOf(pod)},
				Detail: "the pod is in Istio's ambient mesh: ztunnel carries what the gateway encrypts, so it is encrypted twice, and Istio's policies see the gateways",
				Hint:   "label the pod's template with " + ambientLabel + "=none, or leave the pod to Istio"})
		}
	}
	return list
}

// checkCilium reads the configuration of Cilium, a plug-in that can encrypt or
// authenticate by itself.
func checkCilium(ctx context.Context, f *facts) []Item {
	config, err := f.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, "cilium-config", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return ok("Cilium was not found")
	case err != nil:
		return unread("the configuration of Cilium", err)
	}
	var does []string
	for _, setting := range []struct{ key, words string }{
		{"enable-wireguard", "encrypts between nodes with WireGuard"},
		{"enable-ipsec", "encrypts between nodes with IPsec"},
		{"mesh-auth-enabled", "may demand mutual authentication"},
	} {
		if config.Data[setting.key] == "true" {
			does = append(does, setting.words)
		}
	}
	if len(does) == 0 || len(does) == 1 && config.Data["mesh-auth-enabled"] == "true" {
		return ok("Cilium does not encrypt")
	}
	return []Item{{Result: Warning, Detail: "Cilium " + strings.Join(does, ", and ") + ": what goes to another node is encrypted twice",
		Hint: "both work together; gateways add the pods' identities, and encryption within a node, at some cost"}}
}
