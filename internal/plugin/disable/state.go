package disable

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// step is what there is to do about a pod.
type step int

const (
	// nothing: the pod has no gateway, or the last one was disabled.
	nothing step = iota
	// died: a gateway ended by itself, and took with it all it had.
	died
	// awaitStart: a gateway is on its way, and cannot be told to end yet.
	awaitStart
	// end: a gateway runs.
	end
	// clean: a gateway has died, and may have left programs or filters.
	clean
)

// filtersGoWith is the first kernel whose inbound filters go with the process that
// attached them (tcx links). Before, they stay with a gateway that was killed.
const filtersGoWith = "6.6"

// killed is the least exit code of a process that ended by a signal, as container
// runtimes have it: 128 and the signal's number.
const killed = 128

// next returns what to do first about pod, and with which gateway. Containers in
// inert did not come to run. kernel is called when it matters.
func next(pod *corev1.Pod, inert map[string]bool, kernel func() *version.Version) (step, installed.Gateway) {
	gateways := installed.Gateways(pod)
	slices.Reverse(gateways)
	if i := slices.IndexFunc(gateways, func(g installed.Gateway) bool { return g.Phase == installed.Running }); i >= 0 {
		return end, gateways[i]
	}
	if i := slices.IndexFunc(gateways, func(g installed.Gateway) bool {
		return (g.Phase == installed.Waiting || g.Sidecar && !g.Disabled()) && !inert[g.Name] && !installed.Leaving(pod) && installed.Hopeful(pod, g)
	}); i >= 0 {
		return awaitStart, gateways[i]
	}
	found, which := nothing, installed.Gateway{}
	for _, gateway := range gateways {
		switch {
		case gateway.Disabled():
			// Whatever was left before it, it has removed.
			if found == nothing {
				which = gateway
			}
			return found, which
		case gateway.Phase != installed.Terminated || neverRan(gateway):
			continue
		case !installed.Leaving(pod) && leaves(pod, gateway, kernel):
			return clean, gateway
		case found == nothing:
			found, which = died, gateway
		}
	}
	return found, which
}

// neverRan reports whether the runtime could not start gateway's program.
func neverRan(gateway installed.Gateway) bool {
	return gateway.Reason == "StartError" || gateway.Reason == "ContainerCannotRun"
}

// leaves reports whether gateway, which has ended in another way than by being
// disabled, may have left something in the kernel. It does, unless it is certain
// that it does not.
func leaves(pod *corev1.Pod, gateway installed.Gateway, kernel func() *version.Version) bool {
	if gateway.ExitCode == api.ExitUnserved {
		return false
	}
	config, err := installed.ConfigOf(pod, gateway.Name)
	if err != nil || config.OnFailure != api.FailOpen {
		return true
	}
	if gateway.ExitCode < killed {
		return false
	}
	v := kernel()
	return v == nil || v.LessThan(version.MustParseGeneric(filtersGoWith))
}

// kernel returns what finds out the kernel of pod's node, nil if that is not known.
func (d *Disabler) kernel(ctx context.Context, pod *corev1.Pod) func() *version.Version {
	return func() *version.Version {
		node, err := d.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		v, _ := version.ParseGeneric(node.Status.NodeInfo.KernelVersion) // nil if it cannot be read
		return v
	}
}
