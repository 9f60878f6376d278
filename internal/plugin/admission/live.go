package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// Resource is how the API names policies.
const Resource = "mutatingadmissionpolicies"

// ErrNotServed says that the API server does not know admission policies that change objects.
var ErrNotServed = api.WithHint(errors.New("the server does not serve MutatingAdmissionPolicy in admissionregistration.k8s.io/v1"),
	"Kubernetes 1.36 and later do; before, 'kubectl gateway watch' gives pods a gateway right after they have started")

// ErrForeign says that an object of the same name is not the plugin's.
var ErrForeign = errors.New("it is not of 'kubectl gateway admission'")

// CheckServed returns ErrNotServed if that is so.
func CheckServed(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, admissionv1.SchemeGroupVersion.String())
	switch {
	case apierrors.IsNotFound(err):
		return ErrNotServed
	case err != nil:
		return fmt.Errorf("asking what the server serves: %w", err)
	}
	if !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == Resource }) {
		return ErrNotServed
	}
	return nil
}

// Objects are the policy and its binding, nil if there is none.
type Objects struct {
	Policy  *admissionv1.MutatingAdmissionPolicy
	Binding *admissionv1.MutatingAdmissionPolicyBinding
}

// Wanted returns the objects for o.
func Wanted(o Options) (Objects, error) {
	policy, err := Policy(o)
	return Objects{policy, Binding()}, err
}

// List returns the objects that there are.
func (o Objects) List() []any {
	var list []any
	if o.Policy != nil {
		list = append(list, o.Policy)
	}
	if o.Binding != nil {
		list = append(list, o.Binding)
	}
	return list
}

// Read returns the objects in the cluster.
func Read(ctx context.Context, client kubernetes.Interface) (o Objects, err error) {
	if err := CheckServed(ctx, client); err != nil {
		return o, err
	}
	admission := client.AdmissionregistrationV1()
	if o.Policy, err = found(admission.MutatingAdmissionPolicies().Get(ctx, Name, metav1.GetOptions{})); err != nil {
		return o, fmt.Errorf("reading mutatingadmissionpolicy/%s: %w", Name, err)
	}
	if o.Binding, err = found(admission.MutatingAdmissionPolicyBindings().Get(ctx, Name, metav1.GetOptions{})); err != nil {
		return o, fmt.Errorf("reading mutatingadmissionpolicybinding/%s: %w", Name, err)
	}
	if o.Policy != nil {
		o.Policy.TypeMeta = Binding().TypeMeta
		o.Policy.Kind = "MutatingAdmissionPolicy"
	}
	if o.Binding != nil {
		o.Binding.TypeMeta = Binding().TypeMeta
	}
	return o, nil
}

// found returns nil for an object that does not exist.
func found[T any](object *T, err error) (*T, error) {
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return object, nil
}

// Change says what is done about an object.
type Change string

const (
	Created   Change = "created"
	Updated   Change = "configured"
	Unchanged Change = "unchanged"
	Deleted   Change = "deleted"
	Absent    Change = "not found"
)

// Done is what was done, or in a dry run would be.
type Done struct{ Policy, Binding Change }

// own reports whether an object was made by this plugin.
func own(object metav1.Object) bool {
	return object.GetLabels()[installed.LabelManagedBy] == installed.ManagedBy
}

// checkOwn refuses to touch what others have made.
func (o Objects) checkOwn() error {
	hint := "look at it, and delete or rename it: 'kubectl get mutatingadmissionpolicies,mutatingadmissionpolicybindings'"
	if o.Policy != nil && !own(o.Policy) {
		return api.WithHint(fmt.Errorf("there is a mutatingadmissionpolicy/%s already: %w", Name, ErrForeign), hint)
	}
	if o.Binding != nil && !own(o.Binding) {
		return api.WithHint(fmt.Errorf("there is a mutatingadmissionpolicybinding/%s already: %w", Name, ErrForeign), hint)
	}
	return nil
}

