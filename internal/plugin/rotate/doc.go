// Package rotate renews what gateways that run have been given: their
// certificates ([Rotator]), and the authority behind those ([AuthorityRotator]).
// Gateways go on serving meanwhile, and connections that are open stay as they are.
//
// A gateway makes its new key itself. Who it is says its pod, as the cluster has
// it, and nothing that the gateway sends.
package rotate
