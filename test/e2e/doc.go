// Package e2e tests the plugin and the gateway as their users meet them: through
// kubectl, on a real Kubernetes of two nodes (test/cluster), with packet
// captures of what crosses the network between the nodes. "make test-e2e" runs
// it; the tests themselves need the build tag e2e.
package e2e
