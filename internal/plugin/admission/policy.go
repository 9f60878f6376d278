package admission

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/declared"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// Name is the name of the policy and of its binding.
const Name = "kube-gateway"

// WatchNamespace is where watch runs in the cluster, by the example. Its pods cannot wait for themselves.
const WatchNamespace = "kube-gateway"

// DefaultStartupTimeout is how long permissive gateways keep the containers of a pod waiting.
const DefaultStartupTimeout = time.Minute

// Options say what gateways new pods get.
type Options struct {
	Image      string
	PullPolicy corev1.PullPolicy
	// Config has the settings of the gateways, and the trust domain.
	Config api.Config
	// Roots are the fingerprints of the authorities.
	Roots []string
	// StartupTimeout is how long a permissive gateway keeps the containers of its pod waiting. A strict one
	// does so until it serves.
	StartupTimeout time.Duration
	Resources      corev1.ResourceRequirements
	// Exempt are namespaces besides those of Kubernetes and of watch whose pods get none.
	Exempt []string
	// Loosen says whose annotations may make a gateway permissive that is strict by Config. Nobody's do if it is empty. To make
	// it strict, all may.
	Loosen declared.From
}

// exempt returns the namespaces whose pods get no gateway.
func (o *Options) exempt() []string {
	return slices.Compact(slices.Sorted(slices.Values(append([]string{authority.Namespace, WatchNamespace}, o.Exempt...))))
}

// sidecar describes the container that pods get in a mode.
func (o *Options) sidecar(mode api.Mode) (*corev1.Container, error) {
	config := o.Config
	config.Mode = mode
	config.Version, config.Wire = api.ConfigVersion, config.Wire.OrDefault()
	config.OnFailure = cmp.Or(config.OnFailure, config.Mode.OnFailure())
	// As with gateways that watch adds: they go with the annotation.
	config.Watched = true
	sample := config
	sample.Sidecar, sample.PodIPs = true, []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	sample.Pod = api.PodRef{Namespace: "some", Name: "some", UID: "some"}
	if err := sample.Validate(); err != nil {
		return nil, fmt.Errorf("checking the gateways' configuration: %w", err)
	}
	var passAfter time.Duration
	if config.Mode != api.Strict {
		if passAfter = o.StartupTimeout; passAfter <= 0 {
			return nil, errors.New("a permissive gateway cannot keep its pod waiting for good")
		}
	}
	c, err := installed.Sidecar(o.Image, o.PullPolicy, &config, o.Roots, passAfter)
	if err != nil {
		return nil, err
	}
	c.Resources = o.Resources
	return c, nil
}

// meta is that of both objects.
func meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: Name, Labels: map[string]string{installed.LabelManagedBy: installed.ManagedBy}}
}

// Variables of the policy's expressions.
const (
	// said is what the annotation of the pod says, or else that of its namespace.
	said = `has(object.metadata.annotations) && "` + api.Annotation + `" in object.metadata.annotations
  ? object.metadata.annotations["` + api.Annotation + `"]
  : has(namespaceObject.metadata.annotations) && "` + api.Annotation + `" in namespaceObject.metadata.annotations
  ? namespaceObject.metadata.annotations["` + api.Annotation + `"]
  : ""`
	// able is false for pods that can have no gateway, as survey.Refusal has them before there is a node.
	able = `!(has(object.spec.hostNetwork) && object.spec.hostNetwork) &&
!(has(object.spec.hostUsers) && !object.spec.hostUsers) &&
!(has(object.spec.os) && object.spec.os.name == "windows") &&
!(has(object.spec.nodeSelector) && "kubernetes.io/os" in object.spec.nodeSelector && object.spec.nodeSelector["kubernetes.io/os"] == "windows") &&
!(has(object.spec.runtimeClassName) && object.spec.runtimeClassName.lowerAscii().matches("gvisor|runsc|kata")) &&
!(has(object.metadata.annotations) && "kubernetes.io/config.mirror" in object.metadata.annotations)`
	// present is true behind the first call: the server calls again if others have changed the pod meanwhile.
	present = `has(object.spec.initContainers) &&
object.spec.initContainers.exists(c, c.name == "` + installed.ContainerName + `" && has(c.restartPolicy) && c.restartPolicy == "Always")`
)

// mutation is the expression that puts the container, as an expression, in front of all other init containers.
func mutation(container string) string {
	return `variables.said != "true" || !variables.able || variables.present ? [] :
  (has(object.spec.initContainers) ? [] : [JSONPatch{op: "add", path: "/spec/initContainers", value: []}]) +
  [JSONPatch{op: "add", path: "/spec/initContainers/0", value: ` + container + `}]`
}

// container returns the sidecar of pods, a celChoice where their annotations decide about the mode, and the variables by
// which they do.
func (o *Options) container() (any, []admissionv1.Variable, error) {
	strict, err := o.sidecar(api.Strict)
	if err != nil || o.alwaysStrict() {
		return strict, nil, err
	}
	permissive, err := o.sidecar(api.Permissive)
	return celChoice{strict, permissive}, []admissionv1.Variable{{Name: variableStrict, Expression: strictly(o.Config.Mode, o.Loosen)}}, err
}

