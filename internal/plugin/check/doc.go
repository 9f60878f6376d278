// Package check finds out whether a cluster, a namespace and its pods are ready
// for gateways, and what is wrong with the gateways that run. It changes nothing,
// except that the test of the image runs a pod for a moment.
//
// A check is a function of what was found out about the cluster (facts), which
// checks share and which is asked for once a round. Checks run at the same time,
// each bounded, and answer with findings: none means that all is well. Every
// finding that is not says what to do, if possible as one shell command.
package check
