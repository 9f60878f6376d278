// Package edges finds out who talks to whom, and whether that is encrypted: it asks
// the gateways of pods, joins what the two ends of a connection say of it, gives the
// addresses the names of pods and Services, and shows the result as a table or a
// graph.
//
// Words of gateways are not trusted: a gateway is heard about its own pod alone, and
// what does not say that it is encrypted counts as plaintext.
package edges
