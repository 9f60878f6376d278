// Package dashboard checks examples/grafana-dashboard.json with Prometheus' own parser
// of queries. It is a module of its own to keep that out of the plugin's.
package dashboard
