package rights

import "testing"

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
