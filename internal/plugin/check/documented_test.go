package check

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// documentedRoles reads the roles that the documentation proposes.
func documentedRoles(t *testing.T) map[string]rbacv1.ClusterRole {
	t.Helper()
	page, err := os.ReadFile("../../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]rbacv1.ClusterRole{}
	for _, match := range yamlBlock.FindAllStringSubmatch(string(page), -1) {
		for _, document := range strings.Split(match[1], "---\n") {
			// Both kinds of roles have the same fields, the aggregation rule apart.
			var role rbacv1.ClusterRole
			if err := yaml.UnmarshalStrict([]byte(document), &role); err != nil {
				if strings.Contains(document, "kind: NetworkPolicy") {
					continue
				}
				t.Fatalf("%v in:\n%s", err, document)
			}
			if role.APIVersion != rbacv1.SchemeGroupVersion.String() || (role.Kind == "Role") != (role.Namespace != "") {
				t.Errorf("%s %s of %s is no role, or its namespace is wrong", role.Kind, role.Name, role.APIVersion)
			}
			roles[role.Name] = role
		}
	}
	return roles
}

func allows(role rbacv1.ClusterRole, p permission) bool {
	switch p.scope {
	case inSystem:
		if role.Kind != "Role" || role.Namespace != authority.Namespace {
			return false
		}
	case everywhere:
		if role.Kind != "ClusterRole" {
			return false
		}
	}
	resource := p.resource
	if p.subresource != "" {
		resource += "/" + p.subresource
	}
	return slices.ContainsFunc(role.Rules, func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.APIGroups, p.group) && slices.Contains(r.Resources, resource) && slices.Contains(r.Verbs, p.verb) &&
			(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, p.name))
	})
}

// TestDocumentedRoles compares the roles of the documentation with what verbs do:
// each verb can be done with its roles, and none of these is as wide as a star.
func TestDocumentedRoles(t *testing.T) {
	roles := documentedRoles(t)
	for verb, names := range map[string][]string{
		"enable":  {"kubectl-gateway-enable", "kubectl-gateway-trust", "kubectl-gateway-survey"},
		"secret":  {"kubectl-gateway-secrets"},
		"status":  {"kubectl-gateway-status"},
		"tail":    {"kubectl-gateway-tail"},
		"disable": {"kubectl-gateway-disable"},
		"rotate":  {"kubectl-gateway-rotate", "kubectl-gateway-trust"},
		"watch":   {"kubectl-gateway-watch"},
	} {
		wanted := needs(verb)
		if verb == "watch" {
			names = append(names, "kubectl-gateway-trust")
			wanted = append(wanted, needs("enable")...)
		}
		if len(wanted) == 0 {
			t.Errorf("nothing is known about %s", verb)
		}
		for _, p := range wanted {
			if !slices.ContainsFunc(names, func(name string) bool { return allows(roles[name], p) }) {
				t.Errorf("%s needs to %s, and none of %q allows it", verb, p, names)
			}
		}
	}
	for name, role := range roles {
		for _, r := range role.Rules {
			if slices.Contains(r.Verbs, "*") || slices.Contains(r.Resources, "*") || slices.Contains(r.APIGroups, "*") {
				t.Errorf("%s has a star", name)
			}
			if slices.Contains(r.Resources, "pods/exec") && (!slices.Contains(r.Verbs, "get") || !slices.Contains(r.Verbs, "create")) {
				t.Errorf("%s lets some clients open no stream", name)
			}
		}
	}
	if len(roles) < 10 {
		t.Errorf("only %d roles were found", len(roles))
	}
}
