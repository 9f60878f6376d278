package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/parallel"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/watch"
)

const (
	// labelCheck marks the pods that test the image.
	labelCheck = "kubectl-gateway.github.io/check"
	// testPrefix begins their names.
	testPrefix = "kube-gateway-image-test-"
	// testedNodes bounds the nodes that test the image.
	testedNodes = 3
	// pollInterval is how often the pod is read. Polling needs no right to watch.
	pollInterval = 250 * time.Millisecond
	// outputLimit bounds the output of the program, in bytes.
	outputLimit = 256
	// cleanupTimeout bounds what must not be interrupted: the creation of the pod, and
	// its deletion at the end.
	cleanupTimeout = 10 * time.Second
)

// testPod is a temporary pod in which the gateway's program prints its version. Pod
// Security admits it at every level, and watch adds no gateway to it.
func testPod(namespace, image string, policy corev1.PullPolicy) *corev1.Pod {
	const user = int64(65532)
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: testPrefix, Namespace: namespace,
			Labels:      map[string]string{installed.LabelManagedBy: installed.ManagedBy, labelCheck: "image"},
			Annotations: map[string]string{watch.Annotation: "false"},
		},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			AutomountServiceAccountToken:  new(false),
			EnableServiceLinks:            new(false),
			TerminationGracePeriodSeconds: new(int64(0)),
			// The pod ends even if this program is killed before it deletes the pod.
			ActiveDeadlineSeconds: new(int64((5 * time.Minute).Seconds())),
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(user), RunAsGroup: new(user),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{
				Name: installed.ContainerName, Image: image, ImagePullPolicy: policy, Args: []string{"version"},
				TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				Resources:                corev1.ResourceRequirements{Requests: small, Limits: small},
				SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			}},
		},
	}
}

// testPlaces returns a pod to create on each node with relevant pods, up to testedNodes.
// It pulls with the secrets of those pods.
func (f *facts) testPlaces() []*corev1.Pod {
	var list []*corev1.Pod
	var nodes []string
	pods, _ := f.found()
	for i := range pods {
		pod := &pods[i]
		if pod.Spec.NodeName == "" || pod.Spec.HostNetwork || slices.Contains(nodes, pod.Spec.NodeName) || len(list) == testedNodes {
			continue
		}
		nodes = append(nodes, pod.Spec.NodeName)
		test := testPod(pod.Namespace, f.Image, f.PullPolicy)
		test.Spec.NodeName = pod.Spec.NodeName
		test.Spec.ImagePullSecrets = pod.Spec.ImagePullSecrets
		list = append(list, test)
	}
	if len(list) == 0 {
		test := testPod(f.Namespace, f.Image, f.PullPolicy)
		test.Spec.NodeSelector = map[string]string{corev1.LabelOSStable: "linux"}
		list = append(list, test)
	}
	return list
}

func checkImage(ctx context.Context, f *facts) []Item {
	if !f.TestImage {
		return skipped("--image-test=false")
	}
	places := f.testPlaces()
	for _, place := range places {
		missing, err := f.missing(place.Namespace, rights.Of(rights.Image))
		switch {
		case err != nil:
			return []Item{failed(Error, err)}
		case len(missing) > 0:
			// A pod that cannot be deleted must not be created.
			return skipped("the test needs a pod for a moment, and you may not %s in namespace %s", missing[0], place.Namespace)
		}
	}
	return parallel.Each(testedNodes, places, func(p **corev1.Pod) Item { return f.testImage(ctx, *p) }, nil)
}

