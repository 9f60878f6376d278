// Package signing has the authority of a cluster answer the requests of a signer's name: the other
// side of package signer.
//
//	rules.go   who may have a certificate
//	pod.go     PodCertificateRequests
//	csr.go     CertificateSigningRequests, which it approves as well
//	trust.go   the ClusterTrustBundle
//	queue.go   whose turn it is
//	server.go  runs it all
//
// What is in a request is input from the network. A certificate says what the API server has of a pod
// at the moment of signing, or of who the API server says has asked, and never what a request says. Several
// servers may run at once: the API server takes the first answer.
package signing
