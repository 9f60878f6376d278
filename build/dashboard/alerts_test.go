package dashboard

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const alertsFile = "../../install/chart/files/alerts.yaml"

// readAlerts reads the alerts as Prometheus does, by their names.
func readAlerts(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(alertsFile, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	all := map[string]rulefmt.Rule{}
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" || all[rule.Alert].Alert != "" {
				t.Errorf("%+v is no alert, or there twice", rule)
			}
			all[rule.Alert] = rule
		}
	}
	return all
}

// TestAlerts: every alert is about metrics that there are, and says how bad it is and what it is about.
func TestAlerts(t *testing.T) {
	all := readMetrics(t, watchMetrics)
	for name, rule := range readAlerts(t) {
		if _, err := checkQuery(rule.Expr, all); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := rule.Labels["severity"]; s != "warning" && s != "critical" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" || rule.For == 0 {
			t.Errorf("%+v", rule)
		}
	}
}

// hour is how long the series of TestAlertsFire go on, with a sample a minute.
const hour = 60 * time.Minute

// fires reports whether an alert fires at the end of an hour in which there are the series of metrics.
func fires(t *testing.T, rule rulefmt.Rule, series string) bool {
	t.Helper()
	var script strings.Builder
	script.WriteString("load 1m\n")
	for line := range strings.Lines(series) {
		if line = strings.TrimSpace(line); line != "" {
			script.WriteString("  kubectl_gateway_watch_" + line + "\n")
		}
	}
	storage := promqltest.LoadedStorage(t, script.String())
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	// It has to be so for all of the time.
	for at := hour - time.Duration(rule.For); at <= hour; at += time.Minute {
		query, err := engine.NewInstantQuery(context.Background(), storage, promql.NewPrometheusQueryOpts(false, 0, nil), rule.Expr, time.Unix(0, 0).Add(at))
		if err != nil {
			t.Fatal(err)
		}
		result, err := query.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatal(err)
		}
		if len(result) == 0 {
			return false
		}
		query.Close()
	}
	return true
}

// TestAlertsFire: each alert fires for what it is about, and not where that is over, short or somewhere else.
func TestAlertsFire(t *testing.T) {
	cases := map[string]struct{ fires, quiet []string }{
		"KubeGatewayWatchMissing": {
			[]string{"", `leader{pod="a"} 0x60`, `leader{pod="a"} 1x49 0x11`},
			[]string{"leader{pod=\"a\"} 0x60\nleader{pod=\"b\"} 1x60", `leader{pod="a"} 1x52 0x8`},
		},
		"KubeGatewayWatchDisconnected": {[]string{"connected 0x60"}, []string{"", "connected 1x60", "connected 1x52 0x8"}},
		"KubeGatewayWatchStale":        {[]string{"last_sync_timestamp_seconds 0x60"}, []string{"", "last_sync_timestamp_seconds 0+60x60", "last_sync_timestamp_seconds 1500x60"}},
		"KubeGatewayWatchBusy":         {[]string{"queue_length 5x60"}, []string{"", "queue_length 0x60", "queue_length 5x30 0 5x29"}},
		"KubeGatewayWatchFailing": {
			[]string{`pods{state="failed"} 2x60`, "pods{pod=\"a\",state=\"failed\"} 1x50 _x10\npods{pod=\"b\",state=\"failed\"} _x50 1x10"},
			[]string{`pods{state="failed"} 0x60`, `pods{state="working"} 2x60`, `pods{state="failed"} 0x50 1x10`},
		},
		"KubeGatewayWatchForbidden":      {[]string{`failures_total{reason="forbidden"} 0+1x60`}, []string{`failures_total{reason="forbidden"} 7x60`, `failures_total{reason="other"} 0+1x60`}},
		"KubeGatewayAuthorityMissing":    {[]string{`failures_total{reason="authority"} 0+1x60`}, []string{`failures_total{reason="authority"} 7x60`, `failures_total{reason="other"} 0+1x60`}},
		"KubeGatewayCertificatesExpired": {[]string{`certificates{left="expired"} 1x60`}, []string{`certificates{left="expired"} 0x60`, `certificates{left="1h"} 3x60`}},
		"KubeGatewayRenewalsOverdue":     {[]string{`renewals_overdue 1x60`}, []string{`renewals_overdue 0x60`, `renewals_overdue 1x40 0 1x19`}},
		"KubeGatewayPermissive":          {[]string{`drift{of="mode"} 1x60`}, []string{`drift{of="mode"} 0x60`, `drift{of="version"} 4x60`}},
		"KubeGatewayCoverageBehind":      {[]string{`drift{of="coverage"} 1x60`}, []string{`drift{of="coverage"} 0x60`, `drift{of="mode"} 4x60`}},
		"KubeGatewayUpgradesHalted":      {[]string{`upgrades_halted 1x60`}, []string{`upgrades_halted 0x60`}},
	}
	alerts := readAlerts(t)
	for name, rule := range alerts {
		c, ok := cases[name]
		if !ok {
			t.Errorf("%s is not tested", name)
		}
		for _, series := range c.fires {
			if !fires(t, rule, series) {
				t.Errorf("%s does not fire:\n%s", name, series)
			}
		}
		for _, series := range c.quiet {
			if fires(t, rule, series) {
				t.Errorf("%s fires:\n%s", name, series)
			}
		}
	}
	for name := range cases {
		if alerts[name].Alert == "" {
			t.Errorf("there is no alert %s", name)
		}
	}
}
