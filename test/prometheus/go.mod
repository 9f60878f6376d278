// Pins the Prometheus of the end-to-end tests: "make prometheus" builds its command with
// what finds targets in Kubernetes and nothing else of that kind. There is no Go code here,
// so "go mod tidy" would empty it.
module github.com/kubectl-gateway/kubectl-gateway/test/prometheus

go 1.27.3

require github.com/prometheus/prometheus v0.316.0
