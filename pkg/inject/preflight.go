package inject

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	missing "github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

const (
	// minServer is the first version with ephemeral containers for everybody
	// (KEP-277).
	minServer = "1.25"
	// minServerSecret is the first version whose node authorizer lets a kubelet
	// read a Secret that only an ephemeral container names (kubernetes#129670).
	minServerSecret = "1.33"
)

// CheckServer reports whether the API server is new enough for a delivery.
func CheckServer(ctx context.Context, client discovery.ServerVersionInterface, delivery Delivery) error {
	info, err := discovery.ToServerVersionInterfaceWithContext(client).ServerVersionWithContext(ctx)
	if err != nil {
		return fmt.Errorf("reading the server's version: %w", err)
	}
	server, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return api.WithHint(fmt.Errorf("reading the server's version %q: %w", info.GitVersion, err),
			"is this the API server of a cluster? 'kubectl version' shows what it says")
	}
	needed, hint := minServerSecret, "before 1.33 a kubelet may not read the Secret of an ephemeral container: "+
		"--delivery=csr needs none, or upgrade the cluster"
	if delivery == DeliveryCSR {
		needed, hint = minServer, "before 1.25 clusters have no ephemeral containers: upgrade the cluster"
	}
	if server.LessThan(version.MustParseGeneric(needed)) {
		return api.WithHint(fmt.Errorf("the server runs Kubernetes %s, and %s or later is needed", info.GitVersion, needed), hint)
	}
	return nil
}

// permission is one thing that is done in a pod's namespace.
type permission struct{ verb, resource, subresource string }

func (p permission) String() string {
	if p.subresource == "" {
		return p.verb + " " + p.resource
	}
	return p.verb + " " + p.resource + "/" + p.subresource
}

func permissions(delivery Delivery) []permission {
	list := append(disablePermissions(), permission{"patch", "pods", "ephemeralcontainers"})
	if delivery == DeliveryCSR {
		return list
	}
	return append(list, permission{"create", "secrets", ""}, permission{"delete", "secrets", ""})
}

func disablePermissions() []permission {
	return []permission{
		{"get", "pods", ""},
		{"list", "pods", ""},
		{"watch", "pods", ""},
		{"create", "pods", "exec"},
	}
}

// CheckAccess asks the server whether the user may do in namespace all that
// enable does with a delivery, and names everything that is missing.
func CheckAccess(ctx context.Context, client kubernetes.Interface, namespace string, delivery Delivery) error {
	return checkAccess(ctx, client, namespace, permissions(delivery),
		"ask for a role that allows it; the built-in roles edit and admin lack pods/ephemeralcontainers")
}

// CheckDisableAccess does the same for what ends a gateway.
func CheckDisableAccess(ctx context.Context, client kubernetes.Interface, namespace string) error {
	return checkAccess(ctx, client, namespace, disablePermissions(), "ask for a role that allows it")
}