// merge puts what is wanted into the live objects: what others have added to their metadata stays. It says
// what that changes.
func merge(live, wanted Objects) (Objects, Done) {
	done := Done{Unchanged, Unchanged}
	if live.Policy == nil {
		live.Policy, done.Policy = wanted.Policy, Created
	} else if !equality.Semantic.DeepEqual(live.Policy.Spec, wanted.Policy.Spec) {
		live.Policy, done.Policy = live.Policy.DeepCopy(), Updated
		live.Policy.Spec = wanted.Policy.Spec
	}
	if live.Binding == nil {
		live.Binding, done.Binding = wanted.Binding, Created
	} else if !equality.Semantic.DeepEqual(live.Binding.Spec, wanted.Binding.Spec) {
		live.Binding, done.Binding = live.Binding.DeepCopy(), Updated
		live.Binding.Spec = wanted.Binding.Spec
	}
	return live, done
}

// Install brings the objects in the cluster to what is wanted, the policy first: the binding puts it into
// force. A dry run of the server changes nothing, one of the client asks it for nothing but the present objects.
func Install(ctx context.Context, client kubernetes.Interface, wanted Objects, dryRun installed.DryRun) (Objects, Done, error) {
	live, err := Read(ctx, client)
	if err != nil {
		return live, Done{}, err
	}
	if err := live.checkOwn(); err != nil {
		return live, Done{}, err
	}
	next, done := merge(live, wanted)
	if dryRun == installed.DryRunClient {
		return next, done, nil
	}
	var tries []string
	if dryRun == installed.DryRunServer {
		tries = []string{metav1.DryRunAll}
	}
	create, update := metav1.CreateOptions{FieldManager: installed.ManagedBy, DryRun: tries}, metav1.UpdateOptions{FieldManager: installed.ManagedBy, DryRun: tries}
	policies, bindings := client.AdmissionregistrationV1().MutatingAdmissionPolicies(), client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	switch done.Policy {
	case Created:
		_, err = policies.Create(ctx, next.Policy, create)
	case Updated:
		_, err = policies.Update(ctx, next.Policy, update)
	}
	if err != nil {
		return next, Done{}, fmt.Errorf("writing mutatingadmissionpolicy/%s: %w", Name, err)
	}
	switch done.Binding {
	case Created:
		_, err = bindings.Create(ctx, next.Binding, create)
	case Updated:
		_, err = bindings.Update(ctx, next.Binding, update)
	}
	if err != nil {
		return next, Done{Policy: done.Policy}, fmt.Errorf("writing mutatingadmissionpolicybinding/%s: %w", Name, err)
	}
	return next, done, nil
}

// Remove deletes the objects, the binding first. Pods keep the gateways that they have.
func Remove(ctx context.Context, client kubernetes.Interface, dryRun installed.DryRun) (Done, error) {
	done := Done{Absent, Absent}
	live, err := Read(ctx, client)
	if err == nil {
		err = live.checkOwn()
	}
	if err != nil {
		return done, err
	}
	var options metav1.DeleteOptions
	if dryRun == installed.DryRunServer {
		options.DryRun = []string{metav1.DryRunAll}
	}
	remove := func(exists bool, to *Change, what string, call func() error) error {
		if !exists {
			return nil
		}
		if dryRun != installed.DryRunClient {
			if err := call(); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("deleting %s/%s: %w", what, Name, err)
			}
		}
		*to = Deleted
		return nil
	}
	admission := client.AdmissionregistrationV1()
	if err := remove(live.Binding != nil, &done.Binding, "mutatingadmissionpolicybinding", func() error {
		return admission.MutatingAdmissionPolicyBindings().Delete(ctx, Name, options)
	}); err != nil {
		return done, err
	}
	return done, remove(live.Policy != nil, &done.Policy, "mutatingadmissionpolicy", func() error {
		return admission.MutatingAdmissionPolicies().Delete(ctx, Name, options)
	})
}
