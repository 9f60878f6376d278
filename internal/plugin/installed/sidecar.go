package installed

import (
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// container is one that can be a gateway.
type container struct {
	*corev1.EphemeralContainerCommon
	// statuses has its own among others.
	statuses []corev1.ContainerStatus
	sidecar  bool
}

// containers yields the containers of pod that can be gateways: sidecars and ephemeral ones. A static pod has none.
func containers(pod *corev1.Pod) iter.Seq[container] {
	return func(yield func(container) bool) {
		if Static(pod) {
			return
		}
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				continue
			}
			if !yield(container{(*corev1.EphemeralContainerCommon)(c), pod.Status.InitContainerStatuses, true}) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			c := &pod.Spec.EphemeralContainers[i].EphemeralContainerCommon
			if !yield(container{c, pod.Status.EphemeralContainerStatuses, false}) {
				return
			}
		}
	}
}

// SidecarRuns reports whether the gateway of pod is a sidecar that runs: the pod can have other containers
// that wait for it.
func SidecarRuns(pod *corev1.Pod) bool {
	gateway, ok := Current(pod)
	return ok && gateway.Sidecar && gateway.Phase == Running
}

// fieldsOf are the fields of pod that a sidecar is told.
func fieldsOf(pod *corev1.Pod) func(string) (string, bool) {
	var ips []string
	for _, ip := range PodIPs(pod) {
		ips = append(ips, ip.String())
	}
	fields := map[string]string{
		api.EnvPodNamespace: pod.Namespace, api.EnvPodName: pod.Name, api.EnvPodUID: string(pod.UID),
		api.EnvServiceAccount: Identity(pod, "").ServiceAccount, api.EnvNode: pod.Spec.NodeName, api.EnvPodIPs: strings.Join(ips, ","),
	}
	return func(name string) (string, bool) {
		value, ok := fields[name]
		return value, ok
	}
}

const (
	// startedWait is how long one startup probe waits for the gateway, and startedTimeout how long it may take
	// in all: a node may be busy.
	startedWait    = 5 * time.Second
	startedTimeout = 30 * time.Second
	// startedThreshold is how many startup probes may fail before the kubelet starts the gateway again. That
	// helps nobody, so it is the highest number that there is: a sidecar waits for its certificate for good.
	startedThreshold = 1<<31 - 1
)

// Sidecar describes the container of a gateway that comes with its pod. config is an api.Config without
// a pod, and roots are the authorities' fingerprints. The containers behind it start when it serves, or, unless
// passAfter is 0, after that time.
func Sidecar(image string, policy corev1.PullPolicy, config *api.Config, roots []string, passAfter time.Duration) (*corev1.Container, error) {
	own := *config
	own.Version, own.Sidecar, own.Number = api.ConfigVersion, true, Number(ContainerName)
	text, err := json.Marshal(own)
	if err != nil {
		return nil, fmt.Errorf("writing the gateway's configuration: %w", err)
	}
	c := corev1.Container(program(ContainerName, image, policy, commandSupervise, string(text)).EphemeralContainerCommon)
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	for _, field := range api.PodFields() {
		c.Env = append(c.Env, corev1.EnvVar{Name: field.Env, ValueFrom: &corev1.EnvVarSource{
			// The API version is the server's default, without which it would look changed.
			FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: field.Path},
		}})
	}
	port, err := json.Marshal(api.StatusPort{Port: api.StatusPortOf(own.Number), Roots: roots})
	if err != nil {
		return nil, fmt.Errorf("writing the port for the status: %w", err)
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: api.EnvStatusPort, Value: string(port)})
	command := []string{Program, "ctl", "started", "--wait=" + startedWait.String()}
	if passAfter > 0 {
		command = append(command, "--pass-after="+passAfter.String())
	}
	c.StartupProbe = &corev1.Probe{
		ProbeHandler:   corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}},
		TimeoutSeconds: int32(startedTimeout / time.Second), PeriodSeconds: 1, FailureThreshold: startedThreshold,
	}
	return &c, nil
}
