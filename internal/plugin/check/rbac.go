package check

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// grant returns the command that grants user what uses need in namespace.
func grant(role string, uses []rights.Use, namespace, user string) (string, error) {
	rules := map[rights.Scope][]rbacv1.PolicyRule{}
	for _, r := range rights.Of(uses...) {
		if r.Scope == rights.AllNamespaces {
			r.Scope = rights.Cluster // a ClusterRole holds both
		}
		rules[r.Scope] = addRule(rules[r.Scope], r)
		if r.Subresource == "exec" || r.Subresource == "portforward" {
			// A WebSocket opens the stream with get.
			r.Verb = "get"
			rules[r.Scope] = addRule(rules[r.Scope], r)
		}
	}
	// Each user has a binding of its own: a grant to one must not replace that of
	// another.
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(user))
	binding := fmt.Sprintf("%s-%08x", role, sum.Sum32())
	// A ClusterRole, and its binding, differ in their kinds alone.
	var objects []any
	for _, place := range []struct {
		scope                   rights.Scope
		kind, namespace, suffix string
	}{{rights.Namespace, "Role", namespace, ""}, {rights.System, "Role", authority.Namespace, "-trust"}, {rights.Cluster, "ClusterRole", "", ""}} {
		if len(rules[place.scope]) == 0 {
			continue
		}
		name := role + place.suffix
		objects = append(objects,
			rbacv1.Role{TypeMeta: rbacType(place.kind), ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: place.namespace}, Rules: rules[place.scope]},
			rbacv1.RoleBinding{TypeMeta: rbacType(place.kind + "Binding"), ObjectMeta: metav1.ObjectMeta{Name: binding + place.suffix, Namespace: place.namespace},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: place.kind, Name: name}, Subjects: []rbacv1.Subject{subject(user)}})
	}
	return apply(objects...)
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}

// addRule adds r to the rule that differs in verbs only, or as a rule of its own.
func addRule(rules []rbacv1.PolicyRule, r rights.Right) []rbacv1.PolicyRule {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	var names []string
	if r.Name != "" {
		names = []string{r.Name}
	}
	for i := range rules {
		rule := &rules[i]
		if rule.APIGroups[0] == r.Group && rule.Resources[0] == resource && slices.Equal(rule.ResourceNames, names) {
			if !slices.Contains(rule.Verbs, r.Verb) {
				rule.Verbs = append(rule.Verbs, r.Verb)
			}
			return rules
		}
	}
	return append(rules, rbacv1.PolicyRule{APIGroups: []string{r.Group}, Resources: []string{resource}, ResourceNames: names, Verbs: []string{r.Verb}})
}

// subject is the subject of a binding for a user as the server names it.
func subject(user string) rbacv1.Subject {
	if rest, found := strings.CutPrefix(user, "system:serviceaccount:"); found {
		if namespace, name, found := strings.Cut(rest, ":"); found {
			return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
		}
	}
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}
}

// apply returns the shell command that applies objects.
func apply(objects ...any) (string, error) {
	var documents []string
	for _, object := range objects {
		text, err := yaml.Marshal(object)
		if err != nil {
			return "", fmt.Errorf("encoding as YAML: %w", err)
		}
		documents = append(documents, string(text))
	}
	// The quotes keep the shell from expanding the text.
	return "kubectl apply -f - <<'EOF'\n" + strings.Join(documents, "---\n") + "EOF", nil
}
