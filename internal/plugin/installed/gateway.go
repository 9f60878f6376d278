// Package installed is the gateway in a pod, as the API server shows it.
//
//	gateway.go      which gateways a pod has, and where each is in its life
//	sidecar.go      the container of one that came with its pod, and which containers can be gateways at all
//	pod.go          what matters of the pod itself
//	succession.go   which of two gateways took, or is to take, the other's place
//	container.go    the ephemeral container that a gateway is
//	patch.go        how that gets into the pod
//	secret.go       the Secrets that bring keys to gateways
//	follow.go       what becomes of a gateway
//	failure.go      why a gateway does not work
package installed

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// ContainerName is the name of a pod's first gateway. Later ones have a number
// behind it (kube-gateway-2, …), because an ephemeral container can neither be
// restarted nor removed.
const ContainerName = "kube-gateway"

// Phase is where the container of a gateway is in its life, as the kubelet
// reports it. Whether the gateway in a running container works is for the
// gateway itself to say.
type Phase string

const (
	// Waiting also stands for a container that the kubelet has not yet seen.
	Waiting    Phase = "Waiting"
	Running    Phase = "Running"
	Terminated Phase = "Terminated"
)

// Gateway is the container of one gateway in a pod: an ephemeral one, or a sidecar.
type Gateway struct {
	Name  string
	Image string
	Phase Phase
	// Sidecar says that the gateway came with its pod. The kubelet starts its container again whenever that
	// ends: then Phase, and what the container said last, are those of the new one, unless the gateway was
	// disabled or has handed over before. Nothing but an idle program runs there in that case, and Phase is
	// Terminated.
	Sidecar bool
	// Reason and Message are the kubelet's words for why the container waits
	// or has ended; Message is the gateway's own last words if it left any.
	Reason  string
	Message string
	// ExitCode is set in phase Terminated.
	ExitCode int32
	// HandedOver says that another gateway has taken the place of this one, which has ended.
	// Gateways of earlier builds say only that they were disabled.
	HandedOver bool
	// StartedAt and FinishedAt are zero as long as that has not happened.
	StartedAt  time.Time
	FinishedAt time.Time
}

// Disabled reports whether g was ended on purpose and has left nothing behind, be it that another one
// has taken its place. A
// gateway that ended otherwise may still capture, or may just have died.
func (g *Gateway) Disabled() bool {
	return g.Phase == Terminated && g.ExitCode == 0 && g.Message == api.DisabledMessage
}

// Gateways returns the gateways that were ever added to pod, oldest first.
func Gateways(pod *corev1.Pod) []Gateway {
	var found []Gateway
	for container := range containers(pod) {
		if Number(container.Name) == 0 || configText(container.EphemeralContainerCommon) == "" {
			continue
		}
		gateway := Gateway{Name: container.Name, Image: container.Image, Phase: Waiting, Sidecar: container.sidecar}
		for _, status := range container.statuses {
			if status.Name == container.Name {
				gateway.observe(status.State)
				gateway.recall(status.LastTerminationState)
			}
		}
		found = append(found, gateway)
	}
	slices.SortStableFunc(found, func(a, b Gateway) int { return Number(a.Name) - Number(b.Name) })
	return found
}

// Current returns the newest gateway of pod that runs, else the newest, and false
// if pod never had one. After a node's restart an older one may run again. One that
// was to take another one's place and has not started has never been the pod's.
func Current(pod *corev1.Pod) (Gateway, bool) {
	all := Gateways(pod)
	for _, gateway := range slices.Backward(all) {
		if gateway.Phase == Running {
			return gateway, true
		}
	}
	for i, gateway := range slices.Backward(all) {
		before := replacesOf(pod, gateway.Name)
		took := slices.ContainsFunc(all, func(g Gateway) bool { return g.Name == before && g.HandedOver })
		if i == 0 || gateway.Phase != Waiting || before == "" || took {
			return gateway, true
		}
	}
	return Gateway{}, false
}

// Fresh reports whether the gateway called name has not been seen to run in pod.
func Fresh(pod *corev1.Pod, name string) bool {
	return find(pod, Gateway{Name: name}).Phase == Waiting
}

