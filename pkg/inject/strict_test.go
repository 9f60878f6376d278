package inject

import (
	"context"
	"strings"
	"testing"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/lab/fakecluster"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/installed"
)

// TestStrictIsExplained: enabling a pod in strict mode says who is kept out, in a dry run
// as well; in permissive mode nobody is.
func TestStrictIsExplained(t *testing.T) {
	for name, test := range map[string]struct {
		mode   api.Mode
		dryRun installed.DryRun
		want   bool
	}{
		"strict":          {api.Strict, installed.DryRunNone, true},
		"strict, dry run": {api.Strict, installed.DryRunClient, true},
		"permissive":      {api.Permissive, installed.DryRunNone, false},
	} {
		pod := fakecluster.NewPod("p")
		pod.Annotations = map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090"}
		c := fakecluster.New(t, pod)
		in := newInjector(t, c)
		in.Gateways = gateways(func(_ context.Context, pod, _ string) (*api.Status, error) {
			return &api.Status{State: api.Ready, Mode: test.mode, Pod: api.PodRef{UID: "uid-" + pod}}, nil
		})
		in.Options.Mode, in.Options.DryRun, in.Options.Named = test.mode, test.dryRun, api.Coverage{}
		result := in.Enable(t.Context(), c.Pod("p"))
		if got := strings.Contains(strings.Join(result.Warnings, "\n"), "Prometheus scrapes it at port 9090"); result.Err != nil || got != test.want {
			t.Errorf("%s: %v, warnings %q", name, result.Err, result.Warnings)
		}
	}
}