// testImage runs pod to its end and deletes it, also if ctx ends before.
func (f *facts) testImage(ctx context.Context, pod *corev1.Pod) Item {
	f.say("testing image %s on %s with a pod in namespace %s, which is deleted at once", f.Image, placeOf(pod), pod.Namespace)
	client := f.Client.CoreV1().Pods(pod.Namespace)
	// This must not be interrupted: a created pod must be known, to be deleted.
	creation, done := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	created, err := client.Create(creation, pod, metav1.CreateOptions{})
	done()
	if err != nil {
		if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			return Item{Result: Skipped, Objects: []string{"namespace/" + pod.Namespace}, Detail: "no pod can be made for the test: " + err.Error()}
		}
		return failed(Error, fmt.Errorf("making a pod for the test: %w", err))
	}
	found := f.awaitImage(ctx, created)
	if found.Result == OK {
		found = f.judgeOutput(ctx, created, found)
	}
	deletion, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := client.Delete(deletion, created.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil && !apierrors.IsNotFound(err) {
		f.say("the pod of the test could not be deleted: %v; kubectl delete pod %s -n %s", err, created.Name, created.Namespace)
	}
	return found
}

// awaitImage waits until the container has run, or never will.
func (f *facts) awaitImage(ctx context.Context, pod *corev1.Pod) Item {
	var found *Item
	last := "it was not scheduled"
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		now, err := f.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return false, errors.New("somebody deleted the pod of the test")
		case err != nil:
			last = err.Error()
			return false, nil
		}
		found, last = f.judgeImage(now, last)
		return found != nil, nil
	})
	if found != nil {
		return *found
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return failed(Error, err)
	}
	return Item{Result: Error, Detail: fmt.Sprintf("image %s did not run in time: %s", f.Image, last), Hint: "--image-timeout waits longer"}
}

// judgeOutput checks that the gateway's program ran: other programs may ignore their
// arguments. Without the right to read logs, exit code 0 has to suffice.
func (f *facts) judgeOutput(ctx context.Context, pod *corev1.Pod, found Item) Item {
	text, err := f.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{LimitBytes: new(int64(outputLimit))}).DoRaw(ctx)
	if err != nil {
		return found
	}
	version, is := strings.CutPrefix(string(text), "kube-gateway ")
	if !is {
		return Item{Result: Error, Detail: fmt.Sprintf("image %s runs another program", f.Image), Hint: "--image names that of a gateway"}
	}
	found.Detail = fmt.Sprintf("%s (%s) on", f.Image, strings.TrimSpace(version))
	return found
}

// placeOf names the node that a test pod is for.
func placeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName == "" {
		return "a node"
	}
	return "node " + pod.Spec.NodeName
}

// judgeImage returns the finding about a test pod, or nil and what the pod waits for.
func (f *facts) judgeImage(pod *corev1.Pod, last string) (*Item, string) {
	where := placeOf(pod)
	if pod.Status.Phase == corev1.PodFailed && len(pod.Status.ContainerStatuses) == 0 {
		return &Item{Result: Error, Detail: fmt.Sprintf("%s does not take the pod of the test: %s", where, cmp.Or(pod.Status.Message, pod.Status.Reason))}, ""
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Message != "" {
			last = condition.Message
		}
	}
	for _, status := range pod.Status.ContainerStatuses {
		switch state := status.State; {
		case state.Terminated != nil && state.Terminated.ExitCode == 0:
			return &Item{Result: OK, Objects: []string{strings.TrimPrefix(where, "node ")}, Detail: f.Image + " on"}, ""
		case state.Terminated != nil:
			words := strings.TrimSpace(cmp.Or(state.Terminated.Message, state.Terminated.Reason))
			return &Item{Result: Error, Detail: fmt.Sprintf("image %s does not run on %s: exit code %d: %s", f.Image, where, state.Terminated.ExitCode, words),
				Hint: "--image names another; is it a gateway's, for the node's architecture?"}, ""
		case state.Waiting != nil && slices.Contains([]string{"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
			"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ImageInspectError", "RegistryUnavailable"}, state.Waiting.Reason):
			words := strings.TrimSpace(state.Waiting.Reason + ": " + state.Waiting.Message)
			return &Item{Result: Error, Detail: fmt.Sprintf("image %s on %s: %s", f.Image, where, words),
				Hint: "--image names another, as in a registry that the nodes reach; imagePullSecrets of the pods are used"}, ""
		case state.Running != nil:
			last = "it goes on running, and should print its version and end"
		case state.Waiting != nil && state.Waiting.Reason != "":
			last = state.Waiting.Reason
		}
	}
	return nil, last
}
