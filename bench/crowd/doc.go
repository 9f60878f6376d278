// Command crowd measures what the plugin costs with many pods: a real API server and etcd, and
// in place of nodes one process that is the kubelet of all of them and answers for the gateways
// in their pods. What the plugin does is all real: its patches, its Secrets, its watches, and its
// commands in containers, which the API server brings to a kubelet over TLS.
//
//	make bench-crowd                       1,000 pods, some minutes
//	go run ./bench/crowd -pods 20          after make build and make cluster-tool
//	go run ./bench/crowd -life 10m         how renewals spread, a quarter of an hour
//
// Everything listens on loopback and ends with the program.
//
// # Reading order
//
// main.go has the flags and what is measured in which order; server.go starts the API server;
// kubelets.go is the nodes, and gateways.go the gateways; measure.go
// counts, and renewals.go counts over time.
package main
