package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Metrics asks the gateway for its metrics. Their names are names of metrics and
// labels.
func (g *Conn) Metrics(ctx context.Context) (*api.Metrics, error) {
	metrics, err := ask(ctx, g, nil, checkMetrics, "metrics")
	if err != nil {
		return nil, newer(err, "its gateway is too old to have metrics")
	}
	return metrics, nil
}

func checkMetrics(metrics *api.Metrics) error {
	if len(metrics.Families) == 0 {
		return errors.New("its answer has no metrics")
	}
	samples := 0
	for _, f := range metrics.Families {
		if !isMetricName(f.Name) || f.Type != "counter" && f.Type != "gauge" {
			return fmt.Errorf("its answer has a metric of name %.100q and type %.100q", f.Name, f.Type)
		}
		for _, s := range f.Samples {
			for label := range s.Labels {
				if !isMetricName(label) {
					return fmt.Errorf("its answer has a label of name %.100q", label)
				}
			}
		}
		samples += len(f.Samples)
	}
	if samples > api.MaxMetricSamples {
		return fmt.Errorf("its answer has %d samples, which is more than %d", samples, api.MaxMetricSamples)
	}
	return nil
}

// isMetricName reports whether name is one that needs no quotes in Prometheus' text
// format. The gateway has no others.
func isMetricName(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != ""
}
