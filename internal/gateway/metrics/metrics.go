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
	"fmt"
	"io"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/kubectl-gateway/kubectl-gateway/internal/api"
)

// collector is a prometheus.Collector of one status.
type collector struct{ status *api.Status }

// Describe sends all metrics, including those that this status lacks.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families() {
		descs <- f.desc()
	}
}

func (c collector) Collect(metrics chan<- prometheus.Metric) {
	for _, f := range families() {
		desc := f.desc()
		f.read(c.status, func(value float64, labels ...string) {
			m, err := prometheus.NewConstMetric(desc, f.kind, value, labels...)
			if err != nil {
				m = prometheus.NewInvalidMetric(desc, err)
			}
			metrics <- m
		})
	}
}

// gather returns the metrics of a status, in the order of their names.
func gather(status *api.Status) ([]*dto.MetricFamily, error) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(collector{status}); err != nil {
		return nil, fmt.Errorf("describing the metrics: %w", err)
	}
	all, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("collecting the metrics: %w", err)
	}
	return all, nil
}

// Gatherer returns the metrics of a status for client_golang's handlers.
func Gatherer(status *api.Status) prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return gather(status) })
}

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
	all, err := gather(status)
	if err != nil {
		return err
	}
	encoder := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, family := range all {
		if err := encoder.Encode(family); err != nil {
			return fmt.Errorf("writing the metrics: %w", err)
		}
	}
	return nil
}

// Read returns the metrics of a status for programs.
func Read(status *api.Status) (*api.Metrics, error) {
	all, err := gather(status)
	if err != nil {
		return nil, err
	}
	metrics := &api.Metrics{Families: []api.MetricFamily{}}
	for _, from := range all {
		family := api.MetricFamily{Name: from.GetName(), Help: from.GetHelp(), Type: strings.ToLower(from.GetType().String())}
		for _, m := range from.GetMetric() {
			sample := api.MetricSample{Value: m.GetCounter().GetValue() + m.GetGauge().GetValue()}
			for _, label := range m.GetLabel() {
				if sample.Labels == nil {
					sample.Labels = map[string]string{}
				}
				sample.Labels[label.GetName()] = label.GetValue()
			}
			family.Samples = append(family.Samples, sample)
		}
		metrics.Families = append(metrics.Families, family)
	}
	return metrics, nil
}
