package rights

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/expect"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
)

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
