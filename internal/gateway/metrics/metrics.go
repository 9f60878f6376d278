// Package metrics turns a gateway's status into Prometheus metrics.
//
// Every metric is a value of api.Status, so that metrics and 'kubectl gateway status' cannot
// disagree, and is read on request. The number of samples is fixed: a label has one of a few
// words, or describes the gateway itself. Metrics without a value, such as the certificate of a
// gateway that waits for its first one, are left out instead of being zero.
//
// Numbers that are part of another, like in-band connections of the encrypted ones, are counters
// of their own and not a label of the whole: the gateway cannot read both at once, and a
// difference could decrease, which Prometheus would treat as a restart.
package metrics

import (
	"cmp"
	"io"
	"maps"
	"slices"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// Reduce returns the part of a status that is in its metrics. It is small for every cluster:
// without lists, and with empty texts where metrics only count them.
func Reduce(s *api.Status) *api.Status {
	reduced := &api.Status{
		Version: s.Version, FIPS140: s.FIPS140, State: s.State, StartedAt: s.StartedAt,
		Mode: s.Mode, OnFailure: s.OnFailure, Wire: s.Wire, Identity: s.Identity,
		Missing: make([]string, len(s.Missing)),
		Cert:    api.Certificate{NotBefore: s.Cert.NotBefore, NotAfter: s.Cert.NotAfter},
		Worker:  api.Worker{StartedAt: s.Worker.StartedAt, Restarts: s.Worker.Restarts},
		Memory:  s.Memory,
		Capture: api.Capture{CaptureCounts: s.Capture.CaptureCounts},
		Traffic: s.Traffic, Unencrypted: s.Unencrypted,
		Log: s.Log,
	}
	if e := s.Existing; e != nil {
		reduced.Existing = &api.ExistingConnections{Outbound: e.Outbound, Inbound: e.Inbound, Reset: e.Reset}
	}
	return reduced
}

// Write writes the metrics of a status in Prometheus' text exposition format 0.0.4.
func Write(w io.Writer, status *api.Status) error {
	_, err := io.WriteString(w, Read(status).Exposition())
	return err
}

// Read returns the metrics of a status, in the order of their names and labels.
func Read(status *api.Status) *api.Metrics {
	all := &api.Metrics{Families: []api.MetricFamily{}}
	for _, f := range families() {
		m := api.MetricFamily{Name: f.name(), Help: f.help, Type: string(f.kind)}
		f.read(status, func(value float64, labels ...string) {
			sample := api.MetricSample{Value: value}
			for i, label := range labels {
				if sample.Labels == nil {
					sample.Labels = map[string]string{}
				}
				sample.Labels[f.labels[i]] = label
			}
			m.Samples = append(m.Samples, sample)
		})
		if len(m.Samples) == 0 {
			continue
		}
		slices.SortStableFunc(m.Samples, func(a, b api.MetricSample) int { return slices.Compare(values(a), values(b)) })
		all.Families = append(all.Families, m)
	}
	slices.SortFunc(all.Families, func(a, b api.MetricFamily) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// values returns the values of a sample's labels, in the order of the labels' names.
func values(s api.MetricSample) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		all = append(all, s.Labels[name])
	}
	return all
}
