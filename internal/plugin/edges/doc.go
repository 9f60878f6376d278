// Package edges finds out which pods talk to each other, and whether they do so
// encrypted. It asks the gateways of pods, joins what both ends of a connection report,
// finds the pods and Services that have the addresses, and shows the result as a table
// or a graph.
//
// Reports of gateways are not trusted. A gateway reports on its own pod alone, and a
// connection that is not reported as encrypted counts as plaintext.
package edges
