// Package signer has a signer of the cluster issue the certificates of gateways, in the place of
// an authority of our own.
//
//	choice.go       which signer, and what it is trusted by
//	trust.go        reads that from the cluster
//	signer.go       the ca.Issuer
//	request.go      asks the signer, and waits for its answer
//	certificate.go  what the answer must hold
//
// A signer's answer is input from the network. What gateways get is a certificate for the key
// that they have made, for the identity and the addresses that the API server has for their pod,
// and for nothing else.
package signer
