package rights

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/authority"
)

const page = "../../../docs/OPERATIONS.md"

func readPage(t *testing.T) string {
	t.Helper()
	text := must.Get(os.ReadFile(page))(t)
	return string(text)
}

var yamlBlock = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")

// documentedRoles returns what the roles of the documentation grant, by their names.
func documentedRoles(t *testing.T) map[string][]string {
	t.Helper()
	roles := map[string][]string{}
	for _, match := range yamlBlock.FindAllStringSubmatch(readPage(t), -1) {
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
				t.Errorf("%s %s of %s is not a role, or its namespace is wrong", role.Kind, role.Name, role.APIVersion)
			}
			for _, rule := range role.Rules {
				for _, group := range rule.APIGroups {
					for _, resource := range rule.Resources {
						for _, verb := range rule.Verbs {
							roles[role.Name] = append(roles[role.Name], grantOf(role.Namespace, verb, group, resource, rule.ResourceNames...)...)
						}
					}
				}
			}
			slices.Sort(roles[role.Name])
		}
	}
	return roles
}

// grantOf writes what a rule grants, a line for each name.
func grantOf(namespace, verb, group, resource string, names ...string) []string {
	if len(names) == 0 {
		names = []string{"*"}
	}
	var list []string
	for _, name := range names {
		list = append(list, fmt.Sprintf("%q: %s %s/%s %s", namespace, verb, group, resource, name))
	}
	return list
}

