package installed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// ImageRepository is where releases of the gateway's image are published.
const ImageRepository = "ghcr.io/kubectl-gateway/kube-gateway"

// DefaultImage returns the gateway's image of the release that version names.
func DefaultImage(version string) string {
	// A tag cannot hold the plus sign of a semantic version's build metadata.
	return ImageRepository + ":" + strings.ReplaceAll(version, "+", "-")
}

// Program is the path of the gateway's program in its image.
const Program = "/kube-gateway"

// Commands of the gateway's program.
const (
	commandSupervise = "supervise"
	commandClean     = "clean"
)

// Cleaner describes a container that removes what gateway, which has died, left in
// pod. It counts as a gateway of the pod, and ends as one that was disabled. Its image is
// the caller's: whoever may add an ephemeral container can call it a gateway, and name any.
func Cleaner(pod *corev1.Pod, gateway, image string, policy corev1.PullPolicy) (*corev1.EphemeralContainer, error) {
	dead, err := containerOf(pod, gateway)
	if err != nil {
		return nil, err
	}
	return program(NextName(pod), image, policy, commandClean, configText(dead)), nil
}

// Cleans reports whether the container called name is a Cleaner.
func Cleans(pod *corev1.Pod, name string) bool {
	container, err := containerOf(pod, name)
	return err == nil && slices.Equal(container.Args, []string{commandClean})
}

// Supervisor describes the container called name that runs a gateway with config, an
// api.Config as JSON. It names no target container: it would share the PID namespace
// of that one and be killed with it, and an ephemeral container is never restarted.
func Supervisor(name, image string, policy corev1.PullPolicy, config string) *corev1.EphemeralContainer {
	return program(name, image, policy, commandSupervise, config)
}

// AddStatusPort has the gateway in container, of which roots are the authorities' fingerprints, answer
// for its status at a port of pod, unless a container of the pod declares that port.
func AddStatusPort(container *corev1.EphemeralContainer, pod *corev1.Pod, roots []string) error {
	port := api.StatusPort{Port: api.StatusPortOf(Number(container.Name)), Roots: roots}
	for _, declared := range TCPPorts(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)) {
		if declared.ContainerPort == int32(port.Port) {
			return nil
		}
	}
	text, err := json.Marshal(port)
	if err != nil {
		return fmt.Errorf("writing the port for the status: %w", err)
	}
	container.Env = append(container.Env, corev1.EnvVar{Name: api.EnvStatusPort, Value: string(text)})
	return nil
}

// StatusPortOf returns how the status of the gateway called name is read without a command in its
// container, and false if it is not.
func StatusPortOf(pod *corev1.Pod, name string) (port api.StatusPort, ok bool) {
	container, err := containerOf(pod, name)
	if err != nil {
		return port, false
	}
	for _, env := range container.Env {
		if env.Name == api.EnvStatusPort {
			err := json.Unmarshal([]byte(env.Value), &port)
			return port, err == nil && port.Port != 0 && len(port.Roots) > 0
		}
	}
	return port, false
}

// securityContext is that of every gateway. Only a privileged container sees the pod's cgroup. The
// users are set because the pod may demand another one, or none but root.
func securityContext() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		Privileged: new(true), RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)), RunAsNonRoot: new(false),
	}
}

// program describes a container that runs the gateway's program.
func program(name, image string, policy corev1.PullPolicy, command, config string) *corev1.EphemeralContainer {
	return &corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name:            name,
		Image:           image,
		ImagePullPolicy: policy,
		// The program itself is the image's entry point.
		Args:                     []string{command},
		Env:                      []corev1.EnvVar{{Name: api.EnvConfig, Value: config}},
		SecurityContext:          securityContext(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}}
}

// DryRun says what of a change to a pod really happens.
type DryRun string

const (
	DryRunNone DryRun = ""
	// DryRunClient sends nothing that would change anything.
	DryRunClient DryRun = "client"
	// DryRunServer sends everything for the server to try and to forget.
	DryRunServer DryRun = "server"
)
