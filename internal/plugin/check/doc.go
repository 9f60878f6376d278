// Package check finds out whether a cluster, a namespace and its pods are ready
// for gateways, and whether running gateways are well. It changes nothing, except
// that the test of the image creates a pod for a moment.
//
// A check is a function of facts about the cluster. Checks share the facts, and each
// is asked for once a round. Checks run concurrently, each with a timeout, and return
// findings: none means that all is well. A finding of a problem has advice, if
// possible one shell command.
package check
