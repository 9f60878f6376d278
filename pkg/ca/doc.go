// Package ca is the authority that vouches for gateways: it makes or imports a
// certificate authority, keeps its key, publishes what others must trust and
// issues the certificates of pods.
//
// An [Authority] in memory is always a working one: its key belongs to its
// certificate, its certificates form a chain up to a self-signed root, and a
// trial certificate issued by it passed verification. Everything that reads an
// authority from outside (file, Secret, --from-cert) goes through that check.
//
// The key lies in one file together with the certificates (see [LoadDir]), so
// that a crash leaves the old pair or the new pair and never half of each. The
// certificates alone, the trust bundle, are published in the cluster (see
// [PublishBundle]); the key goes there only on request (see [PublishAuthority]).
package ca
