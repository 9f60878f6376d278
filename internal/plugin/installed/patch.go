package installed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
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
	missing "github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// ErrOvertaken says that the pod's gateways or addresses are not as they were read: another one was
// added meanwhile, or has failed. The caller reads the pod again.
var ErrOvertaken = errors.New("the pod's gateways changed meanwhile")

// Patch is the strategic-merge patch of pods/ephemeralcontainers that adds a
// gateway; ephemeral containers are merged by their names.
type Patch struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Metadata says which state of which pod a Patch is for. The server refuses it for any
	// other, so that of two plugins that add a gateway at the same time one is told.
	Metadata struct {
		Namespace       string `json:"namespace"`
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		EphemeralContainers []corev1.EphemeralContainer `json:"ephemeralContainers"`
	} `json:"spec"`
}

// NewPatch describes how container is added to pod in the state that is given.
func NewPatch(pod *corev1.Pod, container *corev1.EphemeralContainer) *Patch {
	p := &Patch{APIVersion: "v1", Kind: "Pod"}
	p.Metadata.Namespace, p.Metadata.Name, p.Metadata.ResourceVersion = pod.Namespace, pod.Name, pod.ResourceVersion
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{*container}
	return p
}

// AddContainer patches pod, or has the server try that if dryRun is set. It
// returns the state of the pod that was patched. A change of the pod meanwhile is not a
// failure, unless its gateways or its addresses changed: ErrOvertaken.
func AddContainer(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, container *corev1.EphemeralContainer, dryRun bool) (*corev1.Pod, error) {
	options := metav1.PatchOptions{FieldManager: ManagedBy}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	// The kubelet writes a pod's status every now and then, never in a row.
	backoff := wait.Backoff{Duration: 10 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: time.Second}
	var conflict error
	err := wait.ExponentialBackoffWithContext(ctx, backoff, func(ctx context.Context) (bool, error) {
		body, err := json.Marshal(NewPatch(pod, container))
		if err != nil {
			return false, fmt.Errorf("writing the patch: %w", err)
		}
		patched, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, options, "ephemeralcontainers")
		switch {
		case err == nil:
			if !dryRun {
				pod = patched
			}
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
		case overtaken(pod, now):
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

// overtaken reports whether the gateways or the addresses of a pod are not as they were.
func overtaken(pod, now *corev1.Pod) bool {
	return len(Gateways(now)) != len(Gateways(pod)) || !slices.Equal(PodIPs(now), PodIPs(pod))
}

// holds reports whether pod has an ephemeral container with the name, the image and
// the environment of wanted. The environment names the Secret, and so who added it.
func holds(pod *corev1.Pod, wanted *corev1.EphemeralContainer) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool {
		return c.Name == wanted.Name && c.Image == wanted.Image && apiequality.Semantic.DeepEqual(c.Env, wanted.Env)
	})
}

// The API server's words for a refusal by an admission webhook or policy.
var (
	webhookDenied = regexp.MustCompile(`admission webhook "([^"]+)" denied the request`)
	policyDenied  = regexp.MustCompile(`ValidatingAdmissionPolicy '([^']+)'`)
)

// ownPolicy is the ValidatingAdmissionPolicy of examples/admission-policy.yaml, which admits gateways.
const ownPolicy = "kube-gateway-pods"

// explainPatch adds advice to the refusal of the patch that adds the container.
func explainPatch(err error, namespace string) error {
	const exception = " must make an exception for the ephemeral container " + ContainerName
	text := err.Error()
	switch webhook, policy := webhookDenied.FindStringSubmatch(text), policyDenied.FindStringSubmatch(text); {
	case strings.Contains(text, "violates PodSecurity"):
		return api.WithHint(err, fmt.Sprintf("the gateway needs a privileged container: "+
			"'kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged --overwrite'", namespace))
	case webhook != nil:
		return api.WithHint(err, "admission webhook "+webhook[1]+exception)
	case policy != nil && policy[1] == ownPolicy:
		return api.WithHint(err, "--image names another image; those that are admitted are in 'kubectl get configmap kube-gateway-images -n kube-system -o yaml'")
	case policy != nil:
		return api.WithHint(err, "ValidatingAdmissionPolicy "+policy[1]+exception)
	case apierrors.IsForbidden(err):
		return api.WithHint(err, missing.To("patch", "pods/ephemeralcontainers", namespace))
	case apierrors.IsNotFound(err):
		return api.WithHint(err, "the pod is gone: name the one that replaces it")
	}
	return err
}