// TestDocumentedRoles compares the roles of the documentation with the table: they grant
// what the verbs need and nothing else.
func TestDocumentedRoles(t *testing.T) {
	// The namespace "" is all of the cluster.
	grants := func(namespace string, list []Right, scopes ...Scope) []string {
		var all []string
		for _, r := range list {
			if !slices.Contains(scopes, r.Scope) {
				continue
			}
			resource := strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/")
			names := slices.DeleteFunc([]string{r.Name}, func(name string) bool { return name == "" })
			all = append(all, grantOf(namespace, r.Verb, r.Group, resource, names...)...)
			if resource == "pods/exec" || resource == "pods/portforward" {
				// The stream is opened with get where it is a WebSocket.
				all = append(all, grantOf(namespace, "get", r.Group, resource)...)
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}
	want := map[string][]string{
		"kubectl-gateway-enable":         grants("shop", Of(Enable), Namespace),
		"kubectl-gateway-secrets":        grants("shop", Of(Secrets), Namespace),
		"kubectl-gateway-trust":          grants(authority.Namespace, Of(Enable, Rotate), System),
		"kubectl-gateway-survey":         grants("", Of(Enable, Endpoints, Servers), Cluster, AllNamespaces),
		"kubectl-gateway-status":         grants("shop", Of(Status), Namespace),
		"kubectl-gateway-tail":           grants("shop", Of(Tail), Namespace),
		"kubectl-gateway-disable":        grants("shop", Of(Disable), Namespace),
		"kubectl-gateway-rotate":         grants("shop", Of(Rotate), Namespace),
		"kubectl-gateway-init-ca":        grants(authority.Namespace, Of(InitCA), System),
		"kubectl-gateway-authority":      grants(authority.Namespace, Of(Copy), System),
		"kubectl-gateway-rotate-ca":      grants("", Of(RotateCA, Revoke), AllNamespaces),
		"kubectl-gateway-revoke":         grants(authority.Namespace, Of(Revoke), System),
		"kubectl-gateway-watch":          grants("", Of(Watch, Enable, Endpoints, Servers, Announce), Namespace, Cluster, AllNamespaces),
		"kubectl-gateway-annotations":    grants("", Of(Annotations), Namespace, Cluster),
		"kubectl-gateway-announce":       grants("shop", Of(Announce), Namespace),
		"kubectl-gateway-signer":         grants("shop", Of(Requests, CSRs), Namespace),
		"kubectl-gateway-signer-cluster": grants("", Of(Requests, Follow), Cluster),
		"kubectl-gateway-csrs":           grants("", Of(CSRs), Cluster),
		"kubectl-gateway-follow":         grants(authority.Namespace, Of(Follow), System),
		"kubectl-gateway-sign":           grants("", Of(Sign), Cluster, AllNamespaces),
		"kubectl-gateway-admission":      grants("", Of(Admission), Cluster),
		"kubectl-gateway-workloads":      grants("shop", Of(Workloads), Namespace),
	}
	expect.Equal(t, "what the roles of "+page+" grant", want, documentedRoles(t))
}

// TestDocumentedTable compares the table of the documentation with that of the program.
// With -update it writes it.
func TestDocumentedTable(t *testing.T) {
	var table strings.Builder
	table.WriteString("| verb | asks for | what for | unless |\n| --- | --- | --- | --- |\n")
	for _, n := range Table() {
		resource := n.Resource
		if n.Group != "" {
			resource += " of " + n.Group
		}
		where := map[Scope]string{Namespace: "", System: " in " + authority.Namespace, AllNamespaces: " of all namespaces", Cluster: ""}[n.Scope]
		names := strings.Join(n.Names, ", ")
		if names != "" {
			names = " " + names
		}
		fmt.Fprintf(&table, "| `%s` | %s %s%s%s | %s | %s |\n", n.Use, strings.ReplaceAll(n.Verbs, " ", ", "), resource, names, where, n.Why, n.Unless)
	}
	const begin, end = "<!-- rights: written by make docs -->\n", "<!-- end of rights -->\n"
	text := readPage(t)
	before, rest, found := strings.Cut(text, begin)
	got, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no place for the table", page)
	}
	if golden.Updating() {
		must.Do(t, os.WriteFile(page, []byte(before+begin+table.String()+end+after), 0o644))
		return
	}
	expect.Equal(t, page+", which 'make docs' writes", table.String(), got)
}

func TestTable(t *testing.T) {
	seen := map[Right]map[Use]bool{}
	for _, n := range Table() {
		if n.Use == "" || n.Why == "" || len(n.rights()) == 0 || strings.Contains(n.Verbs+n.Group+n.Resource, "*") {
			t.Errorf("%+v", n)
		}
		for _, r := range n.rights() {
			if seen[r] == nil {
				seen[r] = map[Use]bool{}
			}
			if seen[r][n.Use] {
				t.Errorf("%s needs %s twice", n.Use, r)
			}
			seen[r][n.Use] = true
		}
	}
}

func TestHint(t *testing.T) {
	for words, want := range map[string]string{
		`listing: pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "demo"`:                          "ask for a role that may list pods in namespace demo; 'kubectl auth can-i list pods -n demo' tells whether you may",
		`pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope`:                                      "ask for a role that may list pods in all namespaces; 'kubectl auth can-i list pods -A' tells whether you may",
		`nodes is forbidden: User "system:serviceaccount:a:b" cannot list resource "nodes" in API group "" at the cluster scope: no RBAC`:      "ask for a role that may list nodes; 'kubectl auth can-i list nodes' tells whether you may",
		`pods "g" is forbidden: User "jane" cannot create resource "pods/exec" in API group "" in the namespace "demo"`:                        "ask for a role that may create pods/exec in namespace demo; 'kubectl auth can-i create pods --subresource=exec -n demo' tells whether you may",
		`deployments.apps "web" is forbidden: User "jane" cannot get resource "deployments/scale" in API group "apps" in the namespace "demo"`: "ask for a role that may get deployments.apps/scale in namespace demo; 'kubectl auth can-i get deployments.apps --subresource=scale -n demo' tells whether you may",
		`forbidden: User "system:anonymous" cannot get path "/version"`:                                                                        "ask for a role that may get /version; 'kubectl auth can-i get /version' tells whether you may",
		`pods "a" is forbidden: violates PodSecurity "baseline:latest": privileged`:                                                            "",
		`User "jane" cannot get path "/x' && evil '"`:                                                                                          "",
		`pods is forbidden: User "x" cannot list resource "pods; evil" in API group "" in the namespace "demo"`:                                "",
		"": "",
	} {
		expect.Equal(t, words, want, Hint(words))
	}
	expect.Equal(t, "hint", "ask for a role that may get pods/log in namespace demo; 'kubectl auth can-i get pods --subresource=log -n demo' tells whether you may", To("get", "pods/log", "demo"))
	expect.Equal(t, "hint", "ask for a role that may list nodes; 'kubectl auth can-i list nodes' tells whether you may", To("list", "nodes", ""))
}

func TestPreflightNamesAllThatIsMissing(t *testing.T) {
	type refusal struct{ Error, Hint string }
	const ask = "ask for a role that allows it"
	for _, c := range []struct {
		denied []string
		uses   []Use
		want   refusal
	}{
		{nil, []Use{Enable, Secrets}, refusal{}},
		{[]string{"patch pods/ephemeralcontainers", "delete secrets"}, []Use{Enable, Secrets},
			refusal{`"shop": patch pods/ephemeralcontainers, delete secrets`, ask + "; the built-in roles edit and admin lack pods/ephemeralcontainers"}},
		{[]string{"delete secrets"}, []Use{Enable, Secrets}, refusal{`"shop": delete secrets`, "--delivery=csr needs no Secrets, or " + ask}},
		// Without Secrets the rights to them do not matter.
		{[]string{"delete secrets"}, []Use{Enable}, refusal{}},
		// What is needed in some cases alone is no reason to refuse.
		{[]string{"patch pods/ephemeralcontainers", "list secrets"}, []Use{Disable, Secrets}, refusal{}},
		{[]string{"create pods/exec", "watch pods"}, []Use{Disable}, refusal{`"shop": watch pods, create pods/exec`, ask}},
	} {
		cluster := fakecluster.New(t)
		for _, right := range c.denied {
			cluster.Denied[right] = true
		}
		var got refusal
		if err := Preflight(t.Context(), cluster, "shop", c.uses...); err != nil {
			got = refusal{strings.TrimPrefix(err.Error(), "you may not do this in namespace "), api.Hint(err)}
		}
		expect.Equal(t, fmt.Sprintf("%q, %q", c.denied, c.uses), c.want, got)
	}
}

// TestExampleOfSigning: the example grants what signing needs, and nothing else.
func TestExampleOfSigning(t *testing.T) {
	text := must.Get(os.ReadFile("../../../examples/watch-sign.yaml"))(t)
	document, binding, _ := strings.Cut(string(text), "---\n")
	var role rbacv1.ClusterRole
	must.Do(t, yaml.UnmarshalStrict([]byte(document), &role))
	var bound rbacv1.ClusterRoleBinding
	must.Do(t, yaml.UnmarshalStrict([]byte(binding), &bound))
	if bound.RoleRef.Name != role.Name || len(bound.Subjects) != 1 || bound.Subjects[0].Name != "kube-gateway-watch" || bound.Subjects[0].Namespace != "kube-gateway" {
		t.Errorf("%+v", bound)
	}
	var got, want []string
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				got = append(got, grantOf("", verb, rule.APIGroups[0], resource, rule.ResourceNames...)...)
			}
		}
	}
	for _, r := range Signing("", exampleSigner, exampleBundle) {
		names := slices.DeleteFunc([]string{r.Name}, func(name string) bool { return name == "" })
		want = append(want, grantOf("", r.Verb, r.Group, strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/"), names...)...)
	}
	slices.Sort(got)
	slices.Sort(want)
	expect.Equal(t, "grants", want, got)
}

// TestPreflightSigning names what is missing, of the very signer, and in the namespace alone if there is one.
func TestPreflightSigning(t *testing.T) {
	c := fakecluster.New(t)
	must.Do(t, PreflightSigning(t.Context(), c, "", "example.com/own", "example.com:own:x"))
	c.Denied["sign signers"], c.Denied["update podcertificaterequests/status"] = true, true
	err := PreflightSigning(t.Context(), c, "", "example.com/own", "example.com:own:x")
	expect.Refusal(t, "all", err, nil, "update podcertificaterequests/status.certificates.k8s.io in all namespaces, sign signers.certificates.k8s.io example.com/own of the cluster", "kubectl-gateway-sign")
	err = PreflightSigning(t.Context(), c, "shop", "example.com/own", "example.com:own:x")
	expect.Refusal(t, "shop", err, nil, "update podcertificaterequests/status.certificates.k8s.io, sign signers", "kubectl-gateway-sign")
	if own := Signing("", "example.com/own", "bundle"); !slices.ContainsFunc(own, func(r Right) bool { return r.Verb == "attest" && r.Name == "example.com/own" }) ||
		!slices.ContainsFunc(own, func(r Right) bool { return r.Verb == "update" && r.Name == "bundle" }) {
		t.Errorf("%v", own)
	}
}
