package installed

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// ManyContainers is how many gateways a pod may have had before it is worth a word: each stays in
// the pod's spec, which etcd bounds with the rest of the object (1.5 MiB).
const ManyContainers = 20

// Predecessor returns the gateway that gateway was made to take the place of, if that runs. Which
// of the two serves only the newer one knows: see remote.Client.Serving.
func Predecessor(pod *corev1.Pod, gateway Gateway) (Gateway, bool) {
	if other := find(pod, Gateway{Name: replacesOf(pod, gateway.Name)}); other.Phase == Running && other.Name != gateway.Name {
		return other, true
	}
	return Gateway{}, false
}

// Starting returns the newest gateway of pod that has not started and is to take the place of the
// one called name, unless it cannot start.
func Starting(pod *corev1.Pod, name string) (Gateway, bool) {
	for _, gateway := range slices.Backward(Gateways(pod)) {
		if gateway.Phase == Waiting && replacesOf(pod, gateway.Name) == name {
			return gateway, Hopeful(pod, gateway)
		}
	}
	return Gateway{}, false
}

// Succeeded reports whether the gateway called name was made to take the place of another one.
func Succeeded(pod *corev1.Pod, name string) bool { return replacesOf(pod, name) != "" }

// ReadsSecret reports whether the gateway called name gets its first key from a Secret.
func ReadsSecret(pod *corev1.Pod, name string) bool {
	return secretOf(pod, name) != ""
}

// replacesOf returns what api.Config.Replaces of the container called name is. The rest of a
// configuration may be of a version that this plugin does not know.
func replacesOf(pod *corev1.Pod, name string) string {
	container, err := containerOf(pod, name)
	if err != nil {
		return ""
	}
	var config struct {
		Replaces string `json:"replaces"`
	}
	// What is not JSON names nothing.
	_ = json.Unmarshal([]byte(configText(container)), &config)
	return config.Replaces
}
