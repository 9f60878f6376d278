// Package authority keeps the certificate authority of a cluster: [Init] sets it
// up, [Load] finds it, and a [Rotation] replaces it while gateways run.
//
// The key lies on this machine, in one file together with the certificates (see
// [LoadDir]), so that a crash leaves the old pair or the new pair and never half of
// each. The certificates alone, the trust bundle, are published in the cluster
// (see [PublishBundle]); the key goes there only on request (see [PublishAuthority]).
// Beside the authority lie the roots that rotations have retired: whatever the bundle
// says later, nobody who has that note trusts them again.
package authority
