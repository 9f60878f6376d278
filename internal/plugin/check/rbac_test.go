package check

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/rights"
)

// The proposed roles hold what the verbs need, and no role is taken from one user by
// the grant to another.
func TestGrant(t *testing.T) {
	for role, uses := range bundles() {
		command := must.Get(grant(role, uses, "shop", "jane"))(t)
		var rules []rbacv1.PolicyRule
		for _, document := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(command, "kubectl apply -f - <<'EOF'\n"), "EOF"), "---\n") {
			var object rbacv1.ClusterRole
			must.Do(t, yaml.Unmarshal([]byte(document), &object))
			rules = append(rules, object.Rules...)
		}
		for _, right := range rights.Of(uses...) {
			resource := strings.TrimSuffix(right.Resource+"/"+right.Subresource, "/")
			if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
				return slices.Contains(r.Verbs, right.Verb) && slices.Contains(r.Resources, resource) && slices.Contains(r.APIGroups, right.Group) &&
					(right.Name == "" || slices.Contains(r.ResourceNames, right.Name))
			}) {
				t.Errorf("%s lacks %s", role, right)
			}
		}
		for _, r := range rules {
			if slices.Contains(slices.Concat(r.Verbs, r.Resources, r.APIGroups), "*") {
				t.Errorf("%s grants everything: %+v", role, r)
			}
		}
		other := must.Get(grant(role, uses, "shop", "joe"))(t)
		if names(command) == names(other) {
			t.Errorf("%s: the bindings of two users have the same names", role)
		}
	}
}

func names(command string) string {
	var list []string
	for text := range strings.SplitSeq(command, "\n") {
		// Those of the subjects differ anyway.
		if strings.HasPrefix(text, "  name: ") && text != "  name: jane" && text != "  name: joe" {
			list = append(list, text)
		}
	}
	return strings.Join(list, "\n")
}

// A name of a user cannot end the here-document early.
func FuzzGrantIsOneDocument(f *testing.F) {
	f.Add("jane\nEOF\nrm -rf ~\n")
	f.Add("EOF")
	f.Fuzz(func(t *testing.T, user string) {
		command, err := grant("kubectl-gateway", []rights.Use{rights.Enable}, "shop", user)
		if err != nil {
			return // a name that is refused gets no command
		}
		for i, text := range strings.Split(command, "\n") {
			if text == "EOF" && i != strings.Count(command, "\n") {
				t.Fatalf("line %d of %q", i, command)
			}
		}
	})
}