// alwaysStrict reports whether no annotation changes the mode.
func (o *Options) alwaysStrict() bool {
	return o.Config.Mode == api.Strict && o.Loosen != declared.FromAll && o.Loosen != declared.FromNamespaces
}

// variableStrict tells the mode of the gateway.
const variableStrict = "strict"

// strictly is the expression by which a gateway is strict or not: as the annotation of the pod says, or else that of its
// namespace, or else mode. What cannot be read is strict, and so is what would loosen and does not count.
func strictly(mode api.Mode, loosen declared.From) string {
	var text strings.Builder
	for _, place := range []struct {
		object  string
		loosens bool
	}{
		{"object", loosen == declared.FromAll},
		{"namespaceObject", loosen == declared.FromAll || loosen == declared.FromNamespaces},
	} {
		annotations := place.object + ".metadata.annotations"
		said := `has(` + annotations + `) && "` + declared.AnnotationMode + `" in ` + annotations
		fmt.Fprintf(&text, "%s && %s[\"%s\"].trim() != \"%s\" ? true :\n", said, annotations, declared.AnnotationMode, api.Permissive)
		if place.loosens {
			fmt.Fprintf(&text, "%s ? false :\n", said)
		}
	}
	return text.String() + strconv.FormatBool(mode == api.Strict)
}

// Policy describes the policy that gives new pods a gateway. Defaults of the server are spelled out, so that it
// reads back as it is written.
func Policy(o Options) (*admissionv1.MutatingAdmissionPolicy, error) {
	container, variables, err := o.container()
	if err != nil {
		return nil, err
	}
	expression, err := celObject(container, celContainers, "  ")
	if err != nil {
		return nil, err
	}
	// Nothing is born in plaintext silently where plaintext is refused: then the pod is not created.
	onError := admissionv1.Ignore
	if o.Config.Mode == api.Strict {
		onError = admissionv1.Fail
	}
	return &admissionv1.MutatingAdmissionPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicy"},
		ObjectMeta: meta(),
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{
					Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn, Values: o.exempt(),
				}}},
				ObjectSelector: &metav1.LabelSelector{},
				MatchPolicy:    new(admissionv1.Equivalent),
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule: admissionv1.Rule{
						APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: new(admissionv1.AllScopes),
					},
				}}},
			},
			Variables: append([]admissionv1.Variable{
				{Name: "said", Expression: said}, {Name: "able", Expression: able}, {Name: "present", Expression: present},
			}, variables...),
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: mutation(expression)},
			}},
			FailurePolicy:      &onError,
			ReinvocationPolicy: admissionv1.IfNeededReinvocationPolicy,
		},
	}, nil
}

// Binding describes what puts the policy into force.
func Binding() *admissionv1.MutatingAdmissionPolicyBinding {
	return &admissionv1.MutatingAdmissionPolicyBinding{
		TypeMeta:   metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "MutatingAdmissionPolicyBinding"},
		ObjectMeta: meta(),
		Spec:       admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: Name},
	}
}

// Summary is what a policy in the cluster does, as far as it reads like one of ours.
type Summary struct {
	// Image and Mode are those of new gateways, empty if the policy does not tell.
	Image string
	Mode  api.Mode
	// Loosen says whose annotations may make permissive what is strict, as Options have it.
	Loosen declared.From
	// Exempt are the namespaces whose pods get none.
	Exempt []string
	// Refuses says that a pod is not created where the policy fails.
	Refuses bool
}

// Summarize reads a policy.
func Summarize(policy *admissionv1.MutatingAdmissionPolicy) Summary {
	s := Summary{Refuses: policy.Spec.FailurePolicy == nil || *policy.Spec.FailurePolicy == admissionv1.Fail}
	if m := policy.Spec.MatchConstraints; m != nil && m.NamespaceSelector != nil {
		for _, e := range m.NamespaceSelector.MatchExpressions {
			if e.Key == corev1.LabelMetadataName && e.Operator == metav1.LabelSelectorOpNotIn {
				s.Exempt = append(s.Exempt, e.Values...)
			}
		}
	}
	for _, variable := range policy.Spec.Variables {
		for _, mode := range []api.Mode{api.Strict, api.Permissive} {
			for _, loosen := range []declared.From{declared.FromNobody, declared.FromNamespaces, declared.FromAll} {
				if variable.Name == variableStrict && variable.Expression == strictly(mode, loosen) {
					s.Mode, s.Loosen = mode, loosen
				}
			}
		}
	}
	for _, m := range policy.Spec.Mutations {
		if m.JSONPatch == nil {
			continue
		}
		for line := range strings.Lines(m.JSONPatch.Expression) {
			if image, ok := strings.CutPrefix(strings.TrimSpace(line), `image: "`); ok {
				s.Image, _, _ = strings.Cut(image, `"`)
			}
			if _, mode, ok := strings.Cut(line, `\"mode\":\"`); ok && s.Mode == "" {
				mode, _, _ = strings.Cut(mode, `\"`)
				s.Mode = api.Mode(mode)
			}
		}
	}
	return s
}