func checkAccess(ctx context.Context, client kubernetes.Interface, namespace string, wanted []permission, hint string) error {
	denied := make([]bool, len(wanted))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, p := range wanted {
		group.Go(func() error {
			review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(groupCtx,
				&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{
						Namespace: namespace, Verb: p.verb, Resource: p.resource, Subresource: p.subresource,
					}}}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("asking whether you may %s in namespace %q: %w", p, namespace, err)
			}
			denied[i] = !review.Status.Allowed
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var missing []string
	for i, p := range wanted {
		if denied[i] {
			missing = append(missing, p.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if !slices.ContainsFunc(missing, func(what string) bool { return !strings.HasSuffix(what, " secrets") }) {
		hint = "--delivery=csr needs no Secrets, or ask for a role that allows it"
	}
	return api.WithHint(fmt.Errorf("you may not do this in namespace %q: %s", namespace, strings.Join(missing, ", ")), hint)
}

// ErrOtherAddresses says that a gateway runs which was made for other addresses
// than its pod has now: the kubelet started it again in a new sandbox.
var ErrOtherAddresses = errors.New("a gateway runs that was made for addresses which the pod has no more")

// checkAddresses reports ErrOtherAddresses about the gateway called name.
func checkAddresses(pod *corev1.Pod, name string) error {
	config, err := ConfigOf(pod, name)
	if err != nil || !OtherAddresses(pod, config) {
		return nil // what it was made for may not be known
	}
	return api.WithHint(fmt.Errorf("%w: container %s", ErrOtherAddresses, name),
		fmt.Sprintf("'kubectl gateway disable pod/%s -n %s', then enable it again", pod.Name, pod.Namespace))
}

// OtherAddresses reports whether pod has other addresses than a gateway with config
// was made for. A pod that has none, between two sandboxes, has no others.
func OtherAddresses(pod *corev1.Pod, config *api.Config) bool {
	has := PodIPs(pod)
	return len(has) > 0 && (len(has) != len(config.PodIPs) ||
		slices.ContainsFunc(has, func(ip netip.Addr) bool { return !slices.Contains(config.PodIPs, ip) }))
}

// Leaving reports whether pod has finished or is being deleted: there is
// nothing left in it to protect.
func Leaving(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// checkPod reports why pod cannot have a gateway. node is nil if unknown.
func checkPod(pod *corev1.Pod, node *corev1.Node) error {
	refuse := func(hint, format string, args ...any) error {
		return api.WithHint(fmt.Errorf(format, args...), hint)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return refuse("name the pod that replaces it", "the pod is being deleted")
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return refuse("name a pod that runs", "the pod has finished (%s)", pod.Status.Phase)
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return refuse("run it as an ordinary pod, for example of a DaemonSet",
			"this is a static pod: it belongs to its node, and the API server cannot change it")
	case windows(pod, node):
		return refuse("only pods on Linux nodes can have a gateway", "this is a Windows pod")
	case pod.Spec.HostNetwork:
		return refuse("the traffic of hostNetwork pods is the node's own; encrypt that at node level",
			"the pod uses the node's network (hostNetwork)")
	case pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers:
		return refuse("remove hostUsers: false from the pod's template",
			"the pod has a user namespace (hostUsers: false), from which no eBPF program can be loaded")
	case sandbox(pod) != "":
		return refuse("use a runtime class that runs containers on the node's kernel",
			"the pod's runtime class %q is a sandbox (%s) without the node's kernel", *pod.Spec.RuntimeClassName, sandbox(pod))
	case virtualNode(node) != "":
		return refuse("schedule the pod to an ordinary node", "node %q is %s, which runs no privileged containers",
			node.Name, virtualNode(node))
	case pod.Status.Phase != corev1.PodRunning:
		return refuse("wait for it: 'kubectl wait --for=condition=Ready pod/"+pod.Name+" -n "+pod.Namespace+"'",
			"the pod does not run yet (%s)", phaseWord(pod))
	case len(PodIPs(pod)) == 0:
		return refuse("look at 'kubectl describe pod "+pod.Name+" -n "+pod.Namespace+"'", "the pod has no address yet")
	}
	name, port := declares(pod, api.PeerPort, api.CapturePort, api.InbandPort)
	if name != "" {
		return refuse("let the application listen on another port",
			"container %s listens on port %d, which the gateway needs", name, port)
	}
	return nil
}

// declares returns the container of pod that declares one of the TCP ports, and the
// port, or no name if none does.
func declares(pod *corev1.Pod, ports ...uint16) (string, uint16) {
	for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, declared := range container.Ports {
			port := uint16(declared.ContainerPort)
			if (declared.Protocol == corev1.ProtocolTCP || declared.Protocol == "") && slices.Contains(ports, port) {
				return container.Name, port
			}
		}
	}
	return "", 0
}

// checkMetricsPort reports that pod has another use for the port of its metrics, as
// far as its containers declare their ports.
func (in *Injector) checkMetricsPort(pod *corev1.Pod) error {
	if in.Options.MetricsAddr == "" {
		return nil
	}
	addr, err := api.ParseMetricsAddr(in.Options.MetricsAddr)
	if err != nil {
		return err
	}
	if name, port := declares(pod, addr.Port()); name != "" {
		return api.WithHint(fmt.Errorf("container %s listens on port %d, at which metrics are to be served", name, port),
			"give another port to --metrics-addr")
	}
	return nil
}

func phaseWord(pod *corev1.Pod) string {
	if pod.Status.Phase == "" {
		return string(corev1.PodPending)
	}
	return string(pod.Status.Phase)
}

func windows(pod *corev1.Pod, node *corev1.Node) bool {
	return pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows ||
		pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows) ||
		node != nil && node.Labels[corev1.LabelOSStable] == string(corev1.Windows)
}

// sandbox names the sandboxed runtime that pod's runtime class stands for, as
// far as the customary names of such classes tell.
func sandbox(pod *corev1.Pod) string {
	if pod.Spec.RuntimeClassName == nil {
		return ""
	}
	class := strings.ToLower(*pod.Spec.RuntimeClassName)
	switch {
	case strings.Contains(class, "gvisor"), strings.Contains(class, "runsc"):
		return "gVisor"
	case strings.Contains(class, "kata"):
		return "Kata Containers"
	}
	return ""
}

// virtualNode says what node is if it is no machine with a kubelet.
func virtualNode(node *corev1.Node) string {
	switch {
	case node == nil:
		return ""
	case node.Labels["eks.amazonaws.com/compute-type"] == "fargate":
		return "AWS Fargate"
	case node.Labels["type"] == "virtual-kubelet",
		slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "virtual-kubelet.io/provider" }):
		return "a virtual node"
	}
	return ""
}

// The API server's words for a refusal by an admission webhook or policy.
var (
	webhookDenied = regexp.MustCompile(`admission webhook "([^"]+)" denied the request`)
	policyDenied  = regexp.MustCompile(`ValidatingAdmissionPolicy '([^']+)'`)
)

// explainPatch adds advice to the refusal of the patch that adds the container.
func explainPatch(err error, namespace string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	switch webhook, policy := webhookDenied.FindStringSubmatch(text), policyDenied.FindStringSubmatch(text); {
	case strings.Contains(text, "violates PodSecurity"):
		return api.WithHint(err, fmt.Sprintf("the gateway needs a privileged container: "+
			"'kubectl label namespace %s pod-security.kubernetes.io/enforce=privileged --overwrite'", namespace))
	case webhook != nil:
		return api.WithHint(err, fmt.Sprintf("admission webhook %s must make an exception for the ephemeral container %s",
			webhook[1], ContainerName))
	case policy != nil:
		return api.WithHint(err, fmt.Sprintf("ValidatingAdmissionPolicy %s must make an exception for the ephemeral container %s",
			policy[1], ContainerName))
	case apierrors.IsForbidden(err):
		return api.WithHint(err, missing.To("patch", "pods/ephemeralcontainers", namespace))
	case apierrors.IsNotFound(err):
		return api.WithHint(err, "the pod is gone: name the one that replaces it")
	}
	return err
}

// ErrReplaced says that the pod that was asked for is not there any more.
var ErrReplaced = api.WithHint(errors.New("the pod has ended or was replaced meanwhile"), "name the pod that replaces it")
