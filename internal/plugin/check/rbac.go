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
)

// grant returns the command that lets user do in namespace what verbs need.
func grant(role string, verbs []string, namespace, user string) (string, error) {
	rules := map[scope][]rbacv1.PolicyRule{}
	for _, verb := range verbs {
		for _, p := range needs(verb) {
			rules[p.scope] = addRule(rules[p.scope], p)
			if p.subresource == "exec" {
				// The stream is opened with get where it is a WebSocket.
				p.verb = "get"
				rules[p.scope] = addRule(rules[p.scope], p)
			}
		}
	}
	// A binding of each user, so that what one was granted does not take it from
	// another.
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(user))
	binding := fmt.Sprintf("%s-%08x", role, sum.Sum32())
	subjects := []rbacv1.Subject{subject(user)}

	var objects []any
	for _, place := range []struct {
		scope     scope
		namespace string
	}{{inNamespace, namespace}, {inSystem, authority.Namespace}} {
		if len(rules[place.scope]) == 0 {
			continue
		}
		name, bound := role, binding
		if place.scope == inSystem {
			name, bound = role+"-trust", binding+"-trust"
		}
		objects = append(objects,
			rbacv1.Role{TypeMeta: rbacType("Role"), ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: place.namespace}, Rules: rules[place.scope]},
			rbacv1.RoleBinding{TypeMeta: rbacType("RoleBinding"), ObjectMeta: metav1.ObjectMeta{Name: bound, Namespace: place.namespace},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: subjects})
	}
	if len(rules[everywhere]) > 0 {
		objects = append(objects,
			rbacv1.ClusterRole{TypeMeta: rbacType("ClusterRole"), ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: rules[everywhere]},
			rbacv1.ClusterRoleBinding{TypeMeta: rbacType("ClusterRoleBinding"), ObjectMeta: metav1.ObjectMeta{Name: binding},
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: subjects})
	}
	return apply(objects...)
}

func rbacType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
}

// addRule adds p to the rule that differs from it in verbs alone.
func addRule(rules []rbacv1.PolicyRule, p permission) []rbacv1.PolicyRule {
	resource := p.resource
	if p.subresource != "" {
		resource += "/" + p.subresource
	}
	var names []string
	if p.name != "" {
		names = []string{p.name}
	}
	for i := range rules {
		r := &rules[i]
		if r.APIGroups[0] == p.group && r.Resources[0] == resource && slices.Equal(r.ResourceNames, names) {
			if !slices.Contains(r.Verbs, p.verb) {
				r.Verbs = append(r.Verbs, p.verb)
			}
			return rules
		}
	}
	return append(rules, rbacv1.PolicyRule{APIGroups: []string{p.group}, Resources: []string{resource}, ResourceNames: names, Verbs: []string{p.verb}})
}

// subject is who the server calls user.
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
	// Quoted, so that the shell leaves the text as it is.
	return "kubectl apply -f - <<'EOF'\n" + strings.Join(documents, "---\n") + "EOF", nil
}
