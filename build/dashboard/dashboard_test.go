package dashboard

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// The metrics files are what a gateway and a watch print that have a value for every metric. The
// tests of the packages that make them keep them true.
const (
	gatewayMetrics = "../../internal/gateway/metrics/testdata/metrics.prom"
	watchMetrics   = "../../internal/plugin/watch/testdata/metrics.prom"
)

// targetLabels are the labels that are not the gateway's.
var targetLabels = []string{"namespace", "pod"}

// metric is what can be asked of one: the values of its labels, and whether it counts.
type metric struct {
	labels  map[string][]string
	counter bool
}

func readMetrics(t *testing.T, file string) map[string]metric {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	textParser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := textParser.TextToMetricFamilies(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]metric{}
	for name, family := range families {
		m := metric{labels: map[string][]string{}, counter: family.GetType().String() == "COUNTER"}
		for _, sample := range family.GetMetric() {
			for _, l := range sample.GetLabel() {
				m.labels[l.GetName()] = append(m.labels[l.GetName()], l.GetValue())
			}
		}
		all[name] = m
	}
	return all
}

// checkQuery returns what is wrong with a query, and the names of its metrics.
func checkQuery(query string, all map[string]metric) (names []string, err error) {
	// Grafana replaces its variables before Prometheus sees a query.
	query = strings.NewReplacer("$__rate_interval", "5m", "$__range", "6h").Replace(query)
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, l := range targetLabels {
		known[l] = true
	}
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var groupings []string
	parser.Inspect(expression, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			groupings = append(groupings, n.Grouping...)
		case *parser.VectorSelector:
			m, ok := all[n.Name]
			if !ok {
				problem("there is no metric %q", n.Name)
				return nil
			}
			names = append(names, n.Name)
			for l := range m.labels {
				known[l] = true
			}
			for _, matcher := range n.LabelMatchers {
				values, ok := m.labels[matcher.Name]
				switch {
				// "__name__" is the name of the metric itself.
				case matcher.Name == "__name__" || slices.Contains(targetLabels, matcher.Name):
				case !ok:
					problem("%s has no label %q", n.Name, matcher.Name)
				case !slices.ContainsFunc(values, matcher.Matches):
					problem("%s is never so: %s", n.Name, matcher)
				}
			}
			rated := slices.ContainsFunc(path, func(p parser.Node) bool {
				call, ok := p.(*parser.Call)
				return ok && (call.Func.Name == "rate" || call.Func.Name == "increase")
			})
			if rated != m.counter {
				problem("%s is a counter: %v, but is used as one: %v", n.Name, m.counter, rated)
			}
		}
		return nil
	})
	for _, l := range groupings {
		if !known[l] {
			problem("no metric has the label %q of a grouping", l)
		}
	}
	if len(problems) > 0 {
		err = fmt.Errorf("%s", strings.Join(problems, "; "))
	}
	return names, err
}

// TestDashboard parses every query, and shows that every metric and label of it is one
// of the program's, and that no metric is forgotten.
func TestDashboard(t *testing.T) {
	t.Run("gateways", func(t *testing.T) {
		checkDashboard(t, "../../examples/grafana-dashboard.json", gatewayMetrics,
			// When things were started is of use to alerts more than to an eye.
			"kube_gateway_start_time_seconds", "kube_gateway_worker_start_time_seconds",
			"kube_gateway_certificate_not_before_timestamp_seconds", "kube_gateway_existing_connections_reset_total")
	})
	t.Run("watch", func(t *testing.T) { checkDashboard(t, "../../examples/grafana-watch.json", watchMetrics) })
}

// checkDashboard checks the dashboard in file, which need not show the metrics that are left out.
func checkDashboard(t *testing.T, file, metricsFile string, without ...string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := readMetrics(t, metricsFile)
	if len(all) == 0 || len(dashboard.Panels) == 0 {
		t.Fatalf("%d metrics and %d panels", len(all), len(dashboard.Panels))
	}
	used, ids := map[string]bool{}, map[int]bool{}
	for _, name := range without {
		used[name] = true
	}
	for _, p := range dashboard.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || len(p.Targets) == 0 {
			t.Errorf("panel %q: %+v", p.Title, p)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			names, err := checkQuery(target.Expr, all)
			if err != nil {
				t.Errorf("panel %q: %s: %v", p.Title, target.Expr, err)
			}
			for _, name := range names {
				used[name] = true
			}
		}
	}
	for name := range all {
		if !used[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
	for _, v := range dashboard.Templating.List {
		query, ok := strings.CutPrefix(v.Definition, "label_values(")
		if !ok {
			continue
		}
		query, label, ok := strings.Cut(strings.TrimSuffix(query, ")"), ", ")
		if _, err := checkQuery(query, all); err != nil || !ok || !slices.Contains(targetLabels, label) {
			t.Errorf("variable %s: %s: %v", v.Name, v.Definition, err)
		}
	}
}

// TestCheckQuery: a query that cannot work is found.
func TestCheckQuery(t *testing.T) {
	all := readMetrics(t, gatewayMetrics)
	for query, want := range map[string]string{
		`sum(kube_gateway_active_connections`:                                  "unclosed",
		`kube_gateway_nonesuch`:                                                "no metric",
		`kube_gateway_active_connections{side="inbound"}`:                      "no label",
		`kube_gateway_active_connections{direction="up"}`:                      "never so",
		`sum by (result) (kube_gateway_active_connections)`:                    "of a grouping",
		`kube_gateway_connections_total`:                                       "is a counter",
		`rate(kube_gateway_active_connections[5m])`:                            "is a counter",
		`sum by (direction) (rate(kube_gateway_connections_total[5m]))`:        "",
		`kube_gateway_active_connections{direction="inbound",pod=~"$pod"}`:     "",
		`sum(increase(kube_gateway_connections_total{result!="refused"}[1h]))`: "",
	} {
		_, err := checkQuery(query, all)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", query, err)
		}
	}
}