// RunningGateway returns the gateway of pod that can be talked to, or why there is
// none, with a hint; the Name is set, too, if one is there that does not run.
func RunningGateway(pod *corev1.Pod) (Gateway, error) {
	enable := fmt.Sprintf("'kubectl gateway enable pod/%s -n %s' adds one", pod.Name, pod.Namespace)
	current, ok := Current(pod)
	switch {
	case !ok:
		return current, api.WithHint(errors.New("the pod has no gateway"), enable)
	case current.Phase != Running:
		return current, api.WithHint(fmt.Errorf("the gateway does not run: container %s is %s", current.Name, strings.ToLower(string(current.Phase))), enable)
	}
	return current, nil
}

// NextName returns the name that the next gateway of pod gets. It collides with
// no container of the pod, whoever added that.
func NextName(pod *corev1.Pod) string {
	last := 0
	for _, c := range pod.Spec.EphemeralContainers {
		last = max(last, Number(c.Name))
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		last = max(last, Number(c.Name))
	}
	if last == 0 {
		return ContainerName
	}
	return ContainerName + "-" + strconv.Itoa(last+1)
}

// ConfigOf returns the configuration that the gateway called name was given.
func ConfigOf(pod *corev1.Pod, name string) (*api.Config, error) {
	container, err := containerOf(pod, name)
	if err != nil {
		return nil, err
	}
	text := configText(container)
	if text == "" {
		return nil, fmt.Errorf("container %s of pod %s/%s is not a gateway: it has no %s", name, pod.Namespace, pod.Name, api.EnvConfig)
	}
	complete, err := api.CompleteConfig([]byte(text), fieldsOf(pod))
	if err != nil {
		return nil, fmt.Errorf("container %s of pod %s/%s: %w", name, pod.Namespace, pod.Name, err)
	}
	config, err := api.ParseConfig(complete)
	if err != nil {
		return nil, fmt.Errorf("container %s of pod %s/%s: %w", name, pod.Namespace, pod.Name, err)
	}
	return config, nil
}

// containerOf returns the container of pod called name, if it can be a gateway.
func containerOf(pod *corev1.Pod, name string) (*corev1.EphemeralContainerCommon, error) {
	for container := range containers(pod) {
		if container.Name == name {
			return container.EphemeralContainerCommon, nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s has no ephemeral container and no sidecar %s", pod.Namespace, pod.Name, name)
}

func (g *Gateway) observe(state corev1.ContainerState) {
	switch {
	case state.Terminated != nil:
		t := state.Terminated
		g.Phase, g.Reason, g.Message, g.ExitCode = Terminated, t.Reason, words(t.Message), t.ExitCode
		g.StartedAt, g.FinishedAt = t.StartedAt.Time, t.FinishedAt.Time
		g.HandedOver = t.ExitCode == 0 && strings.TrimSpace(t.Message) == api.HandedOverMessage
	case state.Running != nil:
		g.Phase, g.StartedAt = Running, state.Running.StartedAt.Time
	case state.Waiting != nil:
		g.Reason, g.Message = state.Waiting.Reason, strings.TrimSpace(state.Waiting.Message)
	}
}

// recall makes a gateway that was disabled one again where the runtime has forgotten its container.
// The kubelet tries to start that once more, but the Secret is gone; and a gateway that starts ends
// as before. A sidecar is started again at once, and does nothing then.
func (g *Gateway) recall(last corev1.ContainerState) {
	before := Gateway{Name: g.Name, Image: g.Image, Sidecar: g.Sidecar}
	before.observe(last)
	if (g.Phase == Waiting || g.Sidecar) && before.Disabled() {
		*g = before
	}
}

// words returns what a container left as its last words. Of one that was killed the
// kubelet shows the end of its log instead, where the lines of connections, the first
// of them cut off, say nothing about its end.
func words(message string) string {
	lines := strings.Split(message, "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasSuffix(strings.TrimSpace(line), "}") })
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// Number returns the number of the gateway whose container is called name: 1 for kube-gateway,
// n for kube-gateway-n with n of at least 2, and 0 for any other name.
func Number(name string) int {
	if name == ContainerName {
		return 1
	}
	digits, ok := strings.CutPrefix(name, ContainerName+"-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 2 || strconv.Itoa(n) != digits {
		return 0
	}
	return n
}

func configText(container *corev1.EphemeralContainerCommon) string {
	for _, env := range container.Env {
		if env.Name == api.EnvConfig {
			return env.Value
		}
	}
	return ""
}
