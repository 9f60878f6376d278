// Package dashboard checks what the examples have for Prometheus and Grafana with their
// own code: the dashboard's queries with Prometheus' parser, and how gateways are found
// with its relabeling and the operator's types. It is a module of its own to keep all
// that out of the plugin's.
package dashboard
