package api

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
