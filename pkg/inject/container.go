package inject

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// ImageRepository is where releases of the gateway's image are published.
const ImageRepository = "ghcr.io/kubectl-gateway/kube-gateway"

// DefaultImage returns the gateway's image of the release that version names.
func DefaultImage(version string) string {
	// A tag cannot hold the plus sign of a semantic version's build metadata.
	return ImageRepository + ":" + strings.ReplaceAll(version, "+", "-")
}

// ErrOvertaken says that somebody else added a gateway to the pod meanwhile, or
// that the one that was waited for has failed: the pod must be looked at again.
var ErrOvertaken = errors.New("the pod's gateways changed meanwhile")

// configFor returns what the gateway of pod is told.
func (in *Injector) configFor(pod *corev1.Pod, ips []netip.Addr) *api.Config {
	id := identityOf(pod, in.Authority.TrustDomain())
	return &api.Config{
		Version: api.ConfigVersion,
		Pod: api.PodRef{
			Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID),
			ServiceAccount: id.ServiceAccount, Node: pod.Spec.NodeName,
		},
		PodIPs:        ips,
		TrustDomain:   id.TrustDomain,
		Mode:          in.Options.Mode,
		OnFailure:     in.Options.OnFailure,
		Capture:       in.Cluster.Capture,
		Services:      in.Cluster.Services,
		Exclude:       in.Cluster.Exclude,
		ExcludePorts:  in.Cluster.ExcludePorts,
		Wire:          in.Options.Wire.OrDefault(),
		Nodes:         in.Cluster.Nodes,
		NodePorts:     in.Cluster.NodePorts,
		PlaintextFrom: compact(slices.Concat(in.Cluster.nodeRanges(pod), in.Options.PlaintextFrom)),
		Allow:         in.Options.Allow,
		BlockUDP:      in.Options.BlockUDP,
		Existing:      in.Options.Existing,
		Watched:       in.Options.Watched,
		MetricsAddr:   in.Options.MetricsAddr,
	}
}

// container describes the gateway called name, whose key is in secret, or which
// is to ask for its certificate if secret is empty. It does not name a target container: then it would share the PID namespace of that
// one and be killed with it, and an ephemeral container is never restarted.
func (in *Injector) container(name, secret string, config *api.Config) (*corev1.EphemeralContainer, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("checking the gateway's configuration: %w", err)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("writing the gateway's configuration: %w", err)
	}
	fromSecret := func(variable, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key,
		}}}
	}
	container := program(name, in.Options.Image, in.Options.PullPolicy, commandSupervise, string(text))
	if secret != "" {
		container.Env = append(container.Env,
			fromSecret(api.EnvCert, corev1.TLSCertKey),
			fromSecret(api.EnvKey, corev1.TLSPrivateKeyKey),
			fromSecret(api.EnvCA, keyBundle))
	}
	return container, nil
}

// What the gateway's program is told to do.
const (
	commandSupervise = "supervise"
	commandClean     = "clean"
)

// Cleaner describes a container that removes what gateway, which has died, left in
// pod. It counts as a gateway of the pod, and ends as one that was disabled. An
// empty image stands for that of the dead gateway, pulled by its policy.
func Cleaner(pod *corev1.Pod, gateway, image string, policy corev1.PullPolicy) (*corev1.EphemeralContainer, error) {
	for i := range pod.Spec.EphemeralContainers {
		if dead := &pod.Spec.EphemeralContainers[i]; dead.Name == gateway {
			if image == "" {
				image, policy = dead.Image, cmp.Or(policy, dead.ImagePullPolicy)
			}
			return program(NextName(pod), image, policy, commandClean, configText(dead)), nil
		}
	}
	return nil, fmt.Errorf("pod %s/%s has no ephemeral container %s", pod.Namespace, pod.Name, gateway)
}

// Cleans reports whether the container called name is a Cleaner.
func Cleans(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool {
		return c.Name == name && slices.Equal(c.Args, []string{commandClean})
	})
}

