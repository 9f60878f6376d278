// Package e2e tests the plugin and the gateway as their users meet them: through
// kubectl, on a real Kubernetes of two nodes (test/cluster), with packet
// captures of what crosses the network between the nodes. "make test-e2e" runs
// it; the tests themselves need the build tag e2e.
//
// Tests run at the same time if nothing of theirs is the whole cluster's: they
// have namespaces of their own, and begin with t.Parallel(). Those that replace the
// authority, stop the API server or watch all namespaces run alone on a cluster, which
// is another one than the others' where both are to run (test/e2e/run).
//
// The plugin's verbs run as its users run them. What tests merely look up, they do by
// the API: a kubectl takes a tenth of a second of processor time.
//
// What must not be noticed happens under traffic (traffic_test.go): the
// application itself makes it, and checks every byte at both ends.
package e2e
