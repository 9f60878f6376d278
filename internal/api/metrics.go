package api

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// MaxMetricSamples bounds the samples of a gateway's metrics. Their number is fixed, and
// far below: no label depends on the traffic.
const MaxMetricSamples = 1000

// Metrics are a gateway's Prometheus metrics, in the order of their names.
type Metrics struct {
	Families []MetricFamily `json:"families"`
}

// MetricFamily is all samples of one name.
type MetricFamily struct {
	Name string `json:"name"`
	Help string `json:"help"`
	// Type is "counter" or "gauge".
	Type    string         `json:"type"`
	Samples []MetricSample `json:"samples"`
}

// MetricSample is a value under a set of labels.
type MetricSample struct {
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
}

// Exposition returns the metrics in Prometheus' text format 0.0.4.
func (m *Metrics) Exposition() string {
	escapeHelp := strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel := strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
	var b strings.Builder
	for _, f := range m.Families {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.Name, escapeHelp.Replace(f.Help), f.Name, f.Type)
		for _, s := range f.Samples {
			var labels []string
			for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
				labels = append(labels, name+`="`+escapeLabel.Replace(s.Labels[name])+`"`)
			}
			b.WriteString(f.Name)
			if len(labels) > 0 {
				b.WriteString("{" + strings.Join(labels, ",") + "}")
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	return b.String()
}
