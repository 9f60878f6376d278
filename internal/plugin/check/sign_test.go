package check

import (
	"bytes"
	"slices"
	"testing"

	"github.com/muesli/termenv"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/golden"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/must"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// serves says which kinds of certificates.k8s.io the server has.
func serves(resources ...string) func(*world) {
	return func(w *world) {
		list := &metav1.APIResourceList{GroupVersion: certificatesv1.SchemeGroupVersion.String()}
		for _, name := range resources {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
		}
		w.Resources = append(w.Resources, list)
	}
}

// TestSign prints what there is to say before a watch signs.
func TestSign(t *testing.T) {
	all := []string{"podcertificaterequests", "certificatesigningrequests", "clustertrustbundles"}
	var out bytes.Buffer
	for _, c := range []struct {
		name  string
		spoil []func(*world)
		bare  bool
	}{
		{name: "all is well", spoil: []func(*world){serves(all...)}},
		{name: "no authority", spoil: []func(*world){serves(all...)}, bare: true},
		{name: "an older server", spoil: []func(*world){serves(all[1])}},
		{name: "no requests at all"},
		{name: "two rights are missing", spoil: []func(*world){serves(all...), deny("approve signers"), deny("create clustertrustbundles")}},
	} {
		w := newWorld(t)
		if !c.bare {
			w.withAuthority(t, 0)
		}
		w.Sign = "example.com/kube-gateway"
		for _, spoil := range c.spoil {
			spoil(w)
		}
		report := must.Get(w.Run(t.Context(), 0))(t)
		report.Checks = slices.DeleteFunc(report.Checks, func(item Item) bool { return item.Category != Sign })
		for i := range report.Checks {
			if item := &report.Checks[i]; item.ID == "sign-key" && item.Result == OK {
				item.Detail = "" // a fingerprint
			}
		}
		out.WriteString("--- " + c.name + "\n")
		must.Do(t, report.Print(&out, terminal.New(&out, false, termenv.Ascii), PrintOptions{}))
	}
	golden.Check(t, "sign.golden", out.String())
	if items := must.Get(newWorld(t).Run(t.Context(), 0))(t).Checks; slices.ContainsFunc(items, func(item Item) bool { return item.Category == Sign }) {
		t.Error("a signer is looked at that nobody has named")
	}
}
