// Package dashboard checks what there is for Prometheus and Grafana with their own code: the
// dashboards' queries with Prometheus' parser, when alerts fire with its engine, and how gateways
// and watch are found with its relabeling and the operator's types. It is a module of its own to keep all
// that out of the plugin's.
package dashboard