// program describes a container that runs the gateway's program.
func program(name, image string, policy corev1.PullPolicy, command, config string) *corev1.EphemeralContainer {
	yes, no, root := true, false, int64(0)
	return &corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name:            name,
		Image:           image,
		ImagePullPolicy: policy,
		// The program itself is the image's entry point.
		Args: []string{command},
		Env:  []corev1.EnvVar{{Name: api.EnvConfig, Value: config}},
		// Only a privileged container sees the pod's cgroup. The users are set
		// because the pod may demand another one, or none but root.
		SecurityContext: &corev1.SecurityContext{
			Privileged: &yes, RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no,
		},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}}
}

// Patch is the strategic-merge patch of pods/ephemeralcontainers that adds a
// gateway; ephemeral containers are merged by their names.
type Patch struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Metadata   PatchMetadata `json:"metadata"`
	Spec       PatchSpec     `json:"spec"`
}

// PatchMetadata says which state of which pod a Patch is for. The server
// refuses it for any other, so that of two plugins that add a gateway at the
// same time one is told.
type PatchMetadata struct {
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion"`
}

// PatchSpec is the part of a pod's spec that a Patch holds.
type PatchSpec struct {
	EphemeralContainers []corev1.EphemeralContainer `json:"ephemeralContainers"`
}

func newPatch(pod *corev1.Pod, container *corev1.EphemeralContainer) *Patch {
	return &Patch{
		APIVersion: "v1",
		Kind:       "Pod",
		Metadata:   PatchMetadata{Namespace: pod.Namespace, Name: pod.Name, ResourceVersion: pod.ResourceVersion},
		Spec:       PatchSpec{EphemeralContainers: []corev1.EphemeralContainer{*container}},
	}
}

// AddContainer patches pod, or has the server try that if dryRun is set. It
// returns the pod's state that the patch was good for. A change of the pod by
// others is no failure, unless they changed its gateways: ErrOvertaken.
func AddContainer(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, container *corev1.EphemeralContainer, dryRun bool) (*corev1.Pod, error) {
	options := metav1.PatchOptions{FieldManager: ManagedBy}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	// The kubelet writes a pod's status every now and then, never in a row.
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: time.Second}
	var conflict error
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		body, err := json.Marshal(newPatch(pod, container))
		if err != nil {
			return false, fmt.Errorf("writing the patch: %w", err)
		}
		patched, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, options, "ephemeralcontainers")
		switch {
		case err == nil && !dryRun:
			pod = patched
			return true, nil
		case err == nil:
			return true, nil
		case !apierrors.IsConflict(err):
			return false, explainPatch(fmt.Errorf("adding container %s: %w", container.Name, err), pod.Namespace)
		}
		conflict = err
		now, err := Reread(ctx, client, pod)
		if err != nil {
			return false, err
		}
		switch {
		case !dryRun && holds(now, container):
			// The patch was good, and only the answer to it was lost.
			pod = now
			return true, nil
		case len(Gateways(now)) != len(Gateways(pod)):
			return false, ErrOvertaken
		}
		pod = now
		return false, nil
	})
	if conflict != nil && wait.Interrupted(err) && ctx.Err() == nil {
		return nil, api.WithHint(fmt.Errorf("adding container %s: %w", container.Name, conflict), "try again")
	}
	if err != nil {
		return nil, err
	}
	return pod, nil
}

// holds reports whether pod has an ephemeral container with the name, the image and
// the environment of wanted. The environment names the Secret, and so who added it.
func holds(pod *corev1.Pod, wanted *corev1.EphemeralContainer) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool {
		return c.Name == wanted.Name && c.Image == wanted.Image && apiequality.Semantic.DeepEqual(c.Env, wanted.Env)
	})
}

// Reread returns the current state of pod, and ErrReplaced if it is gone.
func Reread(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) (*corev1.Pod, error) {
	now, err := client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, ErrReplaced
	case err != nil:
		return nil, fmt.Errorf("reading the pod: %w", err)
	case now.UID != pod.UID:
		return nil, ErrReplaced
	}
	return now, nil
}
