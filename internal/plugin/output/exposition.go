package output

import (
	"maps"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/lists"
	"github.com/kubectl-gateway/kubectl-gateway/internal/plugin/terminal"
)

// Exposition returns metrics in Prometheus' text format 0.0.4. Characters that could
// harm a terminal are escaped.
func Exposition(metrics *api.Metrics) string {
	harmless := &api.Metrics{Families: lists.Map(metrics.Families, func(f api.MetricFamily) api.MetricFamily {
		f.Help = terminal.Clean(f.Help)
		f.Samples = lists.Map(f.Samples, func(s api.MetricSample) api.MetricSample {
			s.Labels = maps.Clone(s.Labels)
			for name, value := range s.Labels {
				s.Labels[name] = terminal.Clean(value)
			}
			return s
		})
		return f
	})}
	return harmless.Exposition()
}
