// Pins the Prometheus of the end-to-end tests: "make prometheus" builds its command with
// what finds targets in Kubernetes and nothing else of that kind. There is no Go code here,
// so "go mod tidy" would empty it.
module github.com/kubectl-gateway/kubectl-gateway/test/prometheus

go 1.27.3

require github.com/prometheus/prometheus v0.316.0

require (
	github.com/fxamacker/cbor/v2 v2.9.4 // indirect
	github.com/mdlayher/socket v0.6.1 // indirect
	github.com/prometheus/common v0.74.0 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	go.yaml.in/yaml/v2 v2.4.5 // indirect
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/oauth2 v0.38.0 // indirect
	golang.org/x/sync v0.25.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/term v0.48.0 // indirect
	k8s.io/api v0.37.2 // indirect
	k8s.io/apimachinery v0.37.2 // indirect
	k8s.io/client-go v0.37.2 // indirect
	k8s.io/kube-openapi v0.0.0-20260821135717-be32def86098 // indirect
	k8s.io/utils v0.0.0-20261023123148-ca04ba58ecab // indirect
)
