package rights

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

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
		if got := Hint(words); got != want {
			t.Errorf("%s:\n%q, want\n%q", words, got, want)
		}
	}
	if got := To("get", "pods/log", "demo"); got != "ask for a role that may get pods/log in namespace demo; 'kubectl auth can-i get pods --subresource=log -n demo' tells whether you may" {
		t.Error(got)
	}
	if got := To("list", "nodes", ""); got != "ask for a role that may list nodes; 'kubectl auth can-i list nodes' tells whether you may" {
		t.Error(got)
	}
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
